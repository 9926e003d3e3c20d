"""Processes of a local cluster, found by an environment variable that all of them inherit."""

from __future__ import annotations

import contextlib
import time

import psutil

from mipnet.errors import UserError

MARK = "MIPNET_LOCAL_CLUSTER"
"""An environment variable that all processes of a cluster inherit: TAG/PART/, its cluster and its part."""


def marked_processes(mark: str) -> set[psutil.Process]:
    """Processes whose mark begins with ``mark``, and their descendants; TAG/ is a whole cluster.

    Both are needed: a process may write its title over its environment, and one whose parent died has no
    ancestor left.
    """
    found: set[psutil.Process] = set()
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get(MARK, "").startswith(mark):  # None: it is another user's
            with contextlib.suppress(psutil.NoSuchProcess):
                found.update([process, *process.children(recursive=True)])
    return {process for process in found if is_running(process)} - {psutil.Process()}


def is_running(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def kill_marked(mark: str) -> int:
    """Send SIGKILL to all processes of a mark and wait until they are gone; returns how many there were.

    Nothing that they hold is worth an orderly end: sessions are temporary, and SQLite survives it.

    Raises:
        UserError: they do not die.
    """
    known = marked_processes(mark)
    count, deadline = len(known), time.monotonic() + 30
    while known:
        if time.monotonic() > deadline:
            raise UserError(f"processes {sorted(p.pid for p in known)} do not die", exit_code=1)
        for process in known:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.1)
        known = {process for process in known if is_running(process)} | marked_processes(mark)
    return count
