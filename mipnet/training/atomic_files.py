"""A local file system with atomic writes, for the files of Ray Train.

Ray overwrites its snapshot of the checkpoints in place. On a full disk, or killed in between, it would lose
the old and the new one, and with them the run; and a partly written checkpoint would keep the disk full.
"""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from collections.abc import Iterator
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem

from mipnet.object_stores import with_single_put
from mipnet.storage import Folder


class AtomicFile(io.FileIO):
    """A file that replaces the old one when it is closed, unless a write failed."""

    def __init__(self, path: str) -> None:
        self.path, self.temp_path, self.failed = path, f"{path}.{uuid.uuid4().hex[:8]}.part", False
        super().__init__(self.temp_path, "wb")

    def write(self, data: Any) -> int:
        """Write all of the data, a buffer; returns its size in bytes.

        Raises:
            OSError: the disk refuses; what was written is deleted.
        """
        rest = memoryview(data).cast("B")
        size = len(rest)
        with self._discarded_on_error():
            while rest:
                rest = rest[super().write(rest) :]
        return size

    def close(self) -> None:
        if self.closed:
            return
        with self._discarded_on_error():
            os.fsync(self.fileno())
            super().close()
            if not self.failed:
                os.replace(self.temp_path, self.path)

    @contextlib.contextmanager
    def _discarded_on_error(self) -> Iterator[None]:
        """Delete the file if the disk refuses, and name the right path in the error."""
        try:
            yield
        except OSError as error:
            self.failed = True
            with contextlib.suppress(OSError):
                os.unlink(self.temp_path)
            raise OSError(error.errno, error.strerror, self.path) from None


class AtomicFileSystem(LocalFileSystem):  # type: ignore[misc, unused-ignore]  # fsspec has no types
    """fsspec's local file system with ``AtomicFile`` for writing."""

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return AtomicFile(self._strip_protocol(path)) if mode == "wb" else super().open(path, mode, **options)


def storage_options(folder: Folder) -> dict[str, Any]:
    """Arguments of ``RunConfig`` for a storage folder; object stores write atomically themselves."""
    if not folder.is_local:
        return {"storage_path": with_single_put(folder.uri)}
    return {
        "storage_path": str(folder.local_path),
        "storage_filesystem": PyFileSystem(FSSpecHandler(AtomicFileSystem())),
    }
