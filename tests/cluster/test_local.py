"""The cluster on one machine: its parts, its messages, and the real thing, also on isolated nodes."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cluster import local
from cluster.local import MARK, Cluster
from cluster.marked_processes import is_running, kill_marked, marked_processes
from mipnet.cli.main import exit_status
from mipnet.errors import UserError
from tests.helpers.isolated_cluster import IsolatedCluster, Network

LOOK = """
import json, os, sys
import ray
from mipnet.data.stream import decoding_label_selector, apply_execution_options

shared, ours = sys.argv[1], sys.argv[2]
ray.init(log_to_driver=False)
number = lambda: ray.get_runtime_context().get_node_labels()["mipnet.io/node"]

@ray.remote(num_cpus=1)
def visit():
    with open(f"/tmp/{ours}", "a") as file:
        file.write(number())
    open(os.path.join(shared, number()), "w").close()
    return [number(), open(f"/tmp/{ours}").read(), os.environ["MLFLOW_TRACKING_URI"]]

labels = [n["Labels"]["mipnet.io/node"] for n in ray.nodes() if n["Resources"].get("CPU")]
visits = [ray.get(visit.options(label_selector={"mipnet.io/node": n}).remote()) for n in sorted(labels)]
blocks = ray.data.range(6, override_num_blocks=6).map(lambda row: {"node": number()}, num_cpus=1)
selector = decoding_label_selector(ray.nodes())
decoded = {row["node"] for row in apply_execution_options(blocks, True, selector).iter_rows()}
print("FOUND", json.dumps({"visits": visits, "decoded": sorted(decoded)}))
"""


def cluster(folder: Path, kind: type[Cluster] = Cluster, **changes: object) -> Cluster:
    values: dict = {"nodes": 3, "cpus": 2, "data_nodes": 1, "object_store_mb": 100}
    values |= {"shared": str(folder / "shared")}
    return kind(folder=str(folder), **(values | changes))


def test_the_last_nodes_are_the_data_nodes_and_the_head_has_no_cpu(tmp_path):
    commands = [cluster(tmp_path).ray_start(node) for node in range(4)]
    labels = [next(w for w in c if w.startswith("--labels=")) for c in commands]
    assert [re.findall(r"role=(\w+)", text) for text in labels] == [[], ["train"], ["train"], ["data"]]
    assert [next(w for w in c if "num-cpus" in w) for c in commands] == ["--num-cpus=0"] + [
        "--num-cpus=2"
    ] * 3
    assert len({next(w for w in c if "node-ip" in w) for c in commands}) == 4
    assert not any("role" in w for w in cluster(tmp_path, data_nodes=0).ray_start(3))


def test_every_cluster_has_names_and_addresses_of_its_own(tmp_path):
    one, other = Network("aa0001"), Network("bb0001")
    names = (
        [n.bridge for n in (one, other)]
        + [n.link(2) for n in (one, other)]
        + [n.namespace(2) for n in (one, other)]
    )
    assert len(set(names)) == 6
    assert max(len(n) for n in names[:4]) <= 15  # the kernel's limit
    assert {n.address(0) for n in (one, other)} == {"198.18.170.1", "198.18.187.1"}
    assert cluster(tmp_path / "a").tag != cluster(tmp_path / "b").tag


def test_the_token_is_in_no_command_line_and_no_environment(tmp_path):
    cluster(tmp_path).prepare()
    token = cluster(tmp_path).token
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64
    for kind in (Cluster, IsolatedCluster):
        made = cluster(tmp_path, kind)
        said = [
            *made.environment("1").values(),
            *made.mlflow_server(),
            *made.ray_start(0),
            *made.ray_start(1),
        ]
        assert not any(token.read_text() in text for text in said)


def test_marked_processes_and_their_children_are_ended_and_no_others(tmp_path):
    script = "import subprocess, sys, time; subprocess.Popen(['env', '-i', 'sleep', '100']); time.sleep(100)"

    def start(mark: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", script], env={**os.environ, MARK: mark})

    first, second, other = start("test01/1/"), start("test01/2/"), start("test02/1/")
    try:
        wait_for(lambda: len(marked_processes("test01/")) == 4 and len(marked_processes("test02/")) == 2)
        assert kill_marked("test01/1/") == 2
        assert not alive(first)
        assert kill_marked("test01/") == 2
        assert not alive(second)
        assert len(marked_processes("test02/")) == 2
        assert kill_marked("test01/") == 0
    finally:
        kill_marked("test02/")
    assert not alive(other)


def alive(process: subprocess.Popen[bytes]) -> bool:
    return psutil.pid_exists(process.pid) and is_running(psutil.Process(process.pid))


def wait_for(ready: Callable[[], bool]) -> None:
    for _ in range(20_000):
        if ready():
            return
    raise AssertionError("it never came to that")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["status"], "no cluster is up in"),
        (["run", "--", "true"], "no cluster is up in"),
        (["kill-node", "1"], "no cluster is up in"),
        (["up", "--nodes", "0"], "give at least 1 to --nodes"),
        (["up", "--nodes", "2", "--data-nodes", "2"], "to --data-nodes less than --nodes"),
    ],
)
def test_errors_are_one_line(argv, message, tmp_path, capsys):
    words = [argv[0], "--state", str(tmp_path / "state"), *argv[1:]]
    assert exit_status("local.py", local.run_verb, words) == 2
    said = capsys.readouterr().err
    assert said.startswith("local.py: ")
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_what_is_missing_for_isolation_is_said_before_anything_starts(tmp_path, monkeypatch):
    wanted = cluster(tmp_path / "state", IsolatedCluster)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match="by root only; use sudo"):
        local.up(wanted)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="install iproute2"):
        local.up(wanted)
    assert not (tmp_path / "state").exists()


def test_a_port_in_use_is_said_before_anything_starts(tmp_path):
    made = cluster(tmp_path / "state")
    with socket.socket() as taken:
        taken.bind((made.address(), 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} is in use .*e.g. --mlflow-port \d+$"):
            local.up(cluster(tmp_path / "state", mlflow_port=port))
    assert not (tmp_path / "state").exists()


def test_down_without_a_cluster_does_nothing(drill):
    done = drill("down")
    assert (done.returncode, done.stdout) == (0, "nothing is up\n")


def rehearse(call: Callable[..., subprocess.CompletedProcess[str]], made: Cluster) -> dict:
    """A cluster of a training and a data node: what a driver sees on it, a lost node, nothing left over."""
    with socket.socket() as probe:  # Ray's own port is taken on all addresses; others may have the usual one
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    up = call("up", "--port", port, "--nodes", "2", "--data-nodes", "1", "--cpus", "2")
    assert up.returncode == 0, up.stderr
    token = made.token.read_text()
    assert len(re.findall(r"alive", up.stdout)) == 3
    assert ".py: a cluster is up in" in call("up").stderr

    script = Path(made.shared) / "look.py"
    script.write_text(LOOK)
    look = call("run", "--", "python", script, made.shared, f"mipnet-{made.tag}-luck")
    assert look.returncode == 0, look.stdout + look.stderr
    found = json.loads(look.stdout.rpartition("FOUND ")[2])
    assert sorted(p.name for p in Path(made.shared).glob("[0-9]")) == ["1", "2"]
    assert {uri for *_, uri in found["visits"]} == {made.mlflow}

    assert "killed node 1" in call("kill-node", "1").stdout
    status = call("status").stdout
    assert re.search(r"^node 1 .* dead$", status, re.M)
    assert ".py: node 1 is dead already" in call("kill-node", "1").stderr
    assert token not in up.stdout + up.stderr + status + look.stdout + look.stderr

    assert call("down").stdout == "down\n"
    assert not marked_processes(f"{made.tag}/")
    assert not made.scratch.exists()
    assert not list(Path("/dev/shm").glob(f"*{made.tag}*"))
    assert sorted(p.name for p in made.home.iterdir()) == ["logs", "mlflow", "shared"]
    return found


@pytest.mark.drill
def test_a_cluster_comes_up_works_and_goes_without_a_trace(drill, tmp_path):
    made = cluster(tmp_path)
    found = rehearse(drill, made)
    Path(f"/tmp/mipnet-{made.tag}-luck").unlink()
    assert [number for number, *_ in found["visits"]] == ["1", "2"]
    assert found["decoded"] == ["2"]  # the data node


@pytest.mark.drill
@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("drill", ["isolated"], indirect=True)
def test_isolated_nodes_share_nothing_but_the_storage(drill, tmp_path):
    made = cluster(tmp_path, IsolatedCluster)
    found = rehearse(drill, made)
    assert [(number, text) for number, text, _ in found["visits"]] == [("1", "1"), ("2", "2")]
    assert found["decoded"] == ["2"]
    assert not made.network.namespaces()
    assert not Path(f"/sys/class/net/{made.network.bridge}").exists()
