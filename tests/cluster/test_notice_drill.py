"""Nodes that are drained, and a job that is stopped, in a training of two workers: no step is lost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.local import Cluster
from cluster.marked_processes import kill_marked, marked_processes
from tests.cluster.test_lost_nodes_drill import TWO_WORKERS, workers_by_node
from tests.helpers.disturbed import check, steps_of, train_starts, undisturbed_on_nodes
from tests.helpers.drills import only_run, wait_for
from tests.helpers.isolated_cluster import PROJECT

LONG = [*TWO_WORKERS, "--epochs", "200", "--train.checkpoint-steps", "150"]
"""Longer than a minute of notice."""
SECONDS_TO_START = 600


def node_id(tag: str, node: int) -> str:
    """Ray's id of a node of the cluster."""
    words = [word for process in marked_processes(f"{tag}/{node}/") for word in process.cmdline()]
    (found,) = {word.partition("=")[2] for word in words if re.fullmatch("--node_id=[0-9a-f]{56}", word)}
    return found


def steps_made(storage: Path, start: int) -> int:
    """How many steps the start of that number, from 0, has made."""
    starts = train_starts(storage)
    return len(steps_of(starts[start])) if len(starts) > start else 0


def drain(drill: Any, tmp_path: Path, driver: subprocess.Popen[str], seconds: int) -> str:
    """Give the node of both workers notice, and kill it when the time is over; returns its address."""
    cluster = Cluster(str(tmp_path))
    ((node, workers),) = workers_by_node(tmp_path).items()
    assert len(workers) == 2
    script = ["spot_notice.py", "now", "--seconds", seconds, "--node-id", node_id(cluster.tag, node)]
    done = drill("run", "--", "python", PROJECT / "cluster" / script[0], *script[1:])
    assert done.returncode == 0, done.stdout + done.stderr
    deadline = time.monotonic() + seconds
    wait_for(driver, lambda: time.monotonic() > deadline)
    kill_marked(f"{cluster.tag}/{node}/")
    return f"198.18.{int(cluster.tag[:2], 16)}.{node + 1}"


pytestmark = [
    pytest.mark.drill,
    pytest.mark.usefixtures("namespaces"),
    pytest.mark.parametrize("drill", ["isolated"], indirect=True),
]


def test_drained_nodes(drill: Any, tmp_path: Path) -> None:
    storage, undisturbed = undisturbed_on_nodes(drill, tmp_path, LONG)
    driver = drill.start(*LONG, "--storage", storage)
    drained = []
    for number, seconds in enumerate((15, 60)):
        wait_for(driver, lambda number=number: steps_made(storage, number) > 10)
        address = drain(drill, tmp_path, driver, seconds)
        drained.append(f"notice of {seconds} s for {address}")
    said, _ = driver.communicate(timeout=1500)
    assert driver.returncode == 0, said
    assert "Traceback" not in said
    assert "(raylet)" not in said, "Ray prints"
    events = json.loads((only_run(storage) / "run.json").read_text())["events"]
    print(*events, sep="\n")
    assert [event["event"] for event in events] == ["restart"] * len(drained)
    for event, told in zip(events, drained, strict=True):
        assert re.match(r"notice of \d+ s for ", event["cause"])
        assert f"{told.rpartition(' ')[2]} (worker 0, 1)" in event["cause"]
    check(storage, undisturbed, drained, told=True)


def test_a_stopped_job(drill: Any, tmp_path: Path) -> None:
    """``jobs/submit.py stop`` is ``ray job stop``: SIGTERM to the driver, on the head."""
    storage, undisturbed = undisturbed_on_nodes(drill, tmp_path, TWO_WORKERS, nodes=1)

    def submit(*argv: object) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = drill(
            "run", "--", "env", "-u", "MLFLOW_TRACKING_URI", sys.executable, PROJECT / "jobs/submit.py", *argv
        )
        return done

    flags = [*TWO_WORKERS[2:], "--storage", storage]
    uri = f"sqlite:///{storage / 'mlflow.db'}"
    own = ("--env", f"MLFLOW_TRACKING_URI={uri}")
    sent = submit("train", "first", "--no-wait", *own, "--", *flags)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    deadline = time.monotonic() + SECONDS_TO_START
    while not steps_made(storage, 0) > 10:
        assert time.monotonic() < deadline, submit("logs", "first", "--on-interrupt", "detach").stdout
        time.sleep(0.1)
    begin = time.monotonic()
    stopped = submit("stop", "first")
    assert "job first: stopped" in stopped.stdout, stopped.stdout + stopped.stderr
    seconds = time.monotonic() - begin
    said = submit("logs", "first").stdout
    assert "stopping: saving a checkpoint" in said
    assert "interrupted; the same command goes on where it was" in said
    done = submit("train", "second", *own, "--", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    (event,) = json.loads((only_run(storage) / "run.json").read_text())["events"]
    assert (event["event"], event["cause"]) == ("resume", "interrupted")
    check(storage, undisturbed, [f"ray job stop, ended after {seconds:.0f} s"], told=True)
