"""Decoding capacity of a cluster: tasks, memory of their shuffle windows, and the object store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mipnet.config import Config
from mipnet.data.stream import decoding_label_selector

WINDOW_MEMORY_FRACTION = 0.5
"""Fraction of a node's memory for shuffle windows; the rest is for training, images and the page cache."""


@dataclass(frozen=True)
class Capacity:
    """What the stream may use.

    Attributes:
        tasks: decoding tasks at the same time, as the cluster is now.
        max_tasks: as asked for or as memory allows; 0: no limit, so that more start when the cluster grows.
        window_bytes: of the crops of a shuffle window.
        window_samples: crops of a shuffle window.
        object_store_bytes: of the decoding nodes; Ray Data starts no task that would overfill them.
        dedicated_nodes: decoding runs on nodes that are labelled for it.
    """

    tasks: int
    max_tasks: int
    window_bytes: int
    window_samples: int
    object_store_bytes: float
    dedicated_nodes: bool

    def line(self) -> str:
        where = "nodes labelled for data" if self.dedicated_nodes else "CPUs beside the training"
        wanted = object_store_needed(self.window_bytes, self.tasks)
        short = f", where all of them want {wanted / 1e9:,.1f}; lower --train.window-batches"
        return (
            f"stream: {self.tasks} decoding task(s) on {where}, each with a window of "
            f"{self.window_samples} crops ({self.window_bytes / 1e6:,.0f} MB); "
            f"object store {self.object_store_bytes / 1e9:,.1f} GB"
            + (short if self.object_store_bytes < wanted else "")
        )


def object_store_needed(window_bytes: int, tasks: int) -> float:
    """Bytes of object store with which decoding never waits for space.

    Ray Data gives a stream half of it. Each task holds a window there, the consumer reads from one, and one
    is ready.
    """
    return 2.0 * (tasks + 2) * window_bytes


def capacity(nodes: Sequence[Mapping[str, Any]], config: Config, training_cpus: float) -> Capacity:
    """Decoding capacity of the cluster as it is now.

    Args:
        nodes: of ``ray.nodes()``.
        config: has the size of a window and the number of tasks (``resources.stream_workers``); without that
            one for each CPU that is left, unless memory is short.
        training_cpus: CPUs of the training workers.
    """
    window_bytes, wanted = config.window_bytes, config.resources.stream_workers
    labels = decoding_label_selector(nodes) or {}
    alive = [node for node in nodes if node["Alive"] and labels.items() <= node["Labels"].items()]
    cpus = sum(node["Resources"].get("CPU", 0) for node in alive) - (0 if labels else training_cpus)
    # Two windows for each task: one is handed over while the next is filled.
    by_memory = sum(
        int(node["Resources"].get("memory", 0) * WINDOW_MEMORY_FRACTION // (2 * window_bytes))
        if "memory" in node["Resources"]
        else int(node["Resources"].get("CPU", 0))
        for node in alive
    )
    tasks = max(min(int(cpus), wanted or int(cpus), by_memory), 1)
    store = sum(node["Resources"].get("object_store_memory", 0) for node in alive)
    max_tasks = max(min(wanted or by_memory, by_memory), 1) if wanted or by_memory < cpus else 0
    return Capacity(tasks, max_tasks, window_bytes, config.window_samples, store, bool(labels))
