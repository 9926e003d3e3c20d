"""What a local cluster consists of: folders, addresses, environment and its processes' command lines."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hosts import isolation
from hosts.processes import MARK

PROJECT = Path(__file__).resolve().parents[2]
MLFLOW = "mlflow"


@dataclass(frozen=True)
class Cluster:
    """What is remembered of a cluster, in ``state.json`` of its folder; node 0 is the head."""

    folder: str
    isolated: bool
    nodes: int
    cpus: int
    data_nodes: int
    object_store_mb: int
    shared: str
    port: int
    dashboard_port: int
    mlflow_port: int

    @property
    def home(self) -> Path:
        return Path(self.folder)

    @property
    def tag(self) -> str:
        return tag_of(self.home)

    @property
    def network(self) -> isolation.Network:
        return isolation.Network(self.tag)

    def address(self, node: int = 0) -> str:
        """Without isolation a loopback address for each node; Ray takes 127.0.0.1 for the machine's own."""
        return self.network.address(node) if self.isolated else f"127.18.{int(self.tag[:2], 16)}.{node + 1}"

    @property
    def dashboard(self) -> str:
        return f"http://{self.address()}:{self.dashboard_port}"

    @property
    def mlflow(self) -> str:
        return f"http://{self.address()}:{self.mlflow_port}"

    @property
    def token(self) -> Path:
        return self.home / "token"

    @property
    def scratch(self) -> Path:
        """Ray's session folders without isolation; the paths of Unix sockets end at 107 characters."""
        return Path(f"/tmp/mipnet-{self.tag}")

    def private(self, node: int) -> Path:
        return self.home / "nodes" / str(node)

    def memory(self, node: int) -> Path:
        return Path(f"/dev/shm/mipnet-{self.tag}-{node}")

    def log(self, part: str) -> Path:
        return self.home / "logs" / f"{part}.log"

    def environment(self, part: str) -> dict[str, str]:
        """Of a node, by its number, or of another process that belongs to the cluster."""
        home = {"HOME": "/tmp/home"} if self.isolated and part != MLFLOW else {}
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))},
            **home,
            MARK: f"{self.tag}/{part}",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": f"{home['HOME']}/token" if home else str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "MLFLOW_TRACKING_URI": self.mlflow,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # gloo asks for the host's name otherwise, and gets an address that no other host can reach
            "GLOO_SOCKET_IFNAME": "eth0" if self.isolated else "lo",
        }

    def on_node(self, node: int, words: Sequence[str]) -> list[str]:
        """The command line that runs ``words`` on a node."""
        if not self.isolated:
            return list(words)
        keep = [PROJECT, Path(sys.prefix), Path(sys.base_prefix), Path.cwd()]
        where = (self.network.namespace(node), self.private(node), self.memory(node), Path(self.shared))
        return isolation.inside(*where, keep=keep, command=words)

    def ray_start(self, node: int) -> list[str]:
        """The command line of a node's raylet."""
        labels = [f"mipnet.io/node={node}"]
        if node and self.data_nodes:
            role = "data" if node > self.nodes - self.data_nodes else "train"
            labels.append(f"mipnet.io/role={role}")
        words = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
            f"--node-ip-address={self.address(node)}",
            f"--num-cpus={self.cpus if node else 0}",
            "--num-gpus=0",  # every node would count the machine's GPUs as its own
            f"--labels={','.join(labels)}",
            f"--object-store-memory={self.object_store_mb * 2**20}",
            # Raylets that start at once in one folder fight for the names of their sockets.
            *([] if self.isolated else [f"--temp-dir={self.scratch / str(node)}"]),
        ]
        if node:
            return self.on_node(node, [*words, f"--address={self.address()}:{self.port}"])
        words += [
            "--head",
            f"--port={self.port}",
            "--include-dashboard=true",
            f"--dashboard-host={self.address()}",
            f"--dashboard-port={self.dashboard_port}",
            f"--ray-client-server-port={_free_port()}",  # not used; by default a port that others may have
        ]
        return self.on_node(node, words)

    def mlflow_server(self) -> list[str]:
        """On the head's address, but not a part of the head: it outlives it, as a real service would."""
        folder = self.home / "mlflow"
        words = [
            *(sys.executable, "-m", "mlflow", "server", "--workers=1"),
            f"--host={self.address()}",
            f"--port={self.mlflow_port}",
            f"--allowed-hosts={self.address()}:{self.mlflow_port}",
            f"--backend-store-uri=sqlite:///{folder / 'mlflow.db'}",
            f"--artifacts-destination={folder / 'artifacts'}",
        ]
        return ["ip", "netns", "exec", self.network.namespace(0), *words] if self.isolated else words


def tag_of(folder: Path) -> str:
    """Names the cluster of a folder in all that lies outside of it."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:6]


def load(folder: Path) -> Cluster | None:
    """The cluster of a folder, or None if none was started there."""
    try:
        return Cluster(**json.loads((folder / "state.json").read_text()))
    except FileNotFoundError:
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
