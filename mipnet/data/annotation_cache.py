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
DIGESTS_FILE = "digests.json"

logger = logging.getLogger(__name__)


def cache_folder() -> Folder:
    """Where the readings are kept; it need not exist."""
    from platformdirs import user_cache_dir

    return Folder.of(user_cache_dir("mipnet")).join("annotations")


class KeptReading:
    """The reading of an annotation file that an earlier start has kept.

    Attributes:
        columns: None if there is no such reading.
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
        self.columns = _load(self._entry) if self._entry else None

    def take_content(self) -> bytes:
        """The file's content, of which nothing is kept here: it may take hundreds of megabytes."""
        root, name = self._file
        content, self._content = self._content or root.read(name), b""
        return content

    def keep(self, columns: AnnotationColumns, pictures: Mapping[str, str]) -> None:
        """Keep a new reading, if the file is large.

        Args:
            columns: the reading.
            pictures: name -> URI of those whose headers decided something.
        """
        if self._entry:
            _keep(self._entry, columns, pictures)


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
    try:
        found = json.loads(cache_folder().read(DIGESTS_FILE))
        return {str(uri): (int(size), int(time), str(digest)) for uri, (size, time, digest) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # none are known


def _load(entry: str) -> AnnotationColumns | None:
    folder = cache_folder()
    try:
        content = folder.read(entry)
    except OSError:
        return None
    if hashlib.sha256(content[DIGEST_BYTES:]).digest() != content[:DIGEST_BYTES]:
        logger.info("the kept reading %s is damaged", folder.path(entry))
        return None
    columns = AnnotationColumns.from_bytes(content[DIGEST_BYTES:])
    pictures = columns.about["pictures"]
    stats = file_stats({uri: uri for uri in pictures})
    if any(tuple(stats[uri]) != tuple(kept) for uri, kept in pictures.items()):
        return None
    with contextlib.suppress(OSError):
        os.utime(folder.local_path / entry)  # used
    return columns


def _keep(entry: str, columns: AnnotationColumns, pictures: Mapping[str, str]) -> None:
    uris = {uri: uri for uri in pictures.values()}
    columns.about["pictures"] = file_stats(uris)
    content = columns.to_bytes()
    _write(entry, hashlib.sha256(content).digest() + content)
    folder = cache_folder()
    with contextlib.suppress(OSError, UserError):
        stats = {name: stat for name, stat in folder.stats().items() if name.endswith(".npz")}
        total = sum(stat.size for stat in stats.values())
        for name in sorted(stats, key=lambda name: stats[name].modified):
            if total <= CACHE_LIMIT:
                break
            folder.remove(name)
            total -= stats[name].size


def _write(name: str, content: bytes) -> None:
    try:
        cache_folder().write(name, content, durable=False)
    except (UserError, OSError) as error:
        logger.info("the reading of annotations is not kept: %s", error)
