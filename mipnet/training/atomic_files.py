"""A local file system on which files appear whole or not at all, for what Ray Train writes.

Ray writes its record of the checkpoints over the old one. On a full disk, or killed in between, it would lose
both, and with them the run; and the part of a checkpoint that still fitted would keep the disk full.
"""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem

from mipnet.storage import Folder


class WholeFile(io.FileIO):
    """A file that takes the place of the old one when it is closed, unless something could not be written."""

    def __init__(self, path: str) -> None:
        self.path, self.part, self.failed = path, f"{path}.{uuid.uuid4().hex[:8]}.part", False
        super().__init__(self.part, "wb")

    def write(self, data: Any) -> int:
        """All of the data.

        Raises:
            OSError: the disk refuses; the part that was written is gone.
        """
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self._give_up()
            raise OSError(error.errno, error.strerror, self.path) from None
        return size

    def close(self) -> None:
        if self.closed:
            return
        try:
            os.fsync(self.fileno())
            super().close()
            if not self.failed:
                os.replace(self.part, self.path)
        except OSError as error:
            self._give_up()
            raise OSError(error.errno, error.strerror, self.path) from None

    def _give_up(self) -> None:
        self.failed = True
        with contextlib.suppress(OSError):
            os.unlink(self.part)


class WholeFiles(LocalFileSystem):
    """fsspec's local file system with ``WholeFile`` for writing."""

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return WholeFile(self._strip_protocol(path)) if mode == "wb" else super().open(path, mode, **options)


def storage_options(folder: Folder) -> dict[str, Any]:
    """Where Ray Train is to write, as arguments of ``RunConfig``; object stores write whole files anyway."""
    if not folder.is_local:
        return {"storage_path": folder.uri}
    return {
        "storage_path": str(folder.local_path),
        "storage_filesystem": PyFileSystem(FSSpecHandler(WholeFiles())),
    }
