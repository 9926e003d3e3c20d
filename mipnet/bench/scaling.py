"""Training on 1, 2, 4, … workers of this cluster: samples/s, and the fraction of time waiting for data."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import harmonic_mean
from typing import Any

import numpy as np
import ray

from mipnet.config import Config
from mipnet.config.schema import ResourcesConfig
from mipnet.config.validation import validate
from mipnet.data.coco import PersonAnnotations
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.errors import ConfigError
from mipnet.formats import aligned
from mipnet.host import cores
from mipnet.ray_runtime.capacity import capacity
from mipnet.storage import Folder
from mipnet.training.trainer import fit, make_schedule

WARM_UP_ROUNDS = 2
"""Where rounds last a second, the processes that decode are still starting in the second round."""


@dataclass(frozen=True)
class TruncatedSchedule(SampleSchedule):
    """The first steps of a schedule.

    Attributes:
        length: in steps.
    """

    length: int

    @property
    def total_steps(self) -> int:
        return self.length


def max_workers(resources: ResourcesConfig, nodes: Sequence[Mapping[str, Any]]) -> int:
    """The most workers that fit into the cluster as it is now, with one CPU left for decoding.

    Args:
        resources: with ``gpu`` resolved.
        nodes: from ``ray.nodes()``.
    """
    cpus = max(resources.cpus_per_worker, 1)
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    most = int(sum(node.get("CPU", 0) for node in alive) - 1) // cpus
    if len(alive) == 1:
        most = min(most, cores() // cpus)  # a local Ray has more CPUs than its machine has cores
    wanted = {"CPU": cpus, "GPU": 1} if resources.gpu is True else {"CPU": cpus}
    fitting = sum(int(min(node.get(kind, 0) // n for kind, n in wanted.items())) for node in alive)
    return max(min(fitting, most), 1)


def worker_counts(config: Config, most: int) -> list[int]:
    """1, 2, 4, … and ``most`` workers, without numbers for which the batch is too small."""
    numbers = sorted({*(2**i for i in range(most.bit_length())), most})
    return [number for number in numbers if _possible(with_workers(config, number))]


def with_workers(config: Config, workers: int) -> Config:
    return replace(config, resources=replace(config.resources, workers=workers))


def _possible(config: Config) -> bool:
    try:
        validate(config)
    except ConfigError:
        return False
    return True


def measure_scaling(
    config: Config, workers: int, people: PersonAnnotations, scratch: Folder, rounds: int
) -> dict[str, Any]:
    """Train from random weights through the stream, without checkpoints.

    In a round every decoding task makes one window. All tasks end at about the same time, so only over whole
    rounds as many samples are made as are used. The first two rounds do not count: workers and tasks start.

    Args:
        config: what is trained.
        workers: number of training processes.
        people: what to train on.
        scratch: a folder that all nodes share.
        rounds: number of rounds that count.

    Returns:
        see ``summarize_rounds``.

    Raises:
        UserError: the training failed.
    """
    config = with_workers(config, workers)
    settings = config.train
    tasks = capacity(ray.nodes(), config, workers * max(config.resources.cpus_per_worker, 1)).tasks
    log_steps = tasks * settings.window_batches
    steps = (WARM_UP_ROUNDS + rounds) * log_steps
    schedule = TruncatedSchedule(**vars(make_schedule(config, people)), length=steps)
    settings = replace(settings, log_steps=log_steps, checkpoint_steps=steps + 1)
    config = replace(config, train=settings, resources=replace(config.resources, max_failures=0))
    name, hint = uuid.uuid4().hex, "run the same command again"
    folder = scratch.join(name)
    try:
        found = fit(config, folder, people, schedule, end_step=steps + 1, max_decoding_tasks=tasks, hint=hint)
    finally:
        scratch.remove(name)
    return summarize_rounds(workers, found["history"][WARM_UP_ROUNDS:])


def summarize_rounds(workers: int, rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Rates over all rounds.

    Args:
        workers: number of training processes.
        rounds: logged rows of equally many samples each; the waiting is that of rank 0.
    """
    rates = [row["samples_per_second"] for row in rounds]
    waited = [row["waited_for_data"] for row in rounds]
    return {
        "workers": workers,
        "samples_per_second": harmonic_mean(rates),
        "waited_for_data": float(np.average(waited, weights=1 / np.array(rates))),
        "rounds": {"samples_per_second": rates, "waited_for_data": waited},
    }


def with_speed_up(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The points with their speed-up over the first, and their parallel efficiency."""
    speed_ups = [p["samples_per_second"] / points[0]["samples_per_second"] for p in points]
    return [
        {**p, "speed_up": speed_up, "efficiency": speed_up * points[0]["workers"] / p["workers"]}
        for p, speed_up in zip(points, speed_ups, strict=True)
    ]


def scaling_table(points: Sequence[Mapping[str, Any]]) -> str:
    rows = [("workers", "samples/s", "speed-up", "efficiency", "waiting for data")]
    for p in points:
        ratios = f"x {p['speed_up']:.2f}", f"{p['efficiency']:.0%}", f"{p['waited_for_data']:.1%}"
        rows.append((str(p["workers"]), f"{p['samples_per_second']:,.4g}", *ratios))
    return "\n".join(aligned(rows, 0))
