"""Work that threads do ahead, in its order; the contents of files in object stores, read so."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mipnet.data.image_index import read_uri
from mipnet.storage import split_uri

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

READING_THREADS = 16
"""Requests at a time. One core decodes 200 pictures a second: at 40 ms a request, 8 are under way."""
READ_AHEAD = 32
"""Contents that are read before they are asked for, at most: a few megabytes."""


def read_ahead(uris: Sequence[str]) -> Iterator[bytes | None]:
    """The content of each file, as ``read_uri``; None for one that cannot be read.

    Local files are read when they are asked for: the system reads ahead itself. So are the rows of tables,
    because a row group is read as a whole and kept.
    """
    if not any(_is_remote_file(uri) for uri in uris):
        yield from map(_content, uris)
        return
    yield from map_ahead(_content, uris, READING_THREADS, READ_AHEAD)


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int
) -> Iterator[Result]:
    """``map`` by ``threads`` threads, which begin with up to ``ahead`` items before they are asked for."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, function.__name__) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # of what is not asked for any more


def _is_remote_file(uri: str) -> bool:
    return "://" in uri and "#row=" not in uri and not split_uri(uri)[0].is_local


def _content(uri: str) -> bytes | None:
    try:
        return read_uri(uri)
    except OSError as error:  # missing, no permission, a folder, or a disk failure; never of S3
        logger.debug("cannot read %s: %s", uri, error)
        return None
