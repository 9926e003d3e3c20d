"""Resolve a model URI, run name or path to a model folder; only registered models need MLflow."""

from __future__ import annotations

import json
import logging
import shlex
from pathlib import Path

from mipnet.config import Config, from_dict
from mipnet.errors import ConfigError, UserError, first_line, suggest
from mipnet.evaluation.operating_point import OperatingPoint, operating_point_of
from mipnet.storage import Folder

logger = logging.getLogger(__name__)


def resolve_model(uri: str, storage: Folder) -> Folder:
    """The folder with weights.safetensors for a model URI, a run's folder, or a model folder.

    Args:
        uri: models:/NAME@ALIAS, models:/NAME/VERSION, or a path or URI of a folder.
        storage: of the runs and the registry; ``uri`` may also be the name of a run.

    Raises:
        UserError: there is no such model.
    """
    if uri.startswith(("models:", "runs:")):
        return _registered(uri, storage)
    candidates = [Folder.of(uri)]
    if "/" not in uri:
        candidates.append(storage.join("runs").join(uri))
    for candidate in candidates:
        for folder in (candidate, candidate.join("model")):
            if folder.exists("model.json"):
                return folder
    if "://" not in uri and Path(uri).expanduser().is_file():
        hint = f"mipnet models import {shlex.quote(uri)} --out FOLDER makes one"
        raise UserError(f"{uri} is a file, not a model", hint)
    runs = storage.join("runs").names()
    if uri in runs:
        raise UserError(f"run {uri} has no weights yet", "give its mipnet train command again")
    close = suggest(uri, runs) if "/" not in uri else ""
    hint = "give models:/NAME@ALIAS, the name of a run, or a folder with model.json"
    raise UserError(f"no model at {uri!r}", f"{close} Else {hint}" if "did you mean" in close else hint)


def model_config(model: Folder) -> Config:
    """The training configuration of a model.

    Raises:
        UserError: the folder holds none, or one of another version.
    """
    where = model.path("model.json")
    try:
        return from_dict(json.loads(model.read("model.json"))["extra"]["config"])
    except ConfigError as error:
        raise UserError(f"{where} is of another version of mipnet ({error})") from None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise UserError(f"{where} does not hold the configuration of a model", "train or import it") from None


def model_operating_point(model: Folder) -> OperatingPoint | None:
    """The operating point of a model; None if it has none.

    Raises:
        UserError: the folder holds no model, or its operating point is broken.
    """
    where = model.path("model.json")
    try:
        extra = json.loads(model.read("model.json"))["extra"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise UserError(f"{where} does not describe a model", "train or import it") from None
    return operating_point_of(extra, where)


def _registered(uri: str, storage: Folder) -> Folder:
    """Download a logged model; returns the local model folder in it."""
    from mipnet.registry.store import check_server_answers, without_password
    from mipnet.tracking.store import prepare_mlflow

    where = prepare_mlflow(storage)
    check_server_answers(where, ", or name the model's run or folder, which need no server")
    import mlflow

    try:
        logged = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except Exception as error:  # each tracking, database and artifact store has its own errors
        logger.info("cannot download %s", uri, exc_info=True)
        hint = "give models:/NAME@ALIAS or models:/NAME/VERSION of one that mipnet ui shows"
        raise UserError(f"no model {uri} at {without_password(where)} ({first_line(error)})", hint) from None
    found = next(logged.rglob("model.json"), None)
    if found is None:
        raise UserError(f"{uri} was not registered by mipnet", "choose a version that mipnet train made")
    return Folder.of(found.parent)
