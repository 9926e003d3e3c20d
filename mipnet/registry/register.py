"""Register a trained model folder, with our code, as a new version of a registered model."""

from __future__ import annotations

import importlib.metadata
import io
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, redirect_stderr
from pathlib import Path
from typing import Any
from warnings import catch_warnings

from mipnet.registry.store import CANDIDATE
from mipnet.storage import Folder
from mipnet.tracking.store import prepare_mlflow

NETWORK_ARTIFACT = "network"
"""Name of the model folder among the registered model's artifacts."""
PACKAGE_FOLDER = Path(__file__).parents[1]
"""Our code; each version carries a copy, because it is on no package index."""
PREDICTOR_PACKAGES = (
    "numpy", "opencv-python-headless", "pillow", "platformdirs", "pyarrow", "pycocotools", "pydantic",
    "pyyaml", "safetensors", "torch",
)  # fmt: skip
"""Distributions that ``mipnet.load_predictor`` imports."""

logger = logging.getLogger(__name__)


def register_model(
    storage: Folder,
    run_id: str,
    model: Path,
    name: str,
    *,
    step: int = 0,
    earlier: Collection[str] = (),
    describe: Callable[[str], str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Register a model folder as the next version of a registered model and set the alias ``candidate``.

    A model is registered once: if its run has a version already (after a restart), that is reused.

    Args:
        storage: tells which tracking store, see ``tracking_uri``.
        run_id: the MLflow run that trained it.
        model: local folder with weights.safetensors and model.json.
        name: of the registered model.
        step: step of the run's logged results, which MLflow shows with the model.
        earlier: versions of the run's earlier models: it ended early, was registered, and trained on.
        describe: makes the version's description, Markdown of at most 5000 characters, of its number.
        tags: of the version.

    Returns:
        the number of the version.
    """
    prepare_mlflow(storage)
    import mlflow
    from mlflow import MlflowClient

    client = MlflowClient()
    found = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    if versions := [version for version in found if str(version.version) not in earlier]:
        version = max(versions, key=lambda v: int(v.version)).version
        logger.info("run %s has registered %s version %s before", run_id, name, version)
    else:
        # MLflow's progress, and its warning about a missing input example.
        with redirect_stderr(io.StringIO()), catch_warnings(action="ignore"), ExitStack() as stack:
            mlflow.start_run(run_id=run_id)
            stack.callback(mlflow.end_run)  # as FINISHED, also if its model cannot be registered
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("served.py")),
                artifacts={NETWORK_ARTIFACT: str(model)},
                registered_model_name=name,
                signature=_signature(),
                step=step,
                code_paths=[str(PACKAGE_FOLDER)],
                pip_requirements=_requirements(),
                await_registration_for=120,
            )
        version = info.registered_model_version
    if describe:
        client.update_model_version(name, version, describe(str(version)))
    for key, value in (tags or {}).items():
        client.set_model_version_tag(name, version, key, value)
    _link(client, run_id, name, str(version))
    client.set_registered_model_alias(name, CANDIDATE, version)
    logger.info("%s version %s of run %s is the candidate", name, version, run_id)
    return str(version)


def _requirements() -> list[str]:
    """Pip requirements of a server of the model, pinned to the versions installed here."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in PREDICTOR_PACKAGES]


def _link(client: Any, run_id: str, name: str, version: str) -> None:
    """Cross-reference the run, its search if it was a trial, and the version by tags."""
    tags = client.get_run(run_id).data.tags
    for run in filter(None, (run_id, tags.get("mlflow.parentRunId"))):
        client.set_tag(run, "registered", f"models:/{name}/{version}")
    for tag in ("search", "mlflow.source.git.commit"):
        if tag in tags:
            client.set_model_version_tag(name, version, tag, tags[tag])


def _signature() -> Any:
    """Signature of ``mipnet.registry.served``: inputs and outputs."""
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    # Not (lists of) doubles: they would reject integers, and batches in which some rows have none.
    boxes = ColSpec(AnyType(), "boxes", required=False)
    min_score = ColSpec(AnyType(), "min_score", required=False)
    pose = {"keypoints": [0.0], "score": 0.0, "instance": 0, "box": [0.0], "image_id": 0, "category_id": 0}
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "image"), boxes, min_score]),
        outputs=infer_signature(model_output=[[pose]]).outputs,
    )
