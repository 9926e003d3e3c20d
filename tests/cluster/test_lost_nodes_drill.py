"""A training of two workers on isolated nodes: a worker, and a node with both, are lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.local import Cluster
from cluster.marked_processes import kill_marked, marked_processes
from tests.helpers.disturbed import (
    AFTER,
    BEFORE,
    TRAIN,
    TRAINING,
    check,
    undisturbed_on_nodes,
    wait_for_training,
)
from tests.helpers.drills import only_run

NODES = 3
TWO_WORKERS = ["mipnet", *TRAIN, "--workers", "2", "--resources.cpus-per-worker", "1"]
"""A thread each, wherever they are: another number of threads rounds otherwise."""


def workers_by_node(folder: Path) -> dict[int, list[psutil.Process]]:
    """The training processes of each node that has some."""
    found: dict[int, list[psutil.Process]] = {}
    for node in range(1, NODES + 1):
        for process in marked_processes(f"{Cluster(str(folder)).tag}/{node}/"):
            if any(word.startswith(TRAINING) for word in process.cmdline()):
                found.setdefault(node, []).append(process)
    return found


@pytest.mark.drill
@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("drill", ["isolated"], indirect=True)
def test_lost_workers_and_nodes(drill: Any, tmp_path: Path) -> None:
    storage, undisturbed = undisturbed_on_nodes(drill, tmp_path, TWO_WORKERS, nodes=NODES)
    driver = drill.start(*TWO_WORKERS, "--resources.max-failures", "9", "--storage", storage)
    killed = []
    for when in (BEFORE, AFTER):
        wait_for_training(driver, storage, when, len(killed))
        one, *_ = (worker for workers in workers_by_node(tmp_path).values() for worker in workers)
        os.kill(one.pid, signal.SIGKILL)
        killed.append(f"worker 1 of 2 | {when}")
        wait_for_training(driver, storage, when, len(killed))
        ((node, workers),) = workers_by_node(tmp_path).items()
        assert len(workers) == 2
        kill_marked(f"{Cluster(str(tmp_path)).tag}/{node}/")
        killed.append(f"node with both workers | {when}")
    said, _ = driver.communicate(timeout=1500)
    assert driver.returncode == 0, said
    assert "Traceback" not in said
    assert "(raylet)" not in said, "Ray prints"
    events = json.loads((only_run(storage) / "run.json").read_text())["events"]
    assert [event["event"] for event in events] == ["restart"] * len(killed)
    check(storage, undisturbed, killed)
