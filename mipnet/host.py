"""This process's machine: CPU cores and memory within the container's limits, and malloc's settings."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import shutil
import signal
from pathlib import Path

logger = logging.getLogger(__name__)

CGROUPS = Path("/sys/fs/cgroup")
NETWORK_FILE_SYSTEMS = "nfs", "cifs", "smb", "afs", "ceph", "lustre", "gluster", "beegfs", "gpfs", "fuse."
# mallopt's parameters, from glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


class Termination:
    """A handler of SIGTERM: acts as Ctrl-C, and is remembered for the exit status.

    Attributes:
        received: there was a SIGTERM.
    """

    received = False

    def __call__(self, number: int, frame: object) -> None:
        self.received = True
        raise KeyboardInterrupt


def interruption_status() -> int:
    """The exit status after a KeyboardInterrupt, as shells number it: 143 after SIGTERM, 130 after Ctrl-C."""
    handler = signal.getsignal(signal.SIGTERM)
    terminated = isinstance(handler, Termination) and handler.received
    return 128 + (signal.SIGTERM if terminated else signal.SIGINT)


def tune_malloc() -> None:
    """Set glibc's malloc to reuse freed memory instead of returning it to the system after every operator.

    Ray runs our code outside a process's main thread, where glibc returns large blocks at once. Measured:
    80,000 page faults a second, a fifth of the time of training a small network. Peak memory is the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        logger.debug("no mallopt in this C library: malloc keeps its defaults")
        return
    mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the largest that glibc takes
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_ARENA_MAX, 1)


def has_compiler(device: str) -> bool:
    """Whether this machine has what ``torch.compile`` needs: for a GPU a C compiler, for a CPU one of C++.

    Args:
        device: its type, "cpu" or "cuda".
    """
    names = {"cpu": ("g++", "c++"), "cuda": ("gcc", "clang", "cc")}[device]
    given = os.environ.get({"cpu": "CXX", "cuda": "CC"}[device], "")
    return any(shutil.which(name) for name in (*filter(None, [given]), *names))


def cores(cgroups: Path = CGROUPS) -> int:
    """The number of CPU cores that the process's affinity and its container's quota allow.

    Args:
        cgroups: where control groups, version 2 or 1, are mounted.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = "max", "100000"
    try:
        if (version_2 := cgroups / "cpu.max").exists():
            quota, period = version_2.read_text().split()
        elif (version_1 := cgroups / "cpu").exists():
            quota = (version_1 / "cpu.cfs_quota_us").read_text().strip()
            period = (version_1 / "cpu.cfs_period_us").read_text().strip()
    except (OSError, ValueError):
        logger.debug("no readable CPU quota in %s", cgroups, exc_info=True)
        return allowed
    limited = quota.isdecimal() and period.isdecimal() and int(period)  # "max" or -1 is no limit
    return min(allowed, max(math.ceil(int(quota) / int(period)), 1)) if limited else allowed


def network_file_system(path: str) -> str:
    """The type of the file system of a path, e.g. nfs4, if it is shared over a network; "" if it is not."""
    import psutil

    place = Path(path).resolve()
    mounts = [m for m in psutil.disk_partitions(all=True) if place.is_relative_to(m.mountpoint)]
    kind = max(mounts, key=lambda m: len(m.mountpoint)).fstype.lower() if mounts else ""
    return kind if kind.startswith(NETWORK_FILE_SYSTEMS) else ""


def memory(cgroups: Path = CGROUPS) -> int:
    """Bytes of free memory, at most the container's limit.

    Args:
        cgroups: where control groups, version 2 or 1, are mounted.
    """
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # version 2, version 1
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max": no limit
            free = min(free, int((cgroups / limit).read_text()))
    return free
