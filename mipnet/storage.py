"""Files by URI: a local folder, NFS, s3://, gs://, the same calls for all (through pyarrow.fs)."""

from __future__ import annotations

import contextlib
import functools
import os
import posixpath
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mipnet.errors import DataError, UserError, refusal

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


@dataclass(frozen=True)
class Folder:
    """A folder on some file system, named by a URI or a local path. Cheap to make and to pickle.

    All ``name`` arguments are relative, with forward slashes, and cannot leave the folder.
    """

    uri: str

    @classmethod
    def of(cls, where: str | os.PathLike[str]) -> Folder:
        """The folder for a path or URI; local paths become absolute."""
        text = os.fspath(where)
        if "://" not in text:
            text = str(Path(text).expanduser().resolve())
        return cls(text.rstrip("/") or "/")

    @property
    def is_local(self) -> bool:
        return "://" not in self.uri or self.uri.startswith("file://")

    @property
    def local_path(self) -> Path:
        """The folder as a local path.

        Raises:
            UserError: the folder is on an object store.
        """
        if not self.is_local:
            raise UserError(f"{self.uri} is not a local folder", "give a path on this machine")
        return Path(self.uri.removeprefix("file://"))

    def filesystem(self) -> tuple[FileSystem, str]:
        """The pyarrow file system and the folder's path on it."""
        from pyarrow.fs import LocalFileSystem

        if self.is_local:
            return LocalFileSystem(), str(self.local_path)
        place, mark, query = self.uri.partition("?")
        scheme, _, path = place.partition("://")
        host = path.partition("/")[0]
        fs, top = _remote(f"{scheme}://{host}{mark}{query}")
        return fs, f"{top.rstrip('/')}{path[len(host) :]}"

    def _locate(self, name: str) -> tuple[FileSystem, str]:
        """The pyarrow file system and the path of ``name`` on it; "" is the folder itself."""
        fs, root = self.filesystem()
        return fs, f"{root}/{contained(name, self.uri)}" if name else root

    def join(self, name: str) -> Folder:
        """The folder ``name`` inside this one."""
        return Folder(self.path(name))

    def path(self, name: str) -> str:
        """Where ``name`` lies, as a path or URI for people and for other programs."""
        place, mark, query = self.uri.partition("?") if not self.is_local else (self.uri, "", "")
        return f"{place.rstrip('/')}/{contained(name, self.uri)}{mark}{query}"

    def read(self, name: str) -> bytes:
        """The bytes of a file, or of a piece of one (``piece_name``).

        Raises:
            FileNotFoundError: there is none.
        """
        if "#" in name and (piece := PIECE.search(name)):
            return self._read_piece(name[: piece.start(1)], int(piece[2]), int(piece[3]))
        if self.is_local:  # the hot path of the stream: no layers in between
            with open(self.path(name).removeprefix("file://"), "rb") as file:
                return file.read()
        fs, target = self._locate(name)
        with fs.open_input_stream(target) as stream:
            return stream.read()

    def _read_piece(self, name: str, offset: int, size: int) -> bytes:
        if self.is_local:
            with open(self.path(name).removeprefix("file://"), "rb", buffering=0) as file:
                content = os.pread(file.fileno(), size, offset)
        else:
            fs, target = self._locate(name)
            with fs.open_input_file(target) as file:
                content = file.read_at(size, offset)
        if len(content) != size:
            raise OSError(f"{self.path(name)} is shorter than {offset + size} bytes")
        return content

    def write(self, name: str, content: bytes | str, durable: bool = True) -> None:
        """Write a whole file; readers see the old one or the new one, never a part.

        Args:
            name: of the file; folders on the way are made.
            content: text is written as UTF-8.
            durable: wait until the disk has it; not worth its time for many files that can be made again.

        Raises:
            UserError: the storage refuses (full, read-only, no permission).
        """
        data = content.encode() if isinstance(content, str) else content
        fs, target = self._locate(name)
        try:
            fs.create_dir(posixpath.dirname(target), recursive=True)
            if not self.is_local:  # object stores replace an object in one step
                with fs.open_output_stream(target) as stream:
                    stream.write(data)
                return
            part = f"{target}.{uuid.uuid4().hex[:8]}.part"
            try:
                with open(part, "wb") as file:
                    file.write(data)
                    file.flush()
                    if durable:
                        os.fsync(file.fileno())
                os.replace(part, target)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(part)
        except OSError as error:
            raise refusal(error, f"cannot write {target}", "choose another place with --storage") from None

    def exists(self, name: str = "") -> bool:
        """Whether a file or folder is there.

        Raises:
            UserError: nobody may know.
        """
        from pyarrow.fs import FileType

        fs, target = self._locate(name)
        with _readable(target):
            return fs.get_file_info(target).type != FileType.NotFound

    def names(self, name: str = "") -> list[str]:
        """Sorted names of the files and folders right inside; empty if there is no such folder.

        Raises:
            UserError: they may not be listed.
        """
        from pyarrow.fs import FileSelector

        fs, target = self._locate(name)
        with _readable(target):
            infos = fs.get_file_info(FileSelector(target, allow_not_found=True))
        return sorted(info.base_name for info in infos)

    def files(self) -> list[str]:
        """Sorted names of all files in this folder and the folders below it.

        Raises:
            UserError: they may not be listed.
        """
        from pyarrow.fs import FileSelector, FileType

        fs, root = self.filesystem()
        with _readable(root):
            infos = fs.get_file_info(FileSelector(root, recursive=True))
        return sorted(posixpath.relpath(info.path, root) for info in infos if info.type == FileType.File)

    def remove(self, name: str) -> None:
        """Delete a file or a folder with all it holds; nothing happens if there is none.

        Raises:
            ValueError: the name is that of the folder itself.
        """
        from pyarrow.fs import FileType

        if contained(name, self.uri) == ".":
            raise ValueError("a folder does not remove itself")

        fs, target = self._locate(name)
        kind = fs.get_file_info(target).type
        if kind == FileType.Directory:
            fs.delete_dir(target)
        elif kind == FileType.File:
            fs.delete_file(target)

    def upload(self, source: Path, name: str = "") -> None:
        """Copy the files of a local folder into the folder ``name``."""
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            self.write(posixpath.join(name, path.relative_to(source).as_posix()), path.read_bytes())

    def download(self, target: Path) -> Path:
        """A local copy of all files of this folder (the folder itself if it is local)."""
        if self.is_local:
            return self.local_path
        from pyarrow.fs import LocalFileSystem, copy_files

        fs, root = self.filesystem()
        copy_files(root, str(target), source_filesystem=fs, destination_filesystem=LocalFileSystem())
        return target


