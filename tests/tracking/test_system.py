"""Samples of the machines, under MLflow's names, that never hold up or end a run."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mipnet.tracking import system
from mipnet.tracking.system import MachineSampler, SystemMetrics, gpu_nodes

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
    sample = MachineSampler(str(tmp_path)).sample()
    assert {name for name in sample if not name.startswith("gpu_")} == theirs
    assert all(0 <= value <= 100 for name, value in sample.items() if name.endswith("percentage"))
    assert sample["system_memory_usage_megabytes"] > 10


def test_the_disk_is_that_of_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    disks = {"/storage": (100e6, 30e6, 60e6)}
    monkeypatch.setattr(system.shutil, "disk_usage", disks.__getitem__)
    sample = MachineSampler("/storage").sample()
    assert {name: value for name, value in sample.items() if name.startswith("disk")} == {
        "disk_usage_percentage": 33.3,  # of what is not kept for the system's own
        "disk_usage_megabytes": 30.0,
        "disk_available_megabytes": 60.0,
    }


class Card:
    """Stands in for NVIDIA's library, for a machine with two GPUs."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(used=20e9, total=80e9)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        if handle == 0:
            raise self.NVMLError("GPU is lost")
        return SimpleNamespace(gpu=93)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return 350_000

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        return 700_000


def test_gpus_are_numbered_and_what_one_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.system_metrics.metrics import gpu_monitor

    monkeypatch.setattr(gpu_monitor, "pynvml", Card())
    gpus = {k: v for k, v in MachineSampler().sample().items() if k.startswith("gpu")}
    assert gpus["gpu_1_utilization_percentage"] == 93.0
    assert "gpu_0_utilization_percentage" not in gpus
    for number in (0, 1):
        assert gpus[f"gpu_{number}_memory_usage_percentage"] == 25.0
        assert gpus[f"gpu_{number}_memory_usage_megabytes"] == 20_000.0
        assert gpus[f"gpu_{number}_power_usage_watts"] == 350.0


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


def test_an_error_in_a_sample_ends_nothing_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(values: dict[str, float], step: int) -> None:
        raise OSError("no")

    watch(refuse, 3, since=time.time())
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "system metrics are missing: no")
    ]


def test_other_machines_carry_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: Logged = []
    monkeypatch.setattr(
        system.GpuNodeSamplers,
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
