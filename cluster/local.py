"""A real cluster of several nodes on one machine: a head and n nodes, each with its own raylet.

    python cluster/local.py up --nodes 2        start it, with dashboard, token and MLflow server
    python cluster/local.py status              its nodes and addresses
    python cluster/local.py run -- COMMAND      run a command on the head's side of it
    python cluster/local.py kill-node 1         lose a node, as in a power cut
    python cluster/local.py down                end all of it

CPUs are logical: the nodes share the machine's cores and files. The head has no CPUs, as in production, so
that tasks and training processes live on the nodes. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_state_dir

if __package__ in (None, ""):  # run as a file: Python finds ``cluster`` in the folder above
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from cluster.marked_processes import MARK, kill_marked, marked_processes
from mipnet.cli.main import exit_status
from mipnet.console import say
from mipnet.errors import UserError
from mipnet.ports import open_local_url, require_free_port

MLFLOW = "mlflow"
START_SECONDS = 240
RAY_LOST_PATIENCE = "timed out during startup"
"""``ray start`` says it of a raylet that took 30 s, as it may on a busy machine; it is then started again."""


@dataclass(frozen=True)
class Cluster:
    """What is remembered of a cluster, in ``state.json`` of its folder; node 0 is the head.

    Its nodes share this machine's files; those of the drills, ``tests/cluster/isolated.py``, share nothing.
    """

    folder: str
    nodes: int = 2
    cpus: int = 4
    data_nodes: int = 0
    object_store_mb: int = 512
    shared: str = ""
    port: int = 6379
    dashboard_port: int = 8265
    mlflow_port: int = 5000

    @property
    def home(self) -> Path:
        return Path(self.folder)

    @property
    def tag(self) -> str:
        """Names the cluster in all that lies outside of its folder."""
        return hashlib.sha256(self.folder.encode()).hexdigest()[:6]

    @property
    def note(self) -> Path:
        return self.home / "state.json"

    @property
    def token(self) -> Path:
        return self.home / "token"

    @property
    def scratch(self) -> Path:
        """Ray's session folders; the paths of Unix sockets end at 107 characters."""
        return Path(f"/tmp/mipnet-{self.tag}")

    @property
    def dashboard(self) -> str:
        return f"http://{self.address()}:{self.dashboard_port}"

    @property
    def mlflow(self) -> str:
        return f"http://{self.address()}:{self.mlflow_port}"

    def address(self, node: int = 0) -> str:
        """A loopback address for each node; Ray takes 127.0.0.1 for the machine's own."""
        return f"127.18.{int(self.tag[:2], 16)}.{node + 1}"

    def log(self, part: str) -> Path:
        return self.home / "logs" / f"{part}.log"

    def require(self) -> None:
        """Refuse at once what would fail half-way.

        Raises:
            UserError: a port is taken.
        """
        for name in ("port", "dashboard_port", "mlflow_port"):
            require_free_port(self.address(), getattr(self, name), f"--{name.replace('_', '-')}")

    def prepare(self) -> None:
        """Make folders and token; first of all the note that lets ``down`` find them."""
        for folder in (self.home / "logs", self.home / "mlflow", Path(self.shared)):
            folder.mkdir(parents=True, exist_ok=True)
        self.note.write_text(json.dumps(asdict(self), indent=2) + "\n")
        self.token.touch(0o600)
        self.token.write_text(secrets.token_hex(32))

    def remove(self) -> None:
        """Remove what ``prepare`` and Ray made, but for logs, MLflow's database and the shared storage."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        for file in (self.token, self.note):
            file.unlink(missing_ok=True)

    def environment(self, part: str) -> dict[str, str]:
        """Of a node, by its number, or of another process that belongs to the cluster."""
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))},
            MARK: f"{self.tag}/{part}/",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "MLFLOW_TRACKING_URI": self.mlflow,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # gloo asks for the host's name otherwise, and gets an address that no other host can reach
            "GLOO_SOCKET_IFNAME": "lo",
        }

    def on_node(self, node: int, words: Sequence[str]) -> list[str]:
        """The command line that runs ``words`` on a node."""
        return list(words)

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
            f"--temp-dir={self.scratch / str(node)}",
        ]
        if node:
            return self.on_node(node, [*words, f"--address={self.address()}:{self.port}"])
        words += [
            "--head",
            f"--port={self.port}",
            "--include-dashboard=true",
            f"--dashboard-host={self.address()}",
            f"--dashboard-port={self.dashboard_port}",
            f"--ray-client-server-port={free_port()}",  # not used; by default a port that others may have
        ]
        return self.on_node(node, words)

    def mlflow_server(self) -> list[str]:
        """On the head's address, but not a part of the head: it outlives it, as a real service would."""
        folder = self.home / "mlflow"
        return [
            *(sys.executable, "-m", "mlflow", "server", "--workers=1"),
            f"--host={self.address()}",
            f"--port={self.mlflow_port}",
            f"--allowed-hosts={self.address()}:{self.mlflow_port}",
            f"--backend-store-uri=sqlite:///{folder / 'mlflow.db'}",
            f"--artifacts-destination={folder / 'artifacts'}",
        ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def up(cluster: Cluster) -> None:
    """Start everything and wait until all nodes have joined; what was started is ended if anything fails.

    Raises:
        UserError: one is up already, a port is taken, or a part did not start.
    """
    if sys.platform != "linux":
        raise UserError("local.py needs Linux, where every process can be asked for its environment")
    if marked_processes(f"{cluster.tag}/"):
        raise UserError(f"a cluster is up in {cluster.home}", "end it with down, or use another --state")
    cluster.require()
    down(cluster)  # what a crash or a reboot left
    try:
        cluster.prepare()
        say(f"starting a head and {cluster.nodes} node(s)")
        start(cluster, ["0"], lambda: alive(cluster))
        others = [*map(str, range(1, cluster.nodes + 1)), MLFLOW]
        start(cluster, others, lambda: [*alive(cluster), *([MLFLOW] if mlflow_answers(cluster) else [])])
    except BaseException:
        down(cluster)
        raise
    status(cluster)


def start(cluster: Cluster, parts: Sequence[str], ready: Callable[[], Collection[str]]) -> None:
    """Start parts of the cluster side by side and wait until they are all among those that are ``ready``.

    Raises:
        UserError: one ended or took too long, with its last words.
    """
    deadline = time.monotonic() + START_SECONDS
    processes = {part: spawn(cluster, part) for part in parts}
    while waiting := set(parts).difference(ready()):
        late = time.monotonic() > deadline
        for part in sorted(waiting):
            ended = processes[part].poll() is not None
            said = cluster.log(part).read_text(errors="replace").strip()
            if ended and RAY_LOST_PATIENCE in said and not late:
                kill_marked(f"{cluster.tag}/{part}/")
                processes[part] = spawn(cluster, part)
            elif ended or late:
                what = "the MLflow server" if part == MLFLOW else f"node {part}"
                why = "ended" if ended else f"was not ready within {START_SECONDS} s"
                last = " ".join(said.splitlines()[-3:])
                raise UserError(f"{what} {why}: {last}", f"see {cluster.log(part)}", 1)
        time.sleep(0.3)


def spawn(cluster: Cluster, part: str) -> subprocess.Popen[bytes]:
    words = cluster.mlflow_server() if part == MLFLOW else cluster.ray_start(int(part))
    with open(cluster.log(part), "wb") as log:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=cluster.environment(part),
            start_new_session=True,  # Ctrl-C at the command that started it is not meant for the cluster
        )


