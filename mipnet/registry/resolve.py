"""From what a person calls a model to the folder of its weights; only registered ones need MLflow."""

from __future__ import annotations

import json
from pathlib import Path

from mipnet.config import Config, from_dict
from mipnet.errors import ConfigError, UserError, first_line, nearest
from mipnet.storage import Folder


def resolve_model(uri: str, storage: Folder) -> Folder:
    """The folder with weights.safetensors for a model URI, a run's folder, or a model folder.

    Args:
        uri: models:/NAME@ALIAS, models:/NAME/VERSION, or a path or URI of a folder.
        storage: tells which registry, and where runs lie: the name of a run is a URI too.

    Raises:
        UserError: there is no such model.
    """
    if uri.startswith(("models:", "runs:")):
        return _registered(uri, storage)
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


def _registered(uri: str, storage: Folder) -> Folder:
    """A local copy of the model folder that a logged model holds."""
    from mipnet.registry.store import check_server, shown
    from mipnet.tracking.tracker import prepare_mlflow

    where = prepare_mlflow(storage)
    check_server(where, ", or name the model's run or folder, which need no server")
    import mlflow

    try:
        logged = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except Exception as error:  # the store, its database or the artifacts' store: each has errors of its own
        mend = "give models:/NAME@ALIAS or models:/NAME/VERSION of one that mipnet ui shows"
        raise UserError(f"no model {uri} at {shown(where)} ({first_line(error)})", mend) from None
    found = next(logged.rglob("model.json"), None)
    if found is None:
        raise UserError(f"{uri} was not registered by mipnet", "choose a version that mipnet train made")
    return Folder.of(found.parent)
