"""The network between two of a training's nodes is cut: for a while, and for good."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.local import Cluster
from mipnet.training.trainer import COLLECTIVE_TIMEOUT_SECONDS
from tests.cluster.test_lost_nodes_drill import workers_by_node
from tests.helpers.disturbed import TRAIN, check, restarts, steps_of, train_starts, undisturbed_on_nodes
from tests.helpers.drills import only_run, wait_for
from tests.helpers.isolated_cluster import Network, ip

SPREAD = ["mipnet", *TRAIN, "--workers", "2", "--resources.cpus-per-worker", "2"]
"""One worker fits on a node of three CPUs, the third decodes; a third node has room for another."""
HEALS_AFTER_SECONDS = 20


@contextmanager
def cut(network: Network, node: int) -> Iterator[None]:
    """The cable of a node is out for the time of the ``with`` block."""
    ip("link", "set", network.link(node), "down")
    yield
    ip("link", "set", network.link(node), "up")


def last_step_made(storage: Path) -> float:
    """When, in seconds since 1970; 0 before the first."""
    times = [record["time"] for records in train_starts(storage) for record in records]
    return max(times, default=0) / 1000


def wait_for_steps(driver: subprocess.Popen[str], storage: Path) -> None:
    """Wait for a step that is made from now on."""
    begin = time.time()
    wait_for(driver, lambda: last_step_made(storage) > begin)


@pytest.mark.drill
@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("drill", ["isolated"], indirect=True)
def test_a_partition_that_heals_and_one_that_does_not(drill: Any, tmp_path: Path) -> None:
    storage, undisturbed = undisturbed_on_nodes(drill, tmp_path, SPREAD, cpus=3)
    network = Network(Cluster(str(tmp_path)).tag)
    driver = drill.start(*SPREAD, "--resources.max-failures", "9", "--storage", storage)
    wait_for(driver, lambda: any(len(steps_of(records)) > 3 for records in train_starts(storage)))
    node = max(workers_by_node(tmp_path))  # rank 0 may be anywhere: its node is cut, or the other's
    with cut(network, node):
        begin = time.monotonic()
        wait_for(driver, lambda: time.monotonic() > begin + HEALS_AFTER_SECONDS)
    wait_for_steps(driver, storage)
    healed = time.monotonic() - begin
    assert healed < COLLECTIVE_TIMEOUT_SECONDS

    times = len(restarts(storage))
    node = max(workers_by_node(tmp_path))
    with cut(network, node):  # until the training is over
        begin = time.monotonic()
        wait_for(driver, lambda: len(restarts(storage)) > times)
        wait_for_steps(driver, storage)
        lost = time.monotonic() - begin
        assert lost < COLLECTIVE_TIMEOUT_SECONDS
        said, _ = driver.communicate(timeout=1500)
    assert driver.returncode == 0, said
    assert "Traceback" not in said
    assert "(raylet)" not in said, "Ray prints"
    events = json.loads((only_run(storage) / "run.json").read_text())["events"]
    print(*events, sep="\n")
    names = [f"cut for {HEALS_AFTER_SECONDS} s, steps again after {healed:.0f} s"] * times
    check(storage, undisturbed, [*names, f"cut for good, steps again after {lost:.0f} s"])
    print(f"cut for {HEALS_AFTER_SECONDS} s: {healed:.0f} s to the next step, {times} restart(s)")
