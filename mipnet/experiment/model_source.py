"""The trained model that a command is given."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mipnet.config import Config
from mipnet.config.schema import ResourcesConfig
from mipnet.errors import UserError
from mipnet.storage import Folder


def checked_model(uri: str, storage: Folder) -> tuple[Folder, Config]:
    """A model's folder and configuration, after loading it once, so that a broken model is found at once.

    The resources of its configuration are those of the machine that trained it: they become the defaults.

    Raises:
        UserError: there is no such model, or it cannot be used.
    """
    from mipnet.models.weights import load_model
    from mipnet.registry.resolve import model_config, resolve_model

    model = resolve_model(uri, storage)
    config = replace(model_config(model), resources=ResourcesConfig())
    try:
        with TemporaryDirectory() as scratch:
            load_model(model.download(Path(scratch)))
    except UserError as error:
        raise UserError(error.what, error.hint or "copy the model again, or choose another") from None
    return copy_to_storage(model, storage) if uri.startswith(("models:", "runs:")) else model, config


def copy_to_storage(model: Folder, storage: Folder) -> Folder:
    """Copy a model that an MLflow server sent to this machine into the storage, where every node sees it."""
    if not model.is_local or model.uri.startswith(storage.uri.rstrip("/") + "/"):
        return model
    files = {name: model.read(name) for name in ("weights.safetensors", "model.json")}
    copy = storage.join(f"registered/{hashlib.sha256(b''.join(files.values())).hexdigest()[:16]}")
    if not copy.exists("model.json"):
        for name, content in files.items():  # model.json last: it marks the copy as complete
            copy.write(name, content)
    return copy
