"""Readings of large annotation files, kept in the user's cache folder from one start to the next.

An entry is found by the content of the file, the rules of the reading, and the source of this package, so
that no change of either goes unseen. Whatever is wrong with the folder (damaged, read-only, full), the file
is read as without it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mipnet.data.annotation_columns import AnnotationColumns
from mipnet.data.fingerprints import SETTLED_NS, file_stats
from mipnet.errors import UserError
from mipnet.storage import FileStat, Folder

CACHED_BYTES = 4 << 20
"""Smaller files are read as fast as the cache."""
CACHE_LIMIT = 512 << 20
"""Bytes of all entries; the least recently used ones go."""
KNOWN_DIGESTS = 64
DIGEST_BYTES = hashlib.sha256().digest_size
DIGESTS_FILE = "digests"

logger = logging.getLogger(__name__)


def cache_folder() -> Folder:
    """Where the readings are kept; it need not exist."""
    from platformdirs import user_cache_dir

    return Folder.of(user_cache_dir("mipnet")).join("annotations")


class KeptReading:
    """The reading of an annotation file that an earlier start has kept.

    Attributes:
        sha256: of the file's content.

    Args:
        root: the data set's folder.
        name: of the file in it.
        rules: all that the reading depends on beside the file, as JSON.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, root: Folder, name: str, rules: Any) -> None:
        uri = root.path(name)
        stat = file_stats({name: uri})[name]
        self._file, self._content = (root, name), b""
        self.sha256 = known_digest(uri, stat)
        if not self.sha256:
            self._content = root.read(name)
            self.sha256 = hashlib.sha256(self._content).hexdigest()
            keep_digest(uri, stat, self.sha256)
        self._entry = ""
        if stat.size >= CACHED_BYTES:
            key = json.dumps([source_digest(), self.sha256, rules], sort_keys=True)
            self._entry = f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"

    def take_content(self) -> bytes:
        """The file's content, of which nothing is kept here: it may take hundreds of megabytes."""
        root, name = self._file
        content, self._content = self._content or root.read(name), b""
        return content

    def columns(self) -> AnnotationColumns | None:
        """The reading, if there is one; see ``is_valid``."""
        content = _read(self._entry) if self._entry else b""
        return AnnotationColumns.from_bytes(content) if content else None

    def is_valid(self, columns: AnnotationColumns, files: Mapping[str, str]) -> bool:
        """Whether the pictures that decided something in a kept reading are as they were.

        Args:
            columns: the reading.
            files: name -> URI of the files of ``columns.about["pictures"]``.
        """
        if file_stats(files) != {name: tuple(stat) for name, stat in columns.about["pictures"].items()}:
            return False
        with contextlib.suppress(OSError):
            os.utime(cache_folder().local_path / self._entry)  # used
        return True

    def keep(self, columns: AnnotationColumns, consulted: Mapping[str, str]) -> None:
        """Keep a new reading, if the file is large.

        Args:
            columns: the reading.
            consulted: name -> URI of the files of pictures whose headers decided something.
        """
        if self._entry:
            columns.about["pictures"] = file_stats(consulted)
            _write(self._entry, columns.to_bytes())
            _remove_oldest()


@functools.cache
def source_digest() -> str:
    """SHA-256 of this package's source, which decides what a reading holds."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def known_digest(uri: str, stat: FileStat) -> str:
    """SHA-256 of a large local file that has not changed since an earlier start; "" if there is none."""
    size, modified, digest = _digests().get(uri, (-1, 0, ""))
    return digest if stat.modified and (size, modified) == tuple(stat) else ""


def keep_digest(uri: str, stat: FileStat, digest: str) -> None:
    """Keep the digest of a large local file for the next start."""
    if stat.size >= CACHED_BYTES and 0 < stat.modified < time.time_ns() - SETTLED_NS:
        known = {k: v for k, v in _digests().items() if k != uri} | {uri: (*stat, digest)}
        _write(DIGESTS_FILE, json.dumps(dict([*known.items()][-KNOWN_DIGESTS:])).encode())


def _digests() -> dict[str, tuple[int, int, str]]:
    found: dict[str, tuple[int, int, str]] = json.loads(_read(DIGESTS_FILE) or "{}")
    return found


def _read(name: str) -> bytes:
    """The content of a file of the cache; nothing if it is not there, or not as it was written."""
    try:
        content = cache_folder().read(name)
    except OSError:
        return b""
    if hashlib.sha256(content[DIGEST_BYTES:]).digest() != content[:DIGEST_BYTES]:
        logger.info("%s is damaged", cache_folder().path(name))
        return b""
    return content[DIGEST_BYTES:]


def _write(name: str, content: bytes) -> None:
    try:
        cache_folder().write(name, hashlib.sha256(content).digest() + content, durable=False)
    except (UserError, OSError) as error:
        logger.info("the reading of annotations is not kept: %s", error)


def _remove_oldest() -> None:
    folder = cache_folder()
    with contextlib.suppress(OSError, UserError):
        stats = folder.stats([name for name in folder.names() if name.endswith(".npz")])
        total = sum(stat.size for stat in stats.values())
        for name in sorted(stats, key=lambda name: stats[name].modified):
            if total <= CACHE_LIMIT:
                break
            folder.remove(name)
            total -= stats[name].size
