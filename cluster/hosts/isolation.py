"""A network and a mount namespace for each node of ``local.py --isolated``: hosts, as far as Ray can tell.

Every node has its own addresses, ``/tmp``, ``/dev/shm`` and home. All else is the machine's file system,
read-only, as an image would be; the one folder that all nodes can write is the shared storage. What reaches
another node therefore came over the network or through the storage, never by luck. Needs root and iproute2.

Run as a script, it is what ``ip netns exec`` starts: it makes the mounts and becomes the command.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mipnet.errors import UserError

MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MOUNT_ATTR_RDONLY = 1
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SYS_MOUNT_SETATTR = 442
"""The same number on every architecture; Linux 5.12."""


@dataclass(frozen=True)
class Network:
    """Names and addresses of a cluster, all made of its tag, so that they can always be found again."""

    tag: str

    @property
    def bridge(self) -> str:
        return f"mip{self.tag}"

    @property
    def host(self) -> str:
        return self.address(253)

    def address(self, node: int) -> str:
        """In 198.18.0.0/15, reserved for network benchmarks: no office or cloud network uses it."""
        return f"198.18.{int(self.tag[:2], 16)}.{node + 1}"

    def namespace(self, node: int) -> str:
        return f"mipnet-{self.tag}-{node}"

    def link(self, node: int) -> str:
        return f"mip{self.tag}x{node}"

    def namespaces(self) -> list[str]:
        """Those that exist."""
        names = [line.split()[0] for line in _ip("netns", "list").splitlines() if line.strip()]
        return [name for name in names if name.startswith(f"mipnet-{self.tag}-")]

    def create(self, nodes: int) -> None:
        """A bridge, and for every node a namespace whose eth0 is plugged into it."""
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("address", "add", f"{self.host}/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")
        for node in range(nodes):
            name, link = self.namespace(node), self.link(node)
            _ip("netns", "add", name)
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", link, "master", self.bridge, "up")
            _ip("-n", name, "address", "add", f"{self.address(node)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def remove(self) -> None:
        """Whatever is left of it; a namespace takes its end of the cable along."""
        for name in self.namespaces():
            _ip("netns", "delete", name)
        if Path(f"/sys/class/net/{self.bridge}").exists():
            _ip("link", "delete", self.bridge)


def require() -> None:
    """Refuse at once what would fail half-way.

    Raises:
        UserError: not root, or no iproute2.
    """
    if os.geteuid() != 0:
        raise UserError("--isolated makes network and mount namespaces, which only root may", "use sudo")
    if shutil.which("ip") is None:
        raise UserError("--isolated needs the command ip", "install iproute2")


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"ip {' '.join(words)}: {done.stderr.strip()}", exit_code=1)
    return done.stdout


def inside(
    namespace: str, private: Path, memory: Path, shared: Path, keep: Iterable[Path], command: Sequence[str]
) -> list[str]:
    """The command line that runs ``command`` in a node.

    Args:
        namespace: of its network.
        private: becomes its /tmp.
        memory: a folder of the machine's /dev/shm; becomes the node's own.
        shared: the storage, at the same path in every node.
        keep: folders that have to stay visible although they lie under /tmp, for instance this project.
        command: what to run.
    """
    hidden = [str(path) for path in keep if path.is_relative_to("/tmp")]
    spec = json.dumps([str(private), str(memory), str(shared), sorted(set(hidden))])
    return ["ip", "netns", "exec", namespace, sys.executable, __file__, spec, *command]


def _enter(private: str, memory: str, shared: str, keep: Sequence[str]) -> None:
    """Make the mounts; ``ip netns exec`` has given this process a mount namespace of its own."""
    # Descriptors first: once /tmp is replaced, what lies there has no path any more.
    binds = [(private, "/tmp", True), *((path, path, False) for path in keep)]
    binds += [(memory, "/dev/shm", True), (shared, shared, True)]
    sources = [os.open(source, os.O_PATH | os.O_DIRECTORY) for source, _, _ in binds]
    here = os.getcwd()
    _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    _set_read_only("/", True, AT_RECURSIVE)
    for virtual in ("/proc", "/dev", "/dev/pts"):
        if os.path.ismount(virtual):
            _set_read_only(virtual, False)
    for source, (_, target, writable) in zip(sources, binds, strict=True):
        if target.startswith("/tmp/"):
            os.makedirs(target, exist_ok=True)
        _call("mount", f"/proc/self/fd/{source}".encode(), target.encode(), None, MS_BIND | MS_REC, None)
        _set_read_only(target, not writable)
        os.close(source)
    os.chdir(here if os.path.isdir(here) else "/tmp")


def _set_read_only(path: str, read_only: bool, flags: int = 0) -> None:
    # struct mount_attr: what to set, what to clear, propagation, user namespace
    attributes = (ctypes.c_uint64 * 4)(
        MOUNT_ATTR_RDONLY if read_only else 0, 0 if read_only else MOUNT_ATTR_RDONLY, 0, 0
    )
    _call("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, attributes, ctypes.sizeof(attributes))


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")


if __name__ == "__main__":
    _enter(*json.loads(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