PIECE = re.compile(r"\.parquet(#(\d+)\+(\d+))$")


def piece_name(name: str, offset: int, size: int) -> str:
    """What to ``read`` for ``size`` bytes from ``offset`` on of the Parquet file ``name``."""
    return f"{name}#{offset}+{size}"


def file_name(name: str) -> str:
    """The file that a name or piece of one is in."""
    piece = PIECE.search(name)
    return name[: piece.start(1)] if piece else name


@contextmanager
def _readable(target: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise refusal(error, f"cannot read {target}", "check the path and its permissions") from None


@functools.lru_cache(maxsize=16)
def _remote(uri: str) -> tuple[FileSystem, str]:
    """The file system of a bucket; connecting anew for every file would cost more than reading it."""
    from pyarrow.fs import FileSystem

    try:
        return FileSystem.from_uri(uri)
    except Exception as error:
        if "Unrecognized" in str(error):
            raise UserError(
                f"{uri}: no such kind of storage ({error})", "use a path, file://, s3:// or gs://"
            ) from None
        raise UserError(f"{uri} cannot be used ({error})", "check its name and your access to it") from None


def contained(name: str, root: str) -> str:
    """``name`` normalised, if it stays inside ``root``: annotation files may name images, not paths beyond.

    Raises:
        DataError: the name is absolute or climbs out.
    """
    clean = posixpath.normpath(name.replace("\\", "/"))
    if clean.startswith(("/", "../")) or clean == ".." or "://" in name or "\0" in name:
        raise DataError(f"file name {name!r} leads out of its folder {root}", "use names relative to it")
    return clean


def parent_of(uri: str) -> tuple[Folder, str]:
    """The folder and the name of a file by its path or URI."""
    place, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    folder, _, name = place.rpartition("/")
    return Folder(f"{folder}{mark}{query}"), name


def default_storage() -> Folder:
    """The storage when none is given: a folder in the user's data directory."""
    from platformdirs import user_data_dir

    return Folder.of(user_data_dir("mipnet"))


def storage_named(uri: str) -> Folder:
    """The storage that ``--storage`` names, or the default one; only to be read from."""
    return Folder.of(uri) if uri else default_storage()
