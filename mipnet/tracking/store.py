"""Where MLflow's records and models are; imports nothing that is slow to import."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from mipnet.console import say
from mipnet.host import network_file_system
from mipnet.object_stores import s3_endpoint
from mipnet.storage import Folder, default_storage

SQLITE_PREFIX = "sqlite:///"

logger = logging.getLogger(__name__)


def tracking_uri(storage: Folder) -> str:
    """MLFLOW_TRACKING_URI, else an SQLite file in the storage, or in the default one for object stores."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return uri
    home = storage if storage.is_local else default_storage()
    return f"{SQLITE_PREFIX}{home.local_path / 'mlflow.db'}"


def prepare_mlflow(storage: Folder) -> str:
    """Point this process's MLflow at the store, with short timeouts and no output; returns its URI."""
    uri = tracking_uri(storage)
    settings = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    import mlflow

    for name in ("mlflow", "alembic", "sqlalchemy"):  # after the import, which sets the levels
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they log as an error they raise as well
    if uri.startswith(SQLITE_PREFIX):
        create_database(Path(uri.removeprefix(SQLITE_PREFIX).partition("?")[0]))
        os.environ.update(artifact_settings(storage))
    from_environment = "MLFLOW_TRACKING_URI" in os.environ
    mlflow.set_tracking_uri(uri)
    if not from_environment:  # set_tracking_uri sets it for subprocesses; another storage has another store
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    return uri


def artifact_settings(storage: Folder) -> dict[str, str]:
    """Environment by which MLflow reaches artifacts in the storage, beside its own SQLite file."""
    endpoint = s3_endpoint(storage.uri)
    return {"MLFLOW_S3_ENDPOINT_URL": endpoint} if endpoint else {}


def create_database(path: Path) -> None:
    """Create MLflow's SQLite file, whole or not at all, unless there is one.

    MLflow creates it in dozens of steps, and cannot go on where a full disk or a kill has ended them.
    """
    if path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as scratch:
        new = Path(scratch) / path.name
        MlflowClient(f"{SQLITE_PREFIX}{new}").search_experiments(max_results=1)
        try:
            os.link(new, path)  # not a rename, which would replace another process's
        except FileExistsError:
            logger.info("another process has created %s", path)
        except OSError:  # a file system without hard links
            new.replace(path)


def warn_of_tracking_store(storage: Folder) -> None:
    """Say so if MLflow's SQLite file is on this machine alone, or where SQLite cannot lock it."""
    uri = tracking_uri(storage)
    if not uri.startswith(SQLITE_PREFIX):
        return
    path, hint = uri.removeprefix(SQLITE_PREFIX), "set MLFLOW_TRACKING_URI to a server"
    if not storage.is_local:
        say(f"warning: MLflow's records and models are on this machine only ({path}); {hint}")
    elif kind := network_file_system(path):
        say(f"warning: MLflow's SQLite file is on {kind}, where processes can damage it ({path}); {hint}")
