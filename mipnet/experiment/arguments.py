"""What a command's flags name, checked before the work begins: its model, and where it writes to."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mipnet.config import Config
from mipnet.config.schema import ResourcesConfig
from mipnet.errors import UserError, from_os_error
from mipnet.storage import Folder, readable_storage


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


def writable_storage(uri: str) -> Folder:
    """The storage of ``--storage``, after a test write.

    Raises:
        UserError: it cannot be written to.
    """
    storage = readable_storage(uri)
    storage.write(".writable", "")
    return storage


def writable_folder(where: str) -> Folder:
    """The folder of ``--out``, after a test write.

    Raises:
        UserError: it cannot be written to.
    """
    folder = Folder.of(where)
    try:
        folder.write(".writable", "")
        folder.remove(".writable")
    except UserError as error:
        raise UserError(error.what, error.hint.replace("--storage", "--out")) from None
    return folder


def check_json_writable(path: str) -> None:
    """Check that the file of ``--json``, if one is named, can be written; its folder is made, an old file
    stays as it is.

    Raises:
        UserError: it cannot be written.
    """
    if not path:
        return
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new = not file.exists()
        file.open("a").close()
        if new:
            file.unlink()
    except OSError as error:
        raise from_os_error(error, f"cannot write {path}", "choose another file with --json") from None
