"""``mipnet bench stream``: how fast training samples are made, beside the plain way of making them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mipnet.cli.bench_options import JSON_HELP, read, write_json
from mipnet.config import Config, preset
from mipnet.config.flags import option
from mipnet.config.schema import AugmentConfig, InputConfig, ScenesConfig, TargetConfig
from mipnet.console import say
from mipnet.errors import ConfigError
from mipnet.experiment.common import STORAGE_HELP, data_folder, storage_at
from mipnet.host import keep_memory
from mipnet.storage import Folder

if TYPE_CHECKING:
    from mipnet.bench.streaming import Bare, Streamed
    from mipnet.data.coco import People
    from mipnet.data.stream import WindowCutter

SECTIONS = ["data", "scenes", "augment", "model.instances", "train.batch_size", "train.window_batches"]
RAY_ROUNDS, RAY_SAMPLES = 3, 4  # few and long: starting and ending a stream takes seconds that do not count
MOST_PACKED = 2000  # images that are packed for a comparison
IDLE = "idle, or taken by others"


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet bench stream``."""

    sizes: tuple[str, ...] = option(("256x192", "384x288"), "sizes of the crops, height x width")
    samples: int = option(
        20_000,
        "by each fast way over all rounds; a quarter by the plain one, four times as many through Ray Data; "
        "a small data set is repeated",
    )
    rounds: int = option(5, "how often all ways take their turns")
    cores: int = option(2, "for the stream through Ray Data, its consumer included")
    bare: bool = option(False, "only the loaders on one core, without Ray Data")
    json: str = option("", JSON_HELP)
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, "show Ray's own messages")


