"""Pictures that two splits have in common, found without decoding: by the sizes and digests of files."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np

from mipnet.data.fingerprints import file_stats
from mipnet.data.image_index import ImageIndex, read_uri
from mipnet.errors import first_few
from mipnet.storage import byte_range_size

logger = logging.getLogger(__name__)

READING_THREADS = 8
SHARED_PICTURES_HINT = "take them out of one of the two, or the figures say how well pictures are remembered"


def shared_pictures(splits: Mapping[str, ImageIndex]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Files with the same bytes in two splits, under any name; an image saved again is not found.

    Args:
        splits: name -> images.

    Returns:
        (split, other) -> pairs (URI in the split, URI in the other), each of the other's at most once; only
        of splits that have some in common.
    """
    splits = {split: images for split, images in splits.items() if len(images)}
    sizes = {split: file_sizes(images.uris) for split, images in splits.items()}
    pairs = list(combinations(splits, 2))
    wanted: set[str] = set()
    for ours, theirs in pairs:
        both = np.intersect1d(sizes[ours], sizes[theirs])
        for split in (ours, theirs):
            chosen = np.isin(sizes[split], both) & (sizes[split] > 0)
            wanted.update(splits[split].uris[chosen].tolist())
    uris = sorted(wanted)
    with ThreadPoolExecutor(READING_THREADS) as threads:
        digests = dict(zip(uris, threads.map(_digest, uris), strict=True))
    found = {}
    for ours, theirs in pairs:
        first: dict[bytes, str] = {}
        for uri in splits[ours].uris.tolist():
            if digest := digests.get(uri):
                first.setdefault(digest, uri)
        same = [(first[d], u) for u in splits[theirs].uris.tolist() if (d := digests.get(u)) in first]
        if same:
            found[ours, theirs] = same
    return found


def shared_pictures_lines(
    shared: Mapping[tuple[str, str], Sequence[tuple[str, str]]], root: str = ""
) -> list[str]:
    """A line for each pair of splits with pictures in common; names without the prefix ``root``."""
    prefix = f"{root.rstrip('/')}/"
    return [
        f"the same picture in {ours} and in {theirs}: {len(pairs)} ("
        + first_few([f"{a.removeprefix(prefix)} = {b.removeprefix(prefix)}" for a, b in pairs])
        + f"); {SHARED_PICTURES_HINT}"
        for (ours, theirs), pairs in shared.items()
    ]


def file_sizes(uris: np.ndarray) -> np.ndarray:
    """(n,) int64 bytes of files, or of byte ranges of files; -1 for those that do not exist.

    Folders are listed once, which is one request for a thousand files of an object store.
    """
    sizes = {uri: byte_range_size(uri) for uri in uris.tolist()}
    stats = file_stats({uri: uri for uri, size in sizes.items() if size is None})
    sizes |= {uri: stat.size for uri, stat in stats.items()}
    return np.array([sizes[uri] for uri in uris.tolist()], np.int64)


def _digest(uri: str) -> bytes | None:
    try:
        return hashlib.sha256(read_uri(uri)).digest()
    except OSError as error:
        logger.info("cannot compare %s: %s", uri, error)
        return None
