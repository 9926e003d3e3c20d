"""Where a command writes to, checked before the work begins."""

from __future__ import annotations

from pathlib import Path

from mipnet.errors import UserError, from_os_error
from mipnet.storage import Folder, readable_storage


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
    """Check that the file of ``--json`` can be written; its folder is made, an old file stays as it is.

    Raises:
        UserError: it cannot be written.
    """
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new = not file.exists()
        file.open("a").close()
        if new:
            file.unlink()
    except OSError as error:
        raise from_os_error(error, f"cannot write {path}", "choose another file with --json") from None
