"""``mipnet bench stream``: the comparisons of loaders and streams, printed and as figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from tempfile import TemporaryDirectory
from typing import Any

import ray

from mipnet.bench.device import pin_to_cores
from mipnet.bench.loading import LoaderComparison
from mipnet.bench.plain_loader import PlainLoader
from mipnet.bench.rounds import measured, table, time_interleaved
from mipnet.bench.streaming import LoaderTiming, StreamTiming, stream, time_loaders_alone
from mipnet.config import Config
from mipnet.config.schema import InputConfig, TargetConfig
from mipnet.console import say
from mipnet.data.coco import PersonAnnotations
from mipnet.data.crops import crop_settings
from mipnet.data.stream import CropLoader
from mipnet.formats import aligned
from mipnet.storage import Folder
from mipnet.training.trainer import make_schedule

MAX_STREAM_ROUNDS = 3
"""Few and long rounds, because starting and ending a stream takes seconds that do not count."""
MAX_PACKED_IMAGES = 2000
"""A data set of more images is not packed for the comparison."""
IDLE = "idle, or taken by others"


def with_crop_size(config: Config, size: tuple[int, int]) -> Config:
    """The configuration with crops of ``size`` (width, height)."""
    return replace(config, input=InputConfig(*size))


def decoding_tasks(cores: int) -> int:
    """One more than cores, because Ray Data replaces a finished task only at the next turn of its loop."""
    return cores + 1


def dataset_facts(people: PersonAnnotations, config: Config) -> dict[str, Any]:
    """What the figures say about the data set."""
    images, count = len(people.images), len(people)
    where = "generated scenes" if config.data.generated else f"{config.data.root}, {config.data.train}"
    return {
        "data": f"{where}: {count} people in {images} images, {count / images:.2f} per image",
        "people_per_image": count / images,
    }


def make_crop_loader(
    config: Config, people: PersonAnnotations, size: tuple[int, int], samples: int
) -> CropLoader:
    """A loader of crops for a schedule of at least ``samples`` samples."""
    repeated = replace(config, train=replace(config.train, epochs=max(-(-samples // len(people)), 1)))
    settings = crop_settings(with_crop_size(config, size))
    return CropLoader(people, make_schedule(repeated, people), settings)


def measure_loaders(crop_loader: CropLoader, samples: int, rounds: int) -> dict[str, Any]:
    """Compare the loaders on one core without Ray Data, print their rates and return all figures.

    Args:
        crop_loader: of the crops.
        samples: of each fast loader over all rounds.
        rounds: of all loaders in turns.
    """
    sigma = TargetConfig().sigma * crop_loader.settings.size[0] / 192  # the paper's: 2 and 3 cells
    plain = PlainLoader(crop_loader.people, crop_loader.settings, sigma, crop_loader.schedule.seed)
    loading = LoaderComparison(crop_loader, plain, samples // rounds)
    ways = {"plain loader": loading.run_plain_loader, "windows": loading.run_window_loader}
    seen = min(500, len(crop_loader.people))
    with pin_to_cores(1), TemporaryDirectory() as scratch:
        differences = {"files": loading.difference(seen)}
        if len(crop_loader.people.images) <= MAX_PACKED_IMAGES:
            packed = loading.with_packed_shards(Folder.of(scratch))
            ways["windows, packed"] = packed.run_window_loader
            differences["packed shards"] = packed.difference(seen)
        timings = time_interleaved(ways, "plain loader", rounds)
    fast, slow = loading.bytes_per_sample()
    say(table(timings, "samples"))
    say(f"bytes per sample: {slow:,.0f} plain, {fast:,.0f} here: x {slow / fast:.2f} fewer")
    for where, difference in differences.items():
        say(f"{where}: {difference.line()}")
    facts = {
        "bytes": {"plain": slow, "windows": fast, "ratio": slow / fast},
        "pixels": {where: asdict(difference) for where, difference in differences.items()},
    }
    return measured("loader", timings, facts)


def measure_stream(crop_loader: CropLoader, cores: int, rounds: int) -> dict[str, Any]:
    """Compare the stream through Ray Data with the loader alone on the same cores; as ``measure_loaders``."""
    reference, schedule = ray.put(crop_loader), crop_loader.schedule
    runs: list[StreamTiming] = []
    bares: list[LoaderTiming] = []

    def alone() -> tuple[float, float]:
        bares.append(time_loaders_alone(reference, schedule, cores))
        return bares[-1].samples, bares[-1].samples / bares[-1].rate

    def through_ray() -> tuple[float, float]:
        runs.append(stream(reference, schedule, decoding_tasks(cores)))
        return runs[-1].samples, runs[-1].seconds

    name = f"on {cores} core(s), without Ray Data"
    ways = {name: alone, "through Ray Data": through_ray}
    timings = time_interleaved(ways, name, min(rounds, MAX_STREAM_ROUNDS))
    say(table(timings, "samples"))
    shares = time_by_process(runs[1:], cores)
    cutting = sum(found.cpu for found in bares[1:]) / len(bares[1:])
    total = sum(shares.values())
    say(
        f"where the time of {cores} core(s) goes, in ms per sample; cutting by itself takes "
        f"{1e3 * cutting:.2f}, {100 * cutting / (total - shares[IDLE]):.0f} % of the CPU time used"
    )
    rows = [(f"  {kind}", f"{1e3 * s:.3f}", f"{100 * s / total:.1f} %") for kind, s in shares.items()]
    say("\n".join(aligned(rows, 1)))
    facts = {"milliseconds": {k: 1e3 * v for k, v in shares.items()}, "cutting": 1e3 * cutting}
    return measured("stream", timings, facts)


def time_by_process(runs: Sequence[StreamTiming], cores: int) -> dict[str, float]:
    """Core seconds per sample by kind of process; the last is time that no process of ours used."""
    samples = sum(run.samples for run in runs)
    kinds = {kind: sum(run.usage[kind] for run in runs) / samples for kind in runs[0].usage}
    idle = cores * sum(run.seconds for run in runs) / samples - sum(kinds.values())
    return {**kinds, IDLE: max(idle, 0.0)}
