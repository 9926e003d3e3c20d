"""CPU, memory, disk, network and GPUs of the machines, under the names of MLflow's System metrics tab.

MLflow's own monitor ends at the first answer that a server does not give, and is waited for at the end; this
one only hands numbers to the tracker, which keeps them until the server takes them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

SECONDS_BETWEEN_SAMPLES = 5.0


class Machine:
    """Samples the machine that this process runs on; also as a Ray actor.

    Args:
        folder: the disk that it lies on is watched.
    """

    def __init__(self, folder: str = "/") -> None:
        import psutil

        self._psutil, self._folder = psutil, folder
        self._received, self._sent = self._traffic()
        psutil.cpu_percent()  # the next call tells the share since this one
        self._gpus = _gpu_handles()

    def sample(self) -> dict[str, float]:
        """Metrics by MLflow's names without their ``system/``: percent, MB, W; traffic since the start."""
        psutil = self._psutil
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(self._folder)
        received, sent = self._traffic()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / 1e6,
            "disk_available_megabytes": disk.free / 1e6,
            "network_receive_megabytes": (received - self._received) / 1e6,
            "network_transmit_megabytes": (sent - self._sent) / 1e6,
        }
        for number, handle in enumerate(self._gpus):
            with contextlib.suppress(Exception):  # a driver that fails for a moment
                values |= {f"gpu_{number}_{name}": value for name, value in _sample_gpu(handle).items()}
        return {name: round(value, 1) for name, value in values.items()}

    def _traffic(self) -> tuple[int, int]:
        counters = self._psutil.net_io_counters()
        return (counters.bytes_recv, counters.bytes_sent) if counters else (0, 0)


def _gpu_handles() -> list[Any]:
    try:
        import pynvml

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # no GPU, no driver
        return []


def _sample_gpu(handle: Any) -> dict[str, float]:
    import pynvml

    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return {
        "utilization_percentage": pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        "memory_usage_percentage": 100 * memory.used / memory.total,
        "memory_usage_megabytes": memory.used / 1e6,
        "power_usage_watts": pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
    }


class SystemMetrics:
    """Samples the driver's machine and all with GPUs every few seconds while the ``with`` block runs.

    The driver's machine has MLflow's plain names, the others carry their address in the name, as in
    ``system/10.0.0.7/gpu_0_utilization_percentage``.

    Args:
        log: takes values and a step, and returns at once: ``Tracker.metrics``.
        since: Unix time at which the run first started; a sample's step is the seconds since then.
        folder: the disk to watch on the driver's machine.
        interval: seconds between samples.
    """

    def __init__(
        self,
        log: Callable[[dict[str, float], int], None],
        since: float,
        folder: str = "/",
        interval: float = SECONDS_BETWEEN_SAMPLES,
    ) -> None:
        self._log, self._since, self._interval = log, since, interval
        self._folder, self._others = folder, OtherMachines()
        self._stop_asked = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system metrics", daemon=True)

    def __enter__(self) -> SystemMetrics:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asked.set()
        self._thread.join(2 * self._interval)

    def _work(self) -> None:
        here = Machine(self._folder)  # psutil measures the use of the CPU between two calls of one thread
        while not self._stop_asked.wait(self._interval):
            with contextlib.suppress(Exception):  # numbers about a run must never end it
                values = {f"system/{k}": v for k, v in here.sample().items()}
                for address, sample in self._others.samples(self._interval).items():
                    values |= {f"system/{address}/{k}": v for k, v in sample.items()}
                self._log(values, int(time.time() - self._since))


class OtherMachines:
    """The nodes with GPUs beside the driver's, each with a ``Machine`` actor that takes no CPU.

    Not the other nodes: an actor would keep an autoscaler from giving them back.
    """

    def __init__(self) -> None:
        self._actors: dict[str, Any] = {}

    def samples(self, patience: float) -> dict[str, dict[str, float]]:
        """Address -> sample of each node that answers within ``patience`` seconds."""
        import ray

        if not ray.is_initialized():
            return {}
        addresses = gpu_nodes(ray.nodes(), ray.get_runtime_context().get_node_id())
        remote = ray.remote(Machine)
        self._actors = {
            node: self._actors.get(node)
            or remote.options(num_cpus=0, label_selector={"ray.io/node-id": node}).remote()
            for node in addresses
        }
        asked = {actor.sample.remote(): node for node, actor in self._actors.items()}
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=patience) if asked else ([], [])
        found = {}
        for answer in ready:
            node = asked[answer]
            try:
                found[addresses[node]] = ray.get(answer)
            except ray.exceptions.RayError:  # another actor next time
                del self._actors[node]
        return found


def gpu_nodes(nodes: Sequence[Mapping[str, Any]], here: str) -> dict[str, str]:
    """Id -> address of the live nodes with GPUs beside the one whose id is ``here``."""
    return {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in nodes
        if node["Alive"] and node["NodeID"] != here and node["Resources"].get("GPU", 0)
    }
