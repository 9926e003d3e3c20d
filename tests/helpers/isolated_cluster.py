"""``cluster/local.py`` with a network and a mount namespace for each node: hosts, as far as Ray can tell.

    python tests/helpers/isolated_cluster.py up --nodes 2       and all other verbs of local.py

Every node has its own addresses, ``/tmp``, ``/dev/shm`` and home. All else is the machine's file system,
read-only, as an image would be; the one folder that all nodes can write is the shared storage. What reaches
another node therefore came over the network or through the storage, never by luck. Needs root, iproute2 and
Linux 5.12.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
if str(PROJECT) not in sys.path:  # when run as a script
    sys.path.insert(0, str(PROJECT))

from cluster.local import MLFLOW, Cluster, run_verb  # noqa: E402
from mipnet.cli.main import exit_status  # noqa: E402
from mipnet.errors import UserError  # noqa: E402

ENTER = Path(__file__).with_name("enter_node.py")


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
        names = [line.split()[0] for line in ip("netns", "list").splitlines() if line.strip()]
        return [name for name in names if name.startswith(f"mipnet-{self.tag}-")]

    def create(self, nodes: int) -> None:
        """A bridge, and for every node a namespace whose eth0 is plugged into it."""
        ip("link", "add", self.bridge, "type", "bridge")
        ip("address", "add", f"{self.host}/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        for node in range(nodes):
            name, link = self.namespace(node), self.link(node)
            ip("netns", "add", name)
            ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", link, "master", self.bridge, "up")
            ip("-n", name, "address", "add", f"{self.address(node)}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")

    def remove(self) -> None:
        """Whatever is left of it; a namespace takes its end of the cable along."""
        for name in self.namespaces():
            ip("netns", "delete", name)
        if Path(f"/sys/class/net/{self.bridge}").exists():
            ip("link", "delete", self.bridge)


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"ip {' '.join(words)}: {done.stderr.strip()}", exit_code=1)
    return done.stdout


@dataclass(frozen=True)
class IsolatedCluster(Cluster):
    """A cluster whose nodes share nothing but the storage."""

    @property
    def network(self) -> Network:
        return Network(self.tag)

    def address(self, node: int = 0) -> str:
        return self.network.address(node)

    def private(self, node: int) -> Path:
        """Becomes a node's /tmp."""
        return self.home / "nodes" / str(node)

    def memory(self, node: int) -> Path:
        """Becomes a node's /dev/shm."""
        return Path(f"/dev/shm/mipnet-{self.tag}-{node}")

    def require(self) -> None:
        """Refuse at once what would fail half-way; no port is taken in a network of its own.

        Raises:
            UserError: not root, or no iproute2.
        """
        if os.geteuid() != 0:
            raise UserError("network and mount namespaces are made by root only", "use sudo")
        if shutil.which("ip") is None:
            raise UserError("isolated nodes need the command ip", "install iproute2")

    def prepare(self) -> None:
        super().prepare()
        for node in range(self.nodes + 1):
            home = self.private(node) / "home"
            home.mkdir(parents=True)
            self.private(node).chmod(0o1777)
            shutil.copy2(self.token, home / "token")
            self.memory(node).mkdir(mode=0o1777)
        self.network.create(self.nodes + 1)

    def remove(self) -> None:
        self.network.remove()
        for folder in (self.home / "nodes", *Path("/dev/shm").glob(f"mipnet-{self.tag}-*")):
            shutil.rmtree(folder, ignore_errors=True)
        super().remove()

    def environment(self, part: str) -> dict[str, str]:
        home = {"HOME": "/tmp/home", "RAY_AUTH_TOKEN_PATH": "/tmp/home/token"} if part != MLFLOW else {}
        return {**super().environment(part), **home, "GLOO_SOCKET_IFNAME": "eth0"}

    def on_node(self, node: int, words: Sequence[str]) -> list[str]:
        # Folders that have to stay visible although they lie under /tmp
        keep = {PROJECT, Path(sys.prefix), Path(sys.base_prefix), Path.cwd()}
        hidden = sorted(str(path) for path in keep if path.is_relative_to("/tmp"))
        spec = json.dumps([str(self.private(node)), str(self.memory(node)), self.shared, hidden])
        return [*self.netns(node), sys.executable, str(ENTER), spec, *words]

    def mlflow_server(self) -> list[str]:
        return [*self.netns(0), *super().mlflow_server()]

    def netns(self, node: int) -> list[str]:
        """The command line that runs what follows in a node's network."""
        return ["ip", "netns", "exec", self.network.namespace(node)]


if __name__ == "__main__":
    command = functools.partial(run_verb, kind=IsolatedCluster)
    sys.exit(exit_status("isolated_cluster.py", command, sys.argv[1:], "interrupted"))
