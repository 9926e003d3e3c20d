"""How much decoding the cluster has room for: tasks, memory of their windows, and the object store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mipnet.data.crops import CropSettings
from mipnet.data.stream import decoding_nodes
from mipnet.data.windows import WindowPlan

SHARE_OF_MEMORY = 0.5
"""Of a node's memory, for windows; the rest is for the training, decoded images and the page cache."""


@dataclass(frozen=True)
class Capacity:
    """What the stream may use.

    Attributes:
        tasks: that decode at the same time, as the cluster is now.
        limit: of tasks, as asked for or as memory bears; 0 is none: more follow when the cluster grows.
        window: bytes of the crops of a window.
        samples: of a window.
        store: bytes of the decoding nodes' object stores; Ray Data starts no task that would overfill them.
        apart: decoding runs on nodes of its own.
    """

    tasks: int
    limit: int
    window: int
    samples: int
    store: float
    apart: bool

    def line(self) -> str:
        where = "nodes labelled for data" if self.apart else "CPUs beside the training"
        return (
            f"stream: {self.tasks} decoding task(s) on {where}, each with a window of {self.samples} crops "
            f"({self.window / 1e6:,.0f} MB); object store {self.store / 1e9:,.1f} GB"
        )


def capacity(
    nodes: Sequence[Mapping[str, Any]],
    plan: WindowPlan,
    settings: CropSettings,
    training_cpus: float,
    wanted: int = 0,
) -> Capacity:
    """What the cluster, as it is now, has for decoding.

    Args:
        nodes: as ``ray.nodes()`` tells them.
        plan, settings: how large a window is.
        training_cpus: that the training processes take.
        wanted: at most this many tasks; 0: one for each CPU that is left, unless memory is short.
    """
    samples = plan.window_batches * plan.batch_size
    window = samples * 3 * settings.size[0] * settings.size[1]
    labels = decoding_nodes(nodes) or {}
    alive = [node for node in nodes if node["Alive"] and labels.items() <= node["Labels"].items()]
    cpus = sum(node["Resources"].get("CPU", 0) for node in alive) - (0 if labels else training_cpus)
    # While one window is handed over the next may be cut: two for each task.
    room = sum(
        int(node["Resources"].get("memory", 0) * SHARE_OF_MEMORY // (2 * window))
        if "memory" in node["Resources"]
        else int(node["Resources"].get("CPU", 0))
        for node in alive
    )
    tasks = max(min(int(cpus), wanted or int(cpus), room), 1)
    store = sum(node["Resources"].get("object_store_memory", 0) for node in alive)
    limit = max(min(wanted or room, room), 1) if wanted or room < cpus else 0
    return Capacity(tasks, limit, window, samples, store, bool(labels))
