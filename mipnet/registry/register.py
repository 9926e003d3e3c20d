"""Make a trained model a version of a registered model."""

from __future__ import annotations

import importlib.metadata
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from mipnet.registry.store import CANDIDATE
from mipnet.storage import Folder
from mipnet.tracking.tracker import prepare_mlflow

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
    """What the registered model takes and gives: ``mipnet.registry.served``."""
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    # Lists of doubles would refuse boxes of whole numbers, and batches of which some rows have no boxes.
    boxes = ColSpec(AnyType(), "boxes", required=False)
    pose = {"keypoints": [0.0], "score": 0.0, "instance": 0, "box": [0.0], "image_id": 0, "category_id": 0}
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "image"), boxes]),
        outputs=infer_signature(model_output=[[pose]]).outputs,
    )


@contextmanager
def _silence() -> Iterator[None]:
    """MLflow prints its progress to stderr and warns about examples that a signature makes needless."""
    with redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
