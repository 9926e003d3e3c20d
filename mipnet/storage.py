"""Files by URI through pyarrow.fs: a local folder, NFS, s3:// and gs:// behind the same calls."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import posixpath
import re
import stat
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mipnet.errors import DataError, UserError, from_os_error
from mipnet.object_stores import make_parents, put_files, read_object, remote_filesystem

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

logger = logging.getLogger(__name__)


class FileStat(NamedTuple):
    """Size in bytes and modification time in ns of a file; 0 where the time says nothing."""

    size: int
    modified: int


@dataclass(frozen=True)
class Folder:
    """A folder on any file system, given by a URI or a local path. Cheap to create and to pickle.

    All ``name`` arguments are relative paths with forward slashes inside the folder.
    """

    uri: str

    @classmethod
    def of(cls, where: str | os.PathLike[str]) -> Folder:
        """The folder of a path or URI; local paths become absolute."""
        uri = os.fspath(where)
        if "://" not in uri:
            uri = str(Path(uri).expanduser().resolve())
        return cls(uri.rstrip("/") or "/")

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
        bucket_uri, path = self._bucket()
        fs, root = remote_filesystem(bucket_uri)
        return fs, f"{root.rstrip('/')}{path}"

    def _bucket(self) -> tuple[str, str]:
        """The URI of the bucket with its parameters, and the folder's path within it."""
        address, mark, query = self.uri.partition("?")
        scheme, _, path = address.partition("://")
        bucket = path.partition("/")[0]
        return f"{scheme}://{bucket}{mark}{query}", path[len(bucket) :]

    def _locate(self, name: str) -> tuple[FileSystem, str]:
        """The pyarrow file system and the path of ``name`` on it; "" is the folder itself."""
        fs, root = self.filesystem()
        return fs, f"{root}/{safe_relative_path(name, self.uri)}" if name else root

    def join(self, name: str) -> Folder:
        """The folder ``name`` inside this one."""
        return Folder(self.path(name))

    def path(self, name: str) -> str:
        """The path or URI of ``name``."""
        address, mark, query = self.uri.partition("?") if not self.is_local else (self.uri, "", "")
        return f"{address.rstrip('/')}/{safe_relative_path(name, self.uri)}{mark}{query}"

    def read(self, name: str, limit: int | None = None) -> bytes:
        """The content of a file, or of a byte range of one (``byte_range_name``).

        Args:
            name: of the file.
            limit: read so many bytes from its beginning at most.

        Raises:
            FileNotFoundError: no such file.
            OSError: the file cannot be read, or is shorter than the byte range.
        """
        if "#" in name and (found := BYTE_RANGE.search(name)):
            size = int(found[3]) if limit is None else min(limit, int(found[3]))
            return self._read_range(name[: found.start(1)], int(found[2]), size)
        if self.is_local:  # plain open(): this is the hot path of the stream
            with open(self.path(name).removeprefix("file://"), "rb") as file:
                return file.read(limit)
        return self._read_object(name, 0, limit)

    def size(self, name: str) -> int:
        """Of a file, in bytes; 0 if it does not exist."""
        fs, target = self._locate(name)
        return int(fs.get_file_info(target).size or 0)

    def sha256(self, name: str) -> str:
        """SHA-256 of a file's content, in hexadecimal; errors as for ``read``."""
        fs, target = self._locate(name)
        with fs.open_input_stream(target) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def _read_range(self, name: str, offset: int, size: int) -> bytes:
        if self.is_local:
            with open(self.path(name).removeprefix("file://"), "rb", buffering=0) as file:
                content = os.pread(file.fileno(), size, offset)
        else:
            content = self._read_object(name, offset, size)
        if len(content) != size:
            raise OSError(f"{self.path(name)} is shorter than {offset + size} bytes")
        return content

    def _read_object(self, name: str, offset: int, size: int | None) -> bytes:
        _, target = self._locate(name)
        return read_object(self._bucket()[0], target, offset, size)

    def write(self, name: str, content: bytes | str, durable: bool = True) -> None:
        """Write a whole file atomically: readers see the old content or the new one.

        Args:
            name: of the file; parent folders are created.
            content: text is written as UTF-8.
            durable: fsync before the rename; not worth its time for many files that can be made again.

        Raises:
            UserError: the storage is full, read-only, or permission is missing.
        """
        data = content.encode() if isinstance(content, str) else content
        fs, target = self._locate(name)
        with _os_errors_as_user_errors(target, "write", "choose another place with --storage"):
            make_parents(fs, target)
            if not self.is_local:  # object stores replace an object atomically
                with fs.open_output_stream(target) as stream:
                    stream.write(data)
                return
            temporary = f"{target}.{uuid.uuid4().hex[:8]}.part"
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    if durable:
                        os.fsync(file.fileno())
                os.replace(temporary, target)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)

    def exists(self, name: str = "") -> bool:
        """Whether a file or folder exists.

        Raises:
            UserError: no permission to look.
        """
        from pyarrow.fs import FileType

        fs, target = self._locate(name)
        with _os_errors_as_user_errors(target):
            return bool(fs.get_file_info(target).type != FileType.NotFound)

    def names(self, name: str = "") -> list[str]:
        """Sorted names of the direct entries (files and folders) of a folder; empty if it does not exist.

        Those that are not UTF-8 have surrogates in their place, see ``is_text``.

        Raises:
            UserError: the folder cannot be listed.
        """
        from pyarrow.fs import FileSelector

        fs, target = self._locate(name)
        with _os_errors_as_user_errors(target):
            if self.is_local:  # pyarrow stops at a name that is not UTF-8
                return sorted(os.listdir(target)) if os.path.isdir(target) else []
            infos = fs.get_file_info(FileSelector(target, allow_not_found=True))
        return sorted(info.base_name for info in infos)

    def read_from(self, name: str, offset: int) -> bytes:
        """The content of a file from a byte on.

        Raises:
            OSError: the file cannot be read.
        """
        if not self.is_local:
            return self._read_object(name, offset, None)
        with open(self.path(name).removeprefix("file://"), "rb") as file:
            file.seek(offset)
            return file.read()

    def stats(self, names: Collection[str] | None = None) -> dict[str, FileStat]:
        """Name -> size and modification time of all files directly in this folder, or of those asked for.

        Raises:
            UserError: the folder cannot be listed.
        """
        from pyarrow.fs import FileSelector, FileType

        fs, root = self.filesystem()
        with _os_errors_as_user_errors(root):
            if self.is_local:
                return _local_stats(root, names)
            infos = fs.get_file_info(FileSelector(root, allow_not_found=True))
        # An object store's time is that of the upload: another copy of the same content has another one.
        found = {info.base_name: FileStat(info.size, 0) for info in infos if info.type == FileType.File}
        return found if names is None else {name: found[name] for name in names if name in found}

    def files(self) -> list[str]:
        """Sorted names of all files in this folder and its subfolders; not UTF-8 as in ``names``.

        Raises:
            UserError: the folder cannot be listed.
        """
        from pyarrow.fs import FileSelector, FileType

        fs, root = self.filesystem()
        with _os_errors_as_user_errors(root):
            if self.is_local:
                return sorted(_local_files(root))
            infos = fs.get_file_info(FileSelector(root, recursive=True))
        return sorted(posixpath.relpath(info.path, root) for info in infos if info.type == FileType.File)

    def remove(self, name: str) -> None:
        """Delete a file, or a folder with its content; does nothing if it does not exist.

        Raises:
            ValueError: the name is the folder itself.
        """
        from pyarrow.fs import FileType

        if safe_relative_path(name, self.uri) == ".":
            raise ValueError("a folder does not remove itself")
        fs, target = self._locate(name)
        kind = fs.get_file_info(target).type
        if kind == FileType.Directory:
            fs.delete_dir(target)
        elif kind == FileType.File:
            fs.delete_file(target)

    def upload(self, source: Path, name: str = "", last: str = "") -> None:
        """Copy all files of a local folder into the folder ``name`` of this one, the file ``last`` last."""
        files = {path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}
        for names in (files.keys() - {last}, files.keys() & {last}):
            copies = {posixpath.join(name, each): files[each] for each in sorted(names)}
            if self.is_local:
                for each, path in copies.items():
                    self.write(each, path.read_bytes())
                continue
            fs, root = self.filesystem()
            with _os_errors_as_user_errors(root, "write", "choose another place with --storage"):
                put_files(fs, {self._locate(each)[1]: path for each, path in copies.items()})

    def download(self, target: Path) -> Path:
        """Copy all files of this folder to ``target``, if it is remote.

        Returns:
            the local folder: ``target``, or this folder itself if it is local.
        """
        if self.is_local:
            return self.local_path
        from pyarrow.fs import LocalFileSystem, copy_files

        fs, root = self.filesystem()
        copy_files(root, str(target), source_filesystem=fs, destination_filesystem=LocalFileSystem())
        return target


