"""What ``ip netns exec`` starts for an isolated node: it makes the node's mounts and becomes the command.

    python enter_node.py '[PRIVATE, MEMORY, SHARED, [KEPT, ...]]' COMMAND ...

``mount`` makes a tree of mounts read-only since util-linux 2.39 only, hence the system call (Linux 5.12).
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Sequence

MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MOUNT_ATTR_RDONLY = 1
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SYS_MOUNT_SETATTR = 442
"""The same number on every architecture."""


def enter(private: str, memory: str, shared: str, keep: Sequence[str]) -> None:
    """Make the mounts; ``ip netns exec`` has given this process a mount namespace of its own.

    Args:
        private: becomes /tmp.
        memory: a folder of the machine's /dev/shm; becomes the node's own.
        shared: the storage, at the same path in every node.
        keep: folders that have to stay visible although they lie under /tmp.
    """
    # Descriptors first: once /tmp is replaced, what lies there has no path any more.
    binds = [(private, "/tmp", True), *((path, path, False) for path in keep)]
    binds += [(memory, "/dev/shm", True), (shared, shared, True)]
    sources = [os.open(source, os.O_PATH | os.O_DIRECTORY) for source, _, _ in binds]
    here = os.getcwd()
    call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    set_read_only("/", True, AT_RECURSIVE)
    for virtual in ("/proc", "/dev", "/dev/pts"):
        if os.path.ismount(virtual):
            set_read_only(virtual, False)
    for source, (_, target, writable) in zip(sources, binds, strict=True):
        if target.startswith("/tmp/"):
            os.makedirs(target, exist_ok=True)
        call("mount", f"/proc/self/fd/{source}".encode(), target.encode(), None, MS_BIND | MS_REC, None)
        set_read_only(target, not writable)
        os.close(source)
    os.chdir(here if os.path.isdir(here) else "/tmp")


def set_read_only(path: str, read_only: bool, flags: int = 0) -> None:
    # struct mount_attr: what to set, what to clear, propagation, user namespace
    attributes = (ctypes.c_uint64 * 4)(
        MOUNT_ATTR_RDONLY if read_only else 0, 0 if read_only else MOUNT_ATTR_RDONLY, 0, 0
    )
    call("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, attributes, ctypes.sizeof(attributes))


def call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")


if __name__ == "__main__":
    enter(*json.loads(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
