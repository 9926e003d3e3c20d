"""CPU, memory, disk, network and GPUs of the machines, under the names of MLflow's System metrics tab.

The samplers are MLflow's. Its monitor, which calls them, ends at the first answer that a server does not
give, and is waited for at the end; this one only hands numbers to the tracker, which keeps them until the
server takes them.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

SECONDS_BETWEEN_SAMPLES = 5.0

logger = logging.getLogger(__name__)


class Machine:
    """Samples the machine that this process runs on; also as a Ray actor.

    Made and asked by one thread: psutil measures the use of the CPU between two calls of a thread.

    Args:
        folder: the disk that it lies on is watched; MLflow's own sampler knows the system's disk only.
    """

    def __init__(self, folder: str = "/") -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self._folder, self._monitors = folder, [CPUMonitor(), NetworkMonitor()]
        try:
            self._monitors.append(GPUMonitor())
        except (RuntimeError, ImportError) as error:
            logger.info("no metrics of GPUs: %s", error)
        self.sample()

    def sample(self) -> dict[str, float]:
        """Metrics by MLflow's names without their ``system/``: percent, MB, W; traffic since the start."""
        _, used, free = shutil.disk_usage(self._folder)
        values = {
            "disk_usage_percentage": 100 * used / (used + free),
            "disk_usage_megabytes": used / 1e6,
            "disk_available_megabytes": free / 1e6,
        }
        for monitor in self._monitors:
            monitor.clear_metrics()
            monitor.collect_metrics()
            values |= monitor.aggregate_metrics()
        return {name: round(value, 1) for name, value in values.items()}


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
        here, failed = Machine(self._folder), False
        while not self._stop_asked.wait(self._interval):
            try:
                values = {f"system/{k}": v for k, v in here.sample().items()}
                for address, sample in self._others.samples(self._interval).items():
                    values |= {f"system/{address}/{k}": v for k, v in sample.items()}
                self._log(values, int(time.time() - self._since))
            except Exception as error:  # numbers about a run must never end it
                if not failed:
                    logger.warning("system metrics are missing: %s", error)
                failed = True


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
            except ray.exceptions.RayError as error:  # another actor next time
                logger.info("no metrics of %s: %s", addresses[node], error)
                del self._actors[node]
        return found


def gpu_nodes(nodes: Sequence[Mapping[str, Any]], here: str) -> dict[str, str]:
    """Id -> address of the live nodes with GPUs beside the one whose id is ``here``."""
    return {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in nodes
        if node["Alive"] and node["NodeID"] != here and node["Resources"].get("GPU", 0)
    }
