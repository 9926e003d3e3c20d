"""Training on 1, 2, 4, … workers of the cluster at hand: samples/s, and how long it waits for data."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import harmonic_mean
from typing import Any

import numpy as np
import ray

from mipnet.config import Config
from mipnet.config.schema import ResourcesConfig, validate
from mipnet.data.capacity import capacity
from mipnet.data.records import People
from mipnet.data.windows import WindowPlan
from mipnet.errors import ConfigError
from mipnet.inference.tables import aligned
from mipnet.machine import cores
from mipnet.storage import Folder
from mipnet.training.trainer import fit


@dataclass(frozen=True)
class FirstSteps(WindowPlan):
    """The beginning of a plan.

    Attributes:
        length: in steps.
    """

    length: int

    @property
    def total_steps(self) -> int:
        return self.length


@dataclass(frozen=True)
class Point:
    """What training on so many workers came to.

    Attributes:
        workers: training processes.
        rates: samples per second of all of them, one for each round.
        waited: the share of each round's time for which rank 0 waited for data.
    """

    workers: int
    rates: list[float]
    waited: list[float]

    @property
    def rate(self) -> float:
        """Samples per second over all rounds, which have equally many samples."""
        return harmonic_mean(self.rates)

    @property
    def waiting(self) -> float:
        """The share of the time of all rounds."""
        return float(np.average(self.waited, weights=1 / np.array(self.rates)))


def room(resources: ResourcesConfig, nodes: Sequence[Mapping[str, Any]]) -> int:
    """The most workers that fit into the cluster as it is now, beside a CPU that decodes.

    Args:
        resources: with ``gpu`` settled.
        nodes: as ``ray.nodes()`` tells them.
    """
    cpus = max(resources.cpus_per_worker, 1)
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    most = int(sum(node.get("CPU", 0) for node in alive) - 1) // cpus
    if len(alive) == 1:
        most = min(most, cores() // cpus)  # a local Ray has more CPUs than its machine has cores
    wanted = {"CPU": cpus, "GPU": 1} if resources.gpu is True else {"CPU": cpus}
    places = sum(int(min(node.get(kind, 0) // n for kind, n in wanted.items())) for node in alive)
    return max(min(places, most), 1)


def counts(config: Config, most: int) -> list[int]:
    """1, 2, 4, … and ``most`` workers, without those among whom the batch cannot be split."""
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


def decoding_tasks(config: Config) -> int:
    """How many windows are cut at the same time while the configured workers train."""
    resources = config.resources
    return capacity(ray.nodes(), config, resources.workers * max(resources.cpus_per_worker, 1)).tasks


def measure(config: Config, people: People, scratch: Folder, rounds: int) -> Point:
    """Train from random weights through the stream, without checkpoints.

    In a round every decoding task makes one window. Windows come as tasks end, all at about the same time:
    over whole rounds as much is made as is taken. The first, with all that has to start, does not count.

    Args:
        config: with the number of workers.
        people: what to train on.
        scratch: a folder that all nodes share.
        rounds: how many count.

    Raises:
        UserError: the training failed.
    """
    tasks, settings = decoding_tasks(config), config.train
    log_steps = tasks * settings.window_batches
    steps = (1 + rounds) * log_steps
    plan = FirstSteps(
        people.first, settings.seed, settings.epochs, settings.batch_size, settings.window_batches, steps
    )
    config = replace(
        config,
        train=replace(settings, log_steps=log_steps, checkpoint_steps=steps + 1),
        resources=replace(config.resources, max_failures=0),
    )
    name = uuid.uuid4().hex
    try:
        found = fit(
            config,
            scratch.join(name),
            people,
            plan,
            until=steps + 1,
            tasks=tasks,
            mend="mend that, and run the same command again",
        )
    finally:
        scratch.remove(name)
    rows = found["history"][1:]
    return Point(
        config.resources.workers,
        [row["samples_per_second"] for row in rows],
        [row["waited_for_data"] for row in rows],
    )


def scaling(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Each point's figures; the speed-up is over the first, the efficiency is that of each worker."""
    first = points[0]
    return [
        {
            "workers": point.workers,
            "samples_per_second": point.rate,
            "speed_up": point.rate / first.rate,
            "efficiency": point.rate / first.rate * first.workers / point.workers,
            "waited_for_data": point.waiting,
            "rounds": {"samples_per_second": point.rates, "waited_for_data": point.waited},
        }
        for point in points
    ]


def scaling_table(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [("workers", "samples/s", "speed-up", "efficiency", "waiting for data")]
    for point in found:
        rows.append(
            (
                str(point["workers"]),
                f"{point['samples_per_second']:,.4g}",
                f"x {point['speed_up']:.2f}",
                f"{point['efficiency']:.0%}",
                f"{point['waited_for_data']:.1%}",
            )
        )
    return "\n".join(aligned(rows, 0))
