"""A real cluster of several nodes on one machine: a head and n nodes, each with its own raylet.

    python cluster/local.py up --nodes 2 [--isolated]    start it, with dashboard, token and MLflow server
    python cluster/local.py status                       its nodes and addresses
    python cluster/local.py run -- COMMAND               run a command on the head's side of it
    python cluster/local.py kill-node 1                  lose a node, as in a power cut
    python cluster/local.py down                         end all of it

CPUs are logical: the nodes share the machine's cores. The head has none, as in production, so that tasks and
training processes live on the nodes. With ``--isolated`` (root, iproute2) every node is a host of its own as
far as Ray can tell, see ``hosts/isolation.py``. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hosts import isolation
from hosts.layout import MLFLOW, Cluster, load, tag_of
from hosts.processes import end, members
from platformdirs import user_state_dir

from mipnet.errors import UserError

START_SECONDS = 240
RAY_LOST_PATIENCE = "timed out during startup"
"""``ray start`` says it of a raylet that took 30 s, as it may on a busy machine; it is then started again."""
PORTS = {"port": 6379, "dashboard_port": 8265, "mlflow_port": 5000}


def up(cluster: Cluster) -> None:
    """Start everything and wait until all nodes have joined; what was started is ended if anything fails.

    Raises:
        UserError: one is up already, a port is taken, or a part did not start.
    """
    if sys.platform != "linux":
        raise UserError("local.py needs Linux: it reads /proc")
    if members(f"{cluster.tag}/"):
        raise UserError(f"a cluster is up in {cluster.home}", "end it with down, or use another --state")
    if cluster.isolated:
        isolation.require()
        cluster.network.remove()
    down(cluster.home)  # what a crash or a reboot left
    if not cluster.isolated:
        for name in PORTS:
            require_free(cluster.address(), getattr(cluster, name), f"--{name.replace('_', '-')}")
    try:
        prepare(cluster)
        start(cluster)
    except BaseException:
        down(cluster.home)
        raise
    status(cluster)


def require_free(address: str, port: int, flag: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            reason = str(error.strerror).lower()
            raise UserError(f"port {port} cannot be used ({reason})", f"choose another {flag}") from None


def prepare(cluster: Cluster) -> None:
    """The folders, the token and the network; first of all the note that lets ``down`` find them."""
    for folder in (cluster.home / "logs", cluster.home / "mlflow", Path(cluster.shared)):
        folder.mkdir(parents=True, exist_ok=True)
    (cluster.home / "state.json").write_text(json.dumps(asdict(cluster), indent=2) + "\n")
    write_secret(cluster.token, secrets.token_hex(32))
    if not cluster.isolated:
        return
    for node in range(cluster.nodes + 1):
        (cluster.private(node) / "home").mkdir(parents=True)
        cluster.private(node).chmod(0o1777)
        write_secret(cluster.private(node) / "home" / "token", cluster.token.read_text())
        cluster.memory(node).mkdir(mode=0o1777)
    cluster.network.create(cluster.nodes + 1)


def write_secret(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def start(cluster: Cluster) -> None:
    say(f"starting a head and {cluster.nodes} node(s){', isolated' if cluster.isolated else ''}")
    deadline = time.monotonic() + START_SECONDS
    processes: dict[str, subprocess.Popen[bytes]] = {}

    def launch(part: str) -> None:
        words = cluster.mlflow_server() if part == MLFLOW else cluster.ray_start(int(part))
        processes[part] = spawn(cluster, part, words)

    def wait_for(part: str, ready: Callable[[], bool]) -> None:
        while not ready():
            ended = processes[part].poll() is not None
            said = cluster.log(part).read_text(errors="replace").strip()
            if ended and RAY_LOST_PATIENCE in said and time.monotonic() < deadline:
                end(f"{cluster.tag}/{part}")
                launch(part)
            elif ended or time.monotonic() > deadline:
                what = f"node {part}" if part.isdecimal() else "the MLflow server"
                why = "ended" if ended else f"was not ready within {START_SECONDS} s"
                last = " ".join(said.splitlines()[-3:])
                raise UserError(f"{what} {why}: {last}", f"see {cluster.log(part)}", 1)
            time.sleep(0.3)

    launch("0")
    launch(MLFLOW)
    wait_for("0", lambda: 0 in alive(cluster))
    numbers = [str(node) for node in range(1, cluster.nodes + 1)]
    for part in numbers:
        launch(part)
    for part in numbers:
        wait_for(part, lambda part=part: int(part) in alive(cluster))  # type: ignore[misc]
    wait_for(MLFLOW, lambda: mlflow_answers(cluster))


def spawn(cluster: Cluster, part: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
    with open(cluster.log(part), "wb") as log:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=cluster.environment(part),
            start_new_session=True,  # Ctrl-C at the command that started it is not meant for the cluster
        )


def alive(cluster: Cluster) -> dict[int, dict[str, Any]]:
    """What the dashboard tells of the nodes that Ray holds for alive; empty while it does not answer."""
    found = {}
    for node in ask_nodes(cluster):
        number = (node.get("labels") or {}).get("mipnet.io/node")
        if node["state"] == "ALIVE" and number:
            found[int(number)] = node
    return found


def ask_nodes(cluster: Cluster) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        f"{cluster.dashboard}/api/v0/nodes?limit=1000",
        headers={"Authorization": f"Bearer {cluster.token.read_text()}"},
    )
    # No proxy: the addresses exist on this machine only.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return json.load(answer)["data"]["result"]["result"]
    except (OSError, ValueError, TypeError, KeyError):  # not there, or not ready
        return []


def mlflow_answers(cluster: Cluster) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((cluster.address(), cluster.mlflow_port), 5):
        return True
    return False


def status(cluster: Cluster) -> None:
    """Print the nodes and how to use the cluster; the token itself is never shown."""
    known = alive(cluster)
    for node in range(cluster.nodes + 1):
        state = "unknown"
        if not members(f"{cluster.tag}/{node}"):
            state = "dead"  # Ray itself notices only after a while
        elif node in known:
            role = known[node]["labels"].get("mipnet.io/role", "")
            state = f"alive  {known[node]['resources_total'].get('CPU', 0):g} CPUs  {role}"
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
    count = end(f"{cluster.tag}/{node}")
    if not count:
        raise UserError(f"node {node} is dead already")
    say(f"killed node {node} ({count} processes)")


def down(folder: Path) -> bool:
    """End the cluster of a folder and remove what it made elsewhere; False if there was nothing to end.

    Logs, MLflow's database and the shared storage stay.
    """
    cluster = load(folder)
    if cluster and cluster.isolated:
        isolation.require()
    there = bool(end(f"{tag_of(folder)}/")) or cluster is not None
    if cluster is None:
        return there
    if cluster.isolated:
        cluster.network.remove()
    for node in range(cluster.nodes + 1):
        shutil.rmtree(cluster.memory(node), ignore_errors=True)
    for left in (folder / "nodes", cluster.scratch):
        shutil.rmtree(left, ignore_errors=True)
    for name in ("token", "state.json"):
        (folder / name).unlink(missing_ok=True)
    return there


def say(text: str) -> None:
    print(text, flush=True)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    state = Path(user_state_dir("mipnet")) / "cluster"
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--state", type=Path, default=state, help="folder of the cluster [%(default)s]")
    parser = argparse.ArgumentParser(prog="local.py", description=(__doc__ or "").partition("\n\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add = verbs.add_parser("up", parents=[common], help="start a cluster")
    add.add_argument("--nodes", type=int, default=2, help="nodes beside the head [%(default)s]")
    add.add_argument("--isolated", action="store_true", help="own network and mounts for every node (root)")
    add.add_argument("--cpus", type=int, default=4, help="logical CPUs of a node [%(default)s]")
    add.add_argument("--data-nodes", type=int, default=0, help="the last so many are labelled to decode [0]")
    add.add_argument("--object-store-mb", type=int, default=512, help="of every node [%(default)s]")
    add.add_argument("--shared", type=Path, help="storage that all nodes can write [in the state folder]")
    for name, default in PORTS.items():
        add.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help="[%(default)s]")
    for verb, text in (("status", "nodes and addresses"), ("down", "end the cluster")):
        verbs.add_parser(verb, parents=[common], help=text)
    kill = verbs.add_parser("kill-node", parents=[common], help="SIGKILL to all of a node, 0 for the head")
    kill.add_argument("node", type=int)
    verbs.add_parser("run", parents=[common], help="run the command after -- on the head's side")
    return parser.parse_args(argv)


def carry_out(argv: Sequence[str]) -> int:
    split = argv.index("--") if "--" in argv else len(argv)  # what follows is not ours to parse
    options, words = parse(argv[:split]), argv[split + 1 :]
    folder = options.state.expanduser().resolve()
    if options.verb == "up":
        if options.nodes < 1 or options.cpus < 1 or not 0 <= options.data_nodes < options.nodes:
            raise UserError("give at least 1 to --nodes and --cpus, and to --data-nodes less than --nodes")
        values = {k: v for k, v in vars(options).items() if k not in ("verb", "state")}
        values["shared"] = str((options.shared or folder / "shared").expanduser().resolve())
        up(Cluster(folder=str(folder), **values))
    elif options.verb == "down":
        say("down" if down(folder) else "nothing is up")
    else:
        cluster = load(folder)
        if cluster is None:
            raise UserError(f"no cluster is up in {folder}", "start one with up")
        if options.verb == "run":
            return run(cluster, words)
        if options.verb == "kill-node":
            kill_node(cluster, options.node)
        else:
            status(cluster)
    return 0


def main() -> int:
    try:
        return carry_out(sys.argv[1:])
    except UserError as error:
        print(f"local.py: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
