"""The model registry: versions of a registered model, found by alias."""

from __future__ import annotations

import http.client
import importlib.metadata
import io
import json
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from mipnet.config import Config, from_dict
from mipnet.errors import ConfigError, UserError, nearest, reason_of
from mipnet.storage import Folder
from mipnet.tracking.tracker import prepare_mlflow

CANDIDATE = "candidate"
SECONDS_TO_ANSWER = 10.0
ARTIFACT = "network"
"""Name of the model folder among the registered model's artifacts."""
PACKAGE = Path(__file__).parents[1]
"""Our code, of which each version carries a copy: it is on no package index that a server could ask."""
PREDICTOR_PACKAGES = (
    "numpy",
    "opencv-python-headless",
    "platformdirs",
    "pyarrow",
    "pycocotools",
    "pydantic",
    "pyyaml",
    "safetensors",
    "torch",
)
"""What ``mipnet.load_predictor`` imports from others."""


def register_model(
    storage: Folder,
    run_id: str,
    model: Path,
    name: str,
    step: int = 0,
    about: str = "",
    tags: Mapping[str, str] | None = None,
) -> str:
    """Make a model folder the next version of a registered model, alias ``candidate``.

    A run registers once: if it has a version already (a restart came in between), that one is kept.

    Args:
        storage: tells which tracking store, see ``tracking_uri``.
        run_id: the MLflow run that trained it.
        model: local folder with weights.safetensors and model.json.
        name: of the registered model.
        step: of the run at which its results are logged; MLflow shows them with the model.
        about: the version's description, Markdown.
        tags: for the version.

    Returns:
        The version.
    """
    prepare_mlflow(storage)
    import mlflow
    from mlflow import MlflowClient

    client = MlflowClient()
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    if versions:
        version = max(versions, key=lambda v: int(v.version)).version
    else:
        with _silence(), mlflow.start_run(run_id=run_id):
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("served.py")),
                artifacts={ARTIFACT: str(model)},
                registered_model_name=name,
                signature=_signature(),
                step=step,
                code_paths=[str(PACKAGE)],
                pip_requirements=_requirements(),
                await_registration_for=120,
            )
        version = info.registered_model_version
    if about:
        client.update_model_version(name, version, about)
    for key, value in (tags or {}).items():
        client.set_model_version_tag(name, version, key, value)
    _link(client, run_id, name, str(version))
    client.set_registered_model_alias(name, CANDIDATE, version)
    return str(version)


def _requirements() -> list[str]:
    """What a server of the model has to install, in the versions that are installed here."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in PREDICTOR_PACKAGES]


def _link(client: Any, run_id: str, name: str, version: str) -> None:
    """Lead from the run, and from the search that it was a trial of, to the version, and back."""
    tags = client.get_run(run_id).data.tags
    for run in filter(None, (run_id, tags.get("mlflow.parentRunId"))):
        client.set_tag(run, "registered", f"models:/{name}/{version}")
    for tag in ("search", "mlflow.source.git.commit"):
        if tag in tags:
            client.set_model_version_tag(name, version, tag, tags[tag])


def _signature() -> Any:
    """What the registered model takes and gives: ``mipnet.tracking.served``."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Array, Object, Property

    numbers = Array(DataType.double)
    pose = Object(
        [
            Property("keypoints", numbers),
            Property("score", DataType.double),
            Property("instance", DataType.long),
            Property("box", numbers),
            Property("image_id", DataType.long),
            Property("category_id", DataType.long),
        ]
    )
    # Lists of doubles would refuse boxes of whole numbers, and batches of which some rows have no boxes.
    boxes = ColSpec(AnyType(), "boxes", required=False)
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "image"), boxes]),
        outputs=Schema([ColSpec(Array(pose))]),
    )


@contextmanager
def _silence() -> Iterator[None]:
    """MLflow prints its progress to stderr and warns about examples that a signature makes needless."""
    with redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def resolve_model(uri: str, storage: Folder) -> Folder:
    """The folder with weights.safetensors for a model URI, a run's folder, or a model folder.

    Args:
        uri: models:/NAME@ALIAS, models:/NAME/VERSION, or a path or URI of a folder.
        storage: tells which registry, and where runs lie: the name of a run is a URI too.

    Raises:
        UserError: there is no such model.
    """
    if uri.startswith(("models:", "runs:")):
        return _network(_download(uri, storage), uri)
    places = [Folder.of(uri)]
    if "/" not in uri:
        places.append(storage.join("runs").join(uri))
    for place in places:
        for folder in (place, place.join("model")):
            if folder.exists("model.json"):
                return folder
    runs = storage.join("runs").names()
    if uri in runs:
        raise UserError(f"run {uri} has no weights yet", "give its mipnet train command again")
    close = nearest(uri, runs) if "/" not in uri else ""
    mend = "give models:/NAME@ALIAS, the name of a run, or a folder with model.json"
    raise UserError(f"no model at {uri!r}", f"{close} Else {mend}" if "did you mean" in close else mend)


def model_config(model: Folder) -> Config:
    """The configuration that a model was trained with.

    Raises:
        UserError: the folder does not tell.
    """
    where = model.path("model.json")
    try:
        return from_dict(json.loads(model.read("model.json"))["extra"]["config"])
    except ConfigError as error:
        raise UserError(f"{where} is of another version of mipnet ({error})") from None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise UserError(f"{where} does not hold the configuration of a model", "train or import it") from None


def _network(logged: Path, uri: str) -> Folder:
    """The model folder among the files of a logged model."""
    import yaml

    try:
        flavour = yaml.safe_load((logged / "MLmodel").read_text())["flavors"]["python_function"]
        return Folder.of(logged / flavour["artifacts"][ARTIFACT]["path"])
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        raise UserError(
            f"{uri} was not registered by mipnet", "choose a version that mipnet train made"
        ) from None


def _download(uri: str, storage: Folder) -> Path:
    where = prepare_mlflow(storage)
    check_server(where, ", or name the model's run or folder, which need no server")
    import mlflow

    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except Exception as error:  # the store, its database or the artifacts' store: each has errors of its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        mend = "give models:/NAME@ALIAS or models:/NAME/VERSION of one that mipnet ui shows"
        raise UserError(f"no model {uri} at {where} ({reason})", mend) from None


def check_server(where: str, otherwise: str = "") -> None:
    """MLflow's own client tries a dead server for long, and says so at length.

    Args:
        where: the tracking URI; only a server is asked.
        otherwise: what to do without one, after the advice to check the URI.

    Raises:
        UserError: it does not answer.
    """
    if not where.startswith(("http://", "https://")):
        return
    parts = urllib.parse.urlsplit(where)
    where = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # without a password
    try:
        urllib.request.urlopen(f"{where.rstrip('/')}/health", timeout=SECONDS_TO_ANSWER).close()
    except urllib.error.HTTPError:
        return  # somebody answers, if only to say no
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        reason = reason_of(reason) if isinstance(reason, OSError) else str(reason)
        raise UserError(
            f"no MLflow server answers at {where} ({reason})",
            f"check MLFLOW_TRACKING_URI{otherwise}",
        ) from None
