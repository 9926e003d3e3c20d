"""Samples of the machines, under MLflow's names, that never hold up or end a run."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from mipnet.tracking import system
from mipnet.tracking.system import Machine, SystemMetrics, gpu_nodes

Logged = list[tuple[dict[str, float], int]]


def test_a_sample_has_the_names_that_mlflow_has(tmp_path: Path) -> None:
    """Or its page of system metrics stays empty."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    theirs = set()
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
        monitor.collect_metrics()
        theirs |= set(monitor.aggregate_metrics())
    machine = Machine(str(tmp_path))
    machine._gpus = []
    sample = machine.sample()
    assert sample.keys() == theirs
    assert all(0 <= value <= 100 for name, value in sample.items() if name.endswith("percentage"))
    assert sample["system_memory_usage_megabytes"] > 10


def test_gpus_are_numbered_and_one_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def sample_gpu(handle: str) -> dict[str, float]:
        if handle == "broken":
            raise RuntimeError("GPU is lost")
        return {"utilization_percentage": 93.0}

    monkeypatch.setattr(system, "_gpu_handles", lambda: ["broken", "fine"])
    monkeypatch.setattr(system, "_sample_gpu", sample_gpu)
    sample = Machine().sample()
    assert {k: v for k, v in sample.items() if k.startswith("gpu")} == {"gpu_1_utilization_percentage": 93.0}


def watch(log, samples: int, **kwargs) -> None:  # type: ignore[no-untyped-def]
    """Let the thread take so many samples."""
    enough = threading.Semaphore(0)

    def counted(values: dict[str, float], step: int) -> None:
        enough.release()
        log(values, step)

    with SystemMetrics(counted, interval=0.01, **kwargs):
        for _ in range(samples):
            assert enough.acquire(timeout=30)


def test_samples_go_on_where_an_earlier_start_ended() -> None:
    """A step is a second since the run first began, so a resumed run's curve does not begin at 0 again."""
    logged: Logged = []
    watch(lambda *sample: logged.append(sample), 2, since=time.time() - 5000)
    assert all(5000 <= step < 5100 for _, step in logged)
    assert all(name.startswith("system/") for values, _ in logged for name in values)


def test_an_error_in_a_sample_ends_nothing() -> None:
    def refuse(values: dict[str, float], step: int) -> None:
        raise OSError("no")

    watch(refuse, 3, since=time.time())


def test_other_machines_carry_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: Logged = []
    monkeypatch.setattr(
        system.OtherMachines,
        "samples",
        lambda self, patience: {"10.0.0.7": {"gpu_0_power_usage_watts": 300.0}},
    )
    watch(lambda *sample: logged.append(sample), 1, since=time.time())
    assert logged[0][0]["system/10.0.0.7/gpu_0_power_usage_watts"] == 300.0


def test_only_live_gpu_nodes_are_asked() -> None:
    def node(name: str, alive: bool = True, **resources: float) -> dict[str, object]:
        return {"NodeID": name, "NodeManagerAddress": f"at {name}", "Alive": alive, "Resources": resources}

    nodes = [node("here", GPU=1.0), node("a", GPU=8.0), node("b", CPU=8.0), node("c", False, GPU=8.0)]
    assert gpu_nodes(nodes, "here") == {"a": "at a"}