def _local_stats(root: str, names: Collection[str] | None) -> dict[str, FileStat]:
    if names is None:
        names = os.listdir(root) if os.path.isdir(root) else []
    found = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            info = os.stat(os.path.join(root, name))
            if stat.S_ISREG(info.st_mode):
                found[name] = FileStat(info.st_size, info.st_mtime_ns)
    return found


def _local_files(root: str) -> Iterator[str]:
    def stop(error: OSError) -> None:
        raise error

    for folder, _, names in os.walk(root, onerror=stop, followlinks=True):
        inside = folder[len(root) :].strip("/")
        yield from (posixpath.join(inside, name) for name in names)


def is_text(name: str) -> bool:
    """Whether the name of a file is UTF-8, as all that is written about it has to be."""
    return name.isascii() or name == legible(name)


def legible(name: str) -> str:
    """The name of a file for messages: bytes that are not UTF-8 as \\udcXX."""
    return name.encode("utf-8", "backslashreplace").decode()


BYTE_RANGE = re.compile(r"\.parquet(#(\d+)\+(\d+))$")


def byte_range_name(name: str, offset: int, size: int) -> str:
    """The name under which ``read`` gives ``size`` bytes of the Parquet file ``name`` from ``offset`` on."""
    return f"{name}#{offset}+{size}"


