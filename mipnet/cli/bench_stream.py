"""``mipnet bench stream``: how fast training samples are made, beside the plain way of making them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mipnet.cli.bench_options import write_json
from mipnet.cli.shared_options import JSON_HELP, STORAGE_HELP, VERBOSE_HELP, Call
from mipnet.config import Config, preset
from mipnet.config.flags import option
from mipnet.config.schema import AugmentConfig, Count, ScenesConfig
from mipnet.console import say
from mipnet.errors import ConfigError
from mipnet.experiment.arguments import check_json_writable, writable_storage
from mipnet.experiment.datasets import dataset_location, ensure_dataset
from mipnet.host import tune_malloc

if TYPE_CHECKING:
    from mipnet.data.coco import PersonAnnotations

ABOUT = "How fast training samples are made. Any data set in COCO's layout: --data ROOT --data.train SPLIT."
SECTIONS = ("data", "scenes", "augment", "model.instances", "train.batch_size", "train.window_batches")
STREAM_SAMPLES_FACTOR = 4
"""Samples through Ray Data for one of ``--samples``."""


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet bench stream``."""

    sizes: tuple[str, ...] = option(("256x192", "384x288"), "sizes of the crops, height x width")
    samples: Count = option(
        20_000,
        "by each fast way over all rounds; a quarter by the plain one, four times as many through Ray Data; "
        "a small data set is repeated",
    )
    rounds: Count = option(5, "how often all ways take their turns")
    cores: Count = option(2, "for the stream through Ray Data, its consumer included")
    bare: bool = option(False, "only the loaders on one core, without Ray Data")
    json: str = option("", JSON_HELP)
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, VERBOSE_HELP)


def run(options: Options, call: Call) -> int:
    """Measure both ways on the same data, and say how far apart their pixels are."""
    check_json_writable(options.json)
    config = call.config
    storage = writable_storage(options.storage)
    sizes = [crop_size(text) for text in options.sizes]

    import cv2
    import torch

    from mipnet.bench import stream_report
    from mipnet.bench.device import pin_to_cores
    from mipnet.data.dataset_formats import open_split
    from mipnet.ray_runtime.session import connect

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    tune_malloc()  # for both ways
    with pin_to_cores(options.cores):
        without_ray = options.bare and not dataset_location(config, storage)[1]
        tasks = stream_report.decoding_tasks(options.cores)
        resources = replace(config.resources, workers=1, gpu=False, cpus_per_worker=1, stream_workers=tasks)
        window = max(stream_report.with_crop_size(config, size).window_bytes for size in sizes)
        with nullcontext() if without_ray else connect(resources, options.verbose, window):
            data = ensure_dataset(config, storage, options.verbose)
            people = open_split(config.data, data, config.data.train).people()
            found = measure_sizes(config, people, sizes, options)
    write_json(options.json, found)
    return 0


def measure_sizes(
    config: Config, people: PersonAnnotations, sizes: Sequence[tuple[int, int]], options: Options
) -> dict[str, Any]:
    """The comparisons for each size (width, height) of the crops."""
    from mipnet.bench import stream_report
    from mipnet.bench.rounds import machine
    from mipnet.bench.streaming import LEAST_ROUNDS

    facts = stream_report.dataset_facts(people, config)
    found: dict[str, Any] = {"benchmark": "stream", "machine": machine(), **facts}
    say(found["machine"])
    say(found["data"])
    found["sizes"] = {}
    for size in sizes:
        name = f"{size[1]}x{size[0]}"
        say(f"\n{name} (height x width), batches of {config.train.batch_size}")
        loader = stream_report.make_crop_loader(config, people, size, options.samples // options.rounds)
        figures = {"loader": stream_report.measure_loaders(loader, options.samples, options.rounds)}
        if not options.bare:
            steady = LEAST_ROUNDS * stream_report.decoding_tasks(options.cores) * config.window_samples
            samples = STREAM_SAMPLES_FACTOR * options.samples // stream_report.MAX_STREAM_ROUNDS
            long = stream_report.make_crop_loader(config, people, size, max(samples, steady))
            figures["stream"] = stream_report.measure_stream(long, options.cores, options.rounds)
        found["sizes"][name] = figures
    return found


def base() -> Config:
    """A small generated data set and the paper's augmentation."""
    tiny = preset("tiny")
    return replace(
        tiny,
        augment=AugmentConfig(),
        scenes=ScenesConfig(easy=60, medium=60, hard=60, validation=1),
        train=replace(tiny.train, batch_size=64, window_batches=16),  # windows as large as the presets'
    )


def crop_size(text: str) -> tuple[int, int]:
    """(width, height) of 'HEIGHTxWIDTH'.

    Raises:
        ConfigError: it is something else.
    """
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise ConfigError(f"--sizes: {text!r} is not a size", "give HEIGHTxWIDTH, e.g. 256x192")
    return int(found[2]), int(found[1])
