"""Whether files are still what they were: size and modification time first, the content only where the time
differs.

What goes unseen: content that changed while size and modification time stayed; and, where the content's
digest is not kept, content that changed while the size stayed. It is kept of annotations and boxes always; of
pictures of a local folder for all of them up to 256 MiB, of more for as many, evenly spread; of pictures on
an object store, whose times are those of uploads, for none.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from mipnet.data.parquet import from_parquet, to_parquet
from mipnet.storage import FileStat, Folder, split_uri, without_byte_range

DIGESTED_BYTES = 256 << 20
READING_THREADS = 8
SETTLED_NS = 2_000_000_000
"""A file that was changed so recently can change again without another modification time."""
MISSING = FileStat(-1, 0)


class Fingerprint(NamedTuple):
    """What is kept of a file: size in bytes (-1: it is missing), modification time in ns, SHA-256 or ""."""

    size: int
    modified: int
    sha256: str


def file_of(uri: str) -> str:
    """The file that an image's URI means, which may be of a row or a byte range of one."""
    return without_byte_range(uri.partition("#row=")[0])


def take_fingerprints(files: Mapping[str, str], digested: Collection[str] = ()) -> dict[str, Fingerprint]:
    """The fingerprints of files as they are now.

    Args:
        files: name -> URI.
        digested: names of files whose content's digest is kept in any case.
    """
    stats = file_stats(files)
    local = [name for name, stat in stats.items() if stat.modified and name not in digested]
    step = -(-sum(stats[name].size for name in local) // DIGESTED_BYTES) or 1
    chosen = [name for name in digested if stats[name] != MISSING]
    chosen += [name for name in local[::step] if stats[name].size <= DIGESTED_BYTES]
    digests, settled = _digests({name: files[name] for name in chosen}), time.time_ns() - SETTLED_NS
    return {
        name: Fingerprint(size, modified if modified < settled else 0, digests.get(name, ""))
        for name, (size, modified) in stats.items()
    }


def changed_files(before: Mapping[str, Fingerprint], files: Mapping[str, str]) -> list[str]:
    """Names of the files that are not what they were; those that came or went, too.

    Args:
        before: from ``take_fingerprints``.
        files: name -> URI of each of them now.
    """
    stats = file_stats({name: files[name] for name in before})
    changed, touched = set(), {}
    for name, old in before.items():
        size, modified = stats[name]
        if size != old.size:
            changed.add(name)
        elif old.sha256 and (modified != old.modified or not modified):
            touched[name] = files[name]
    changed |= {name for name, digest in _digests(touched).items() if digest != before[name].sha256}
    return [name for name in before if name in changed]


def to_table(prints: Mapping[str, Fingerprint]) -> bytes:
    """Fingerprints as the content of a Parquet file."""
    import pyarrow as pa

    columns = zip(*prints.values(), strict=True) if prints else ((), (), ())
    arrays = map(pa.array, columns, (pa.int64(), pa.int64(), pa.string()))
    names = pa.array(list(prints), pa.string())
    return to_parquet(pa.table([names, *arrays], ["name", *Fingerprint._fields]), compression="zstd")


def from_table(content: bytes) -> dict[str, Fingerprint]:
    """The fingerprints in the content of a Parquet file."""
    columns = from_parquet(content, ["name", *Fingerprint._fields]).to_pydict()
    return dict(zip(columns.pop("name"), map(Fingerprint, *columns.values()), strict=True))


def file_stats(files: Mapping[str, str]) -> dict[str, FileStat]:
    """Name -> size and time, from one listing per folder instead of a request per file."""
    places = {name: split_uri(uri) for name, uri in files.items()}
    folders: dict[Folder, list[str]] = {}
    for folder, base in places.values():
        folders.setdefault(folder, []).append(base)
    stats = {folder: folder.stats(bases) for folder, bases in folders.items()}
    return {name: stats[folder].get(base, MISSING) for name, (folder, base) in places.items()}


def _digests(files: Mapping[str, str]) -> dict[str, str]:
    """Name -> SHA-256 of the content; "" for a file that cannot be read."""

    def digest(uri: str) -> str:
        folder, base = split_uri(uri)
        try:
            if folder.is_local:  # a shard may be larger than the memory
                with open(folder.local_path / base, "rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
            return hashlib.sha256(folder.read(base)).hexdigest()
        except OSError:
            return ""  # as good as another content

    with ThreadPoolExecutor(READING_THREADS) as threads:
        return dict(zip(files, threads.map(digest, files.values()), strict=True))