def byte_range_size(name: str) -> int | None:
    """The bytes of a byte range; None for the name of a whole file."""
    found = BYTE_RANGE.search(name)
    return int(found[3]) if found else None


def without_byte_range(name: str) -> str:
    """The file of a name, without its byte range if it has one."""
    found = BYTE_RANGE.search(name)
    return name[: found.start(1)] if found else name


@contextmanager
def _os_errors_as_user_errors(
    target: str, verb: str = "read", hint: str = "check the path and its permissions"
) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        logger.info("cannot %s %s", verb, target, exc_info=True)
        raise from_os_error(error, f"cannot {verb} {target}", hint) from None


def safe_relative_path(name: str, root: str) -> str:
    """``name`` normalised, if it stays inside ``root``: guards against path traversal from annotation files.

    Raises:
        DataError: the name is absolute, leads out of ``root``, or would change the parameters of its URI.
    """
    if "?" in name and "://" in root:
        what = f"file name {name!r} has a '?', behind which {plain_uri(root)} would take parameters from it"
        raise DataError(what, "rename the file")
    clean = posixpath.normpath(name.replace("\\", "/"))
    if clean.startswith(("/", "../")) or clean == ".." or "://" in name or "\0" in name:
        raise DataError(f"file name {name!r} leads out of its folder {root}", "use names relative to it")
    return clean


def split_uri(uri: str) -> tuple[Folder, str]:
    """The folder and the file name of a path or URI; a query stays with the folder."""
    address, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    folder, _, name = address.rpartition("/")
    return Folder(f"{folder}{mark}{query}"), name


def plain_uri(uri: str) -> str:
    """A URI without the parameters and keys that only say how to reach its store."""
    if "://" not in uri:
        return uri
    place, mark, row = uri.partition("#row=")
    scheme, _, path = place.partition("?")[0].partition("://")
    bucket, slash, rest = path.partition("/")
    return f"{scheme}://{bucket.rpartition('@')[2]}{slash}{rest}{mark}{row}"


def relative_name(root: Folder, uri: str) -> str:
    """The name of a file or folder within ``root``; of one outside, the URI without its query."""
    prefix = root.uri.partition("?")[0].rstrip("/") + "/"
    return uri.partition("?")[0].removeprefix(prefix)


def default_storage() -> Folder:
    """The storage when none is given: a folder in the user's data directory."""
    from platformdirs import user_data_dir

    return Folder.of(user_data_dir("mipnet"))


def readable_storage(uri: str) -> Folder:
    """The storage of ``--storage``, or the default one; for reading, so nothing is created."""
    return Folder.of(uri) if uri else default_storage()
