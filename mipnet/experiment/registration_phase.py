"""The registration phase of a run: its best weights become a version of the registered model."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from mipnet.console import say
from mipnet.errors import UserError
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.experiment.evaluation_phase import code_block
from mipnet.registry.register import register_model
from mipnet.run_folder import MODEL_FOLDER, RESULTS_FOLDER, Run
from mipnet.storage import Folder

logger = logging.getLogger(__name__)

STORE_PACKAGES = ("mlflow", "sqlalchemy", "boto3", "botocore", "google", "azure")
"""Packages that speak to MLflow's server, its database and the stores of artifacts."""


def register_phase(run: Run, storage: Folder) -> bool:
    """Register the best weights as the new candidate; False if the registry does not answer."""
    if "version" in run.state:
        return True
    if "mlflow_run" not in run.state:
        say("not registered: MLflow did not answer; the same command tries again")
        return False

    trained = run.state["trained"]
    best = trained["best"]
    about = f"Trained by the run {run.name}.\n\n" + code_block(
        run.folder.read(f"{RESULTS_FOLDER}/table.txt").decode()
    )
    tags = {"run": run.name, "preset": run.config.preset, SELECTION_METRIC: f"{best[SELECTION_METRIC]:.4f}"}
    name, mlflow_run = run.config.tracking.model_name, run.state["mlflow_run"]
    try:
        with TemporaryDirectory() as scratch:
            model = run.folder.join(MODEL_FOLDER).download(Path(scratch))
            version = register_model(
                storage, mlflow_run, model, name, step=trained["steps"], description=about, tags=tags
            )
    except Exception as error:
        if not is_external_failure(error):
            raise
        # Not raised: the trained model is safe in the run's folder.
        logger.warning("the registry refused the model", exc_info=True)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        say(f"not registered ({reason}); the same command tries again")
        return False
    run.note(version=version)
    return True


def is_external_failure(error: Exception) -> bool:
    """Whether a server, a store or a disk failed, not this code; each client has own errors."""
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | UserError) or package in STORE_PACKAGES
