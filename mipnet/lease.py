"""Mutual exclusion in an object store, where nothing can be locked.

pyarrow cannot create an object on condition that there is none. So each process writes an object of its own,
and then lists all: of two, the later sees the earlier, because stores are consistent. The holder rewrites its
object; one that stays as it is for ``LEASE_SECONDS`` is of a process that was killed. No clocks are compared.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from mipnet.console import say
from mipnet.errors import UserError
from mipnet.storage import Folder

logger = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
RENEWALS = 4
"""In the time of a lease."""


@contextmanager
def lease(folder: Folder, what: str, hint: str) -> Iterator[None]:
    """Hold a folder of an object store for the time of the ``with`` block.

    Waits for the end of a killed process's lease.

    Args:
        folder: for the leases of one thing only.
        what: is said if another process holds it.
        hint: how to go on then.

    Raises:
        UserError: another process holds it.
    """
    own, owner = uuid.uuid4().hex, f"{socket.gethostname()} {os.getpid()}"
    while True:
        folder.write(own, f"{owner} 0")
        others = holders(folder, own)
        if not others:
            break
        folder.remove(own)  # before waiting: two that wait would take each other for the holder
        _wait_for_end(folder, others, UserError(f"{what} ({next(iter(others.values()))})", hint))
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(folder, own, owner, ended), name="lease", daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        folder.remove(own)


def holders(folder: Folder, own: str = "") -> dict[str, str]:
    """Name of each lease but our own -> its content: host, process and number of renewals."""
    found = {}
    for name in folder.names():
        try:
            found[name] = "" if name == own else folder.read(name).decode()
        except FileNotFoundError:
            continue  # given back meanwhile
    return {name: content for name, content in found.items() if name != own}


def _wait_for_end(folder: Folder, others: dict[str, str], refused: UserError) -> None:
    """Remove leases that are not renewed any more; raises ``refused`` as soon as one is, or is new."""
    say(f"{refused.what}, or was when it was killed: waiting for {LEASE_SECONDS:g} s")
    deadline = time.monotonic() + LEASE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(LEASE_SECONDS / RENEWALS / 4)
        now = holders(folder)
        if any(others.get(name) != content for name, content in now.items()):
            raise refused
        if not now:
            return
    for name in others:
        logger.warning("the lease of a process that ended without a word is removed: %s", others[name])
        folder.remove(name)


def _renew(folder: Folder, own: str, owner: str, ended: threading.Event) -> None:
    number = 0
    while not ended.wait(LEASE_SECONDS / RENEWALS):
        number += 1
        try:
            folder.write(own, f"{owner} {number}")
        except (OSError, UserError):  # the store does not answer; the next renewal tries again
            logger.warning("cannot renew the lease in %s", folder.uri, exc_info=True)