def alive(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """What the dashboard tells of the nodes that Ray holds for alive; empty while it does not answer."""
    request = urllib.request.Request(
        f"{cluster.dashboard}/api/v0/nodes?limit=1000",
        headers={"Authorization": f"Bearer {cluster.token.read_text()}"},
    )
    try:
        with open_local_url(request) as answer:
            nodes = json.load(answer)["data"]["result"]["result"]
    except (OSError, ValueError, TypeError, KeyError):  # not there, or not ready
        return {}
    there = [node for node in nodes if node["state"] == "ALIVE"]  # Ray also lists those that one has replaced
    numbered = {(node.get("labels") or {}).get("mipnet.io/node"): node for node in there}
    return {number: node for number, node in numbered.items() if number}


def mlflow_answers(cluster: Cluster) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((cluster.address(), cluster.mlflow_port), 5):
        return True
    return False


def status(cluster: Cluster) -> None:
    """Print the nodes and how to use the cluster; the token itself is never shown."""
    known = alive(cluster)
    for node in range(cluster.nodes + 1):
        state = "unknown"
        if not marked_processes(f"{cluster.tag}/{node}/"):
            state = "dead"  # Ray itself notices only after a while
        elif found := known.get(str(node)):
            role = found["labels"].get("mipnet.io/role", "")
            state = f"alive  {found['resources_total'].get('CPU', 0):g} CPUs  {role}"
        say(f"{f'node {node}' if node else 'head':<9} {cluster.address(node):<15} {state.rstrip()}")
    silent = "" if mlflow_answers(cluster) else "  (does not answer)"
    say(f"\ndashboard {cluster.dashboard}\nMLflow    {cluster.mlflow}{silent}")
    say(f"storage   {cluster.shared}\nlogs      {cluster.home / 'logs'}\n")
    say("python cluster/local.py run -- python jobs/submit.py train -- \\")
    say(f"    --preset debug --workers 2 --storage {cluster.shared}")
    say(f"or anywhere: RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={cluster.token} \\")
    say(f"    python jobs/submit.py train --address {cluster.dashboard} -- ...")


def run(cluster: Cluster, words: Sequence[str]) -> int:
    """Run a command on the head's side with the cluster's environment; its exit status."""
    if not words:
        raise UserError("nothing to run", "give a command after run --")
    env = cluster.environment("run") | {
        "RAY_ADDRESS": f"{cluster.address()}:{cluster.port}",
        "RAY_API_SERVER_ADDRESS": cluster.dashboard,
    }
    if shutil.which(words[0], path=env["PATH"]) is None:
        raise UserError(f"there is no command {words[0]}")
    return subprocess.run(cluster.on_node(0, words), env=env).returncode


def kill_node(cluster: Cluster, node: int) -> None:
    """SIGKILL to every process of a node.

    Raises:
        UserError: there is no such node, or it is dead already.
    """
    if not 0 <= node <= cluster.nodes:
        raise UserError(f"there is no node {node}", f"give 1 to {cluster.nodes}, or 0 for the head")
    count = kill_marked(f"{cluster.tag}/{node}/")
    if not count:
        raise UserError(f"node {node} is dead already")
    say(f"killed node {node} ({count} processes)")


def down(cluster: Cluster) -> bool:
    """End a cluster and remove what it made elsewhere; False if there was nothing to end.

    Logs, MLflow's database and the shared storage stay.
    """
    there = bool(kill_marked(f"{cluster.tag}/")) or cluster.note.exists()
    cluster.remove()
    return there


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    state = Path(user_state_dir("mipnet")) / "cluster"
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--state", type=Path, default=state, help="folder of the cluster [%(default)s]")
    parser = argparse.ArgumentParser(prog="local.py", description=(__doc__ or "").partition("\n\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add = verbs.add_parser("up", parents=[common], help="start a cluster")
    for name, text in (
        ("nodes", "nodes beside the head [%(default)s]"),
        ("cpus", "logical CPUs of a node [%(default)s]"),
        ("data_nodes", "the last so many are labelled to decode [%(default)s]"),
        ("object_store_mb", "of every node [%(default)s]"),
        ("port", "[%(default)s]"),
        ("dashboard_port", "[%(default)s]"),
        ("mlflow_port", "[%(default)s]"),
    ):
        add.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Cluster, name), help=text)
    add.add_argument("--shared", type=Path, help="storage that all nodes can write [in the state folder]")
    for verb, text in (("status", "nodes and addresses"), ("down", "end the cluster")):
        verbs.add_parser(verb, parents=[common], help=text)
    kill = verbs.add_parser("kill-node", parents=[common], help="SIGKILL to all of a node, 0 for the head")
    kill.add_argument("node", type=int)
    verbs.add_parser("run", parents=[common], help="run the command after -- on the head's side")
    return parser.parse_args(argv)


def run_verb(argv: Sequence[str], kind: type[Cluster] = Cluster) -> int:
    """Run one verb, on a cluster of that kind.

    Raises:
        UserError: what the user can fix.
    """
    split = argv.index("--") if "--" in argv else len(argv)  # what follows is not ours to parse
    options, words = parse_arguments(argv[:split]), argv[split + 1 :]
    folder = options.state.expanduser().resolve()
    if options.verb == "up":
        if options.nodes < 1 or options.cpus < 1 or not 0 <= options.data_nodes < options.nodes:
            raise UserError("give at least 1 to --nodes and --cpus, and to --data-nodes less than --nodes")
        values = {k: v for k, v in vars(options).items() if k not in ("verb", "state")}
        values["shared"] = str((options.shared or folder / "shared").expanduser().resolve())
        up(kind(str(folder), **values))
        return 0
    cluster = kind(str(folder))
    if cluster.note.exists():
        cluster = kind(**json.loads(cluster.note.read_text()))
    elif options.verb != "down":
        raise UserError(f"no cluster is up in {folder}", "start one with up")
    if options.verb == "down":
        say("down" if down(cluster) else "nothing is up")
    elif options.verb == "run":
        return run(cluster, words)
    elif options.verb == "kill-node":
        kill_node(cluster, options.node)
    else:
        status(cluster)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status("local.py", run_verb, sys.argv[1:], "interrupted"))
