"""System metrics of the machines (CPU, memory, disk, network, GPUs), under MLflow's names.

The samplers are MLflow's, its monitor is not used: it ends at the first failed request and blocks at the end.
Ours hands the values to the tracker, which keeps them until the server takes them.
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


class MachineSampler:
    """Samples the machine of this process; also used as a Ray actor.

    Create and call it in one thread: psutil measures CPU use between two calls of the same thread.

    Args:
        folder: its disk is sampled; MLflow's own sampler has the system's disk only.
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
        """Metrics by MLflow's names without ``system/``: percent, MB, W; traffic since the start."""
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
    """Samples the driver's machine and all GPU nodes every few seconds while the ``with`` block runs.

    The driver's machine has MLflow's plain names, the others carry their address in the name, as in
    ``system/10.0.0.7/gpu_0_utilization_percentage``.

    Args:
        log: called with values and a step, must not block: ``Tracker.log_metrics``.
        since: Unix time of the run's first start; a sample's step is the seconds since then.
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
        self._folder, self._others = folder, GpuNodeSamplers()
        self._stop_asked = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system metrics", daemon=True)

    def __enter__(self) -> SystemMetrics:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asked.set()
        self._thread.join(2 * self._interval)

    def _work(self) -> None:
        here, failed = MachineSampler(self._folder), False
        while not self._stop_asked.wait(self._interval):
            try:
                values = {f"system/{k}": v for k, v in here.sample().items()}
                for address, sample in self._others.samples(self._interval).items():
                    values |= {f"system/{address}/{k}": v for k, v in sample.items()}
                self._log(values, int(time.time() - self._since))
            except Exception as error:  # must not end the run
                if not failed:
                    logger.warning("system metrics are missing: %s", error)
                logger.debug("system metrics are missing", exc_info=True)
                failed = True


class GpuNodeSamplers:
    """A ``MachineSampler`` actor without CPUs on each GPU node beside the driver's.

    Nodes without GPUs get none, because an actor keeps an autoscaler from removing its node.
    """

    def __init__(self) -> None:
        self._actors: dict[str, Any] = {}

    def samples(self, timeout: float) -> dict[str, dict[str, float]]:
        """Address -> sample of each node that responds within ``timeout`` seconds."""
        import ray

        if not ray.is_initialized():
            return {}
        addresses = gpu_nodes(ray.nodes(), ray.get_runtime_context().get_node_id())
        remote = ray.remote(MachineSampler)
        self._actors = {
            node: self._actors.get(node)
            or remote.options(num_cpus=0, label_selector={"ray.io/node-id": node}).remote()
            for node in addresses
        }
        requests = {actor.sample.remote(): node for node, actor in self._actors.items()}
        if not requests:
            return {}
        ready, _ = ray.wait(list(requests), num_returns=len(requests), timeout=timeout)
        found = {}
        for ref in ready:
            node = requests[ref]
            try:
                found[addresses[node]] = ray.get(ref)
            except ray.exceptions.RayError as error:  # the next call starts another actor
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