def main(command: str, argv: Sequence[str]) -> int:
    """Measure both ways on the same data, and say how far apart their pixels are."""
    about = (
        "How fast training samples are made. Any data set in COCO's layout: --data ROOT --data.train SPLIT."
    )
    least = {"rounds": 1, "samples": 1, "cores": 1}
    options, _, config = read(command, about, Options, SECTIONS, default_config(), argv, least)
    storage = storage_at(options.storage)
    sizes = [crop_size(text) for text in options.sizes]

    import cv2
    import torch

    from mipnet.bench.device import on_cores
    from mipnet.bench.rounds import machine
    from mipnet.bench.streaming import LEAST_ROUNDS
    from mipnet.data.dataset_formats import open_split
    from mipnet.ray_runtime.session import connect

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    keep_memory()  # for both ways
    with on_cores(options.cores):
        alone = options.bare and data_is_there(config, storage)
        tasks = tasks_on(options.cores)
        resources = replace(config.resources, workers=1, gpu=False, cpus_per_worker=1, stream_workers=tasks)
        window = max(sized(config, size).window_bytes for size in sizes)
        with nullcontext() if alone else connect(resources, options.verbose, window):
            data = data_folder(config, storage, options.verbose)
            people = open_split(config.data, data, config.data.train).people()[0]
            found: dict[str, Any] = {"benchmark": "stream", "machine": machine(), **describe(people, config)}
            say(found["machine"])
            say(found["data"])
            found["sizes"] = {}
            for size in sizes:
                name = f"{size[1]}x{size[0]}"
                say(f"\n{name} (height x width), batches of {config.train.batch_size}")
                cutter = make_cutter(config, people, size, options.samples // options.rounds)
                found["sizes"][name] = {"loader": bench_loaders(cutter, options)}
                if not options.bare:
                    steady = LEAST_ROUNDS * tasks * config.window_samples
                    samples = max(RAY_SAMPLES * options.samples // RAY_ROUNDS, steady)
                    long = make_cutter(config, people, size, samples)
                    found["sizes"][name]["stream"] = bench_ray(long, options)
    write_json(options.json, found)
    return 0


def default_config() -> Config:
    """A small generated data set and the paper's augmentation."""
    base = preset("tiny")
    return replace(
        base,
        augment=AugmentConfig(),
        scenes=ScenesConfig(easy=60, medium=60, hard=60, validation=1),
        train=replace(base.train, batch_size=64, window_batches=16),  # windows as large as the presets'
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


def sized(config: Config, size: tuple[int, int]) -> Config:
    """With crops of (width, height)."""
    return replace(config, input=InputConfig(*size))


def data_is_there(config: Config, storage: Folder) -> bool:
    """Whether nothing has to be rendered, for which Ray would be needed."""
    from mipnet.synthetic.generate import benchmark_name

    return not config.data.generated or storage.exists(f"data/{benchmark_name(config.scenes)}/manifest.json")


def tasks_on(cores: int) -> int:
    """One more than cores: a task that has ended is replaced only at the next turn of Ray Data's loop."""
    return cores + 1


def describe(people: People, config: Config) -> dict[str, Any]:
    images, count = len(people.images), len(people)
    where = "generated scenes" if config.data.generated else f"{config.data.root}, {config.data.train}"
    return {
        "data": f"{where}: {count} people in {images} images, {count / images:.2f} per image",
        "people_per_image": count / images,
    }


def make_cutter(config: Config, people: People, size: tuple[int, int], samples: int) -> WindowCutter:
    """Cuts a plan of at least so many samples."""
    from mipnet.data.crops import crop_settings
    from mipnet.data.sample_schedule import WindowPlan
    from mipnet.data.stream import WindowCutter

    train = config.train
    epochs = max(-(-samples // len(people)), 1)
    plan = WindowPlan(people.first, train.seed, epochs, train.batch_size, train.window_batches)
    settings = crop_settings(sized(config, size))
    return WindowCutter(people, plan, settings)


def bench_loaders(cutter: WindowCutter, options: Options) -> dict[str, Any]:
    """One core, no Ray Data: what decoding once per image, and handing over bytes, is worth."""
    from mipnet.bench.device import on_cores
    from mipnet.bench.loading import Loading
    from mipnet.bench.plain_loader import PlainLoader
    from mipnet.bench.rounds import in_turns, measured, table

    sigma = TargetConfig().sigma * cutter.settings.size[0] / 192  # the paper's: 2 and 3 cells
    plain = PlainLoader(cutter.people, cutter.settings, sigma, cutter.plan.seed)
    loading = Loading(cutter, plain, options.samples // options.rounds)
    ways = {"plain loader": loading.cut_plain, "windows": loading.cut_fast}
    seen = min(500, len(cutter.people))
    with on_cores(1), TemporaryDirectory() as scratch:
        differences = {"files": loading.difference(seen)}
        if len(cutter.people.images) <= MOST_PACKED:
            packed = loading.packed(Folder.of(scratch))
            ways["windows, packed"] = packed.cut_fast
            differences["packed shards"] = packed.difference(seen)
        timings = in_turns(ways, "plain loader", options.rounds)
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


def bench_ray(cutter: WindowCutter, options: Options) -> dict[str, Any]:
    """Through Ray Data to a consumer, beside the bare rate of the same cores."""
    import ray

    from mipnet.bench.rounds import in_turns, measured, table
    from mipnet.bench.streaming import bare, stream
    from mipnet.formats import aligned

    reference, plan, cores = ray.put(cutter), cutter.plan, options.cores
    runs: list[Streamed] = []
    bares: list[Bare] = []

    def alone() -> tuple[float, float]:
        bares.append(bare(reference, plan, cores))
        return bares[-1].samples, bares[-1].samples / bares[-1].rate

    def through_ray() -> tuple[float, float]:
        runs.append(stream(reference, plan, tasks_on(cores)))
        return runs[-1].samples, runs[-1].seconds

    name = f"on {cores} core(s), without Ray Data"
    timings = in_turns({name: alone, "through Ray Data": through_ray}, name, min(options.rounds, RAY_ROUNDS))
    say(table(timings, "samples"))
    shares = spent(runs[1:], cores)
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


def spent(runs: Sequence[Streamed], cores: int) -> dict[str, float]:
    """Seconds of the cores for each sample by kind of process; what no process of ours used is the last."""
    samples = sum(run.samples for run in runs)
    kinds = {kind: sum(run.usage[kind] for run in runs) / samples for kind in runs[0].usage}
    idle = cores * sum(run.seconds for run in runs) / samples - sum(kinds.values())
    return {**kinds, IDLE: max(idle, 0.0)}
