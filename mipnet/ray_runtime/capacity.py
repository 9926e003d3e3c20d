"""How much decoding the cluster has room for: tasks, memory of their windows, and the object store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mipnet.config import Config
from mipnet.data.stream import decoding_nodes

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
        wanted = store_for(self.window, self.tasks)
        short = f", where all of them want {wanted / 1e9:,.1f}; lower --train.window-batches"
        return (
            f"stream: {self.tasks} decoding task(s) on {where}, each with a window of {self.samples} crops "
            f"({self.window / 1e6:,.0f} MB); object store {self.store / 1e9:,.1f} GB"
            + (short if self.store < wanted else "")
        )


def store_for(window: int, tasks: int) -> float:
    """Bytes of object store in which decoding does not wait for room.

    Ray Data gives a stream half of it. Each task has a window there, the consumer takes its batches out of
    one, and one is ready.
    """
    return 2.0 * (tasks + 2) * window


def capacity(nodes: Sequence[Mapping[str, Any]], config: Config, training_cpus: float) -> Capacity:
    """What the cluster, as it is now, has for decoding.

    Args:
        nodes: as ``ray.nodes()`` tells them.
        config: says how large a window is, and how many tasks at most: without ``resources.stream_workers``
            one for each CPU that is left, unless memory is short.
        training_cpus: that the training processes take.
    """
    window, wanted = config.window_bytes, config.resources.stream_workers
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
    return Capacity(tasks, limit, window, config.window_samples, store, bool(labels))
