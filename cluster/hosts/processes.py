"""Finding and ending the processes of a local cluster: exactly these, and all of them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from mipnet.errors import UserError

MARK = "MIPNET_LOCAL_CLUSTER"
"""An environment variable that all processes of a cluster inherit: TAG/PART, its cluster and its node."""


def members(mark: str) -> set[int]:
    """Processes that carry the mark, and their descendants; a mark that ends in / stands for all its parts.

    Both are needed: a process may write its title over its environment, and one whose parent died has no
    ancestor left.
    """
    wanted = f"{MARK}={mark}".encode()
    found: set[int] = set()
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or is another user's
            pid = int(entry.name)
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(pid)
            variables = (entry / "environ").read_bytes().split(b"\0")
            if any(v == wanted or (mark.endswith("/") and v.startswith(wanted)) for v in variables):
                found.add(pid)
    todo = list(found)
    while todo:
        new = [pid for pid in children.get(todo.pop(), []) if pid not in found]
        found.update(new)
        todo += new
    return found - {os.getpid()}


def end(mark: str) -> int:
    """SIGKILL to all of a mark's processes, and the wait until they are gone; how many there were.

    Nothing that they hold is worth an orderly end: sessions are temporary, and SQLite survives it.

    Raises:
        UserError: they do not die.
    """
    known = members(mark)
    count, deadline = len(known), time.monotonic() + 30
    while known:
        for pid in known:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # those that this very process started
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.1)
        known = {pid for pid in known if running(pid)} | members(mark)
        if known and time.monotonic() > deadline:
            raise UserError(f"processes {sorted(known)} do not die", exit_code=1)
    return count


def running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False
