"""``mipnet bench scaling``: the stream and the training on 1, 2, 4 … cores, and what a cluster needs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipnet.commands.common import STORAGE_HELP, data_folder, storage_at
from mipnet.commands.stream_bench import (
    bench_resources,
    crop_size,
    describe,
    make_cutter,
    read,
    sized,
    training_people,
)
from mipnet.config import Config
from mipnet.config.flags import option, say
from mipnet.config.schema import InputConfig
from mipnet.machine import keep_memory

if TYPE_CHECKING:
    from mipnet.bench.rounds import Timing, Way
    from mipnet.data.records import People


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet bench scaling``."""

    size: str = option("256x192", "of the crops in the stream, height x width")
    train_size: str = option("96x64", "of the crops in the training, which a CPU must bear")
    samples: int = option(4_000, "in each stream; the plain loaders and the training take fewer")
    rounds: int = option(3, "how often all ways take their turns")
    workers: tuple[str, ...] = option((), "numbers of workers and ranks [1, 2, 4 … as there are cores]")
    gpu_rate: int = option(1_000, "samples per second that one GPU trains on, for the table of clusters")
    json: str = option("", "file for all figures of all rounds")
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, "show Ray's own messages")


def main(command: str, argv: Sequence[str]) -> int:
    """Measure, and work out what 8, 64 and 512 GPUs need."""
    options, config = read(command, argv, Options)
    size, train_size = crop_size(options.size, "--size"), crop_size(options.train_size, "--train-size")
    numbers = counts(options.workers)
    ranks = ranks_of(numbers, config.train.batch_size)
    storage = storage_at(options.storage)

    from mipnet.bench.rounds import machine
    from mipnet.raysession import connect

    keep_memory()
    resources, window = bench_resources(config, max(numbers)), sized(config, size).window_bytes
    with connect(resources, options.verbose, window):
        people = training_people(config, data_folder(config, storage, options.verbose))
        found: dict[str, Any] = {"benchmark": "scaling", "machine": machine(), **describe(people, config)}
        say(found["machine"])
        say(found["data"])
        found["stream"] = bench_streams(config, people, size, numbers, options)
        found["training"] = bench_training(config, people, train_size, ranks, options)
        found["sizing"] = bench_sizing(found["stream"], people, options)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n")
    return 0


def counts(given: Sequence[str]) -> list[int]:
    """1, 2, 4 … up to the number of cores, or what was given."""
    from mipnet.errors import ConfigError

    if not given:
        cores = len(os.sched_getaffinity(0))
        return [n for n in (2**i for i in range(20)) if n <= cores]
    if not all(text.isdecimal() and int(text) > 0 for text in given):
        raise ConfigError(f"--workers: {' '.join(given)!r} are not numbers of workers", "give e.g. 1 2 4")
    return sorted({int(text) for text in given})


def ranks_of(numbers: Sequence[int], batch: int) -> list[int]:
    """Those among whom a batch can be split evenly.

    Raises:
        ConfigError: there are none.
    """
    from mipnet.errors import ConfigError

    found = [n for n in numbers if batch % n == 0]
    if not found:
        several = ", ".join(map(str, numbers))
        raise ConfigError(
            f"--workers: batches of {batch} cannot be split among {several} ranks",
            "give another number as well, e.g. 1, or another --train.batch-size",
        )
    return found


def bench_streams(
    config: Config, people: People, size: tuple[int, int], numbers: Sequence[int], options: Options
) -> dict[str, Any]:
    """The stream with 1, 2, 4 … decoding tasks, beside as many plain loaders."""
    import ray

    from mipnet.bench import scaling
    from mipnet.bench.plain_loader import PlainLoader
    from mipnet.bench.rounds import as_json, in_turns, table
    from mipnet.bench.streaming import Streamed, stream

    cutter = make_cutter(config, people, size, options.samples)
    plan = cutter.plan
    reference = ray.put(cutter)
    loader = ray.put(PlainLoader(people, cutter.settings, 2.0 * size[0] / 192, plan.seed))
    runs: dict[int, list[Streamed]] = {n: [] for n in numbers}

    def fast(tasks: int) -> tuple[float, float]:
        (run,) = stream(reference, plan, tasks)
        runs[tasks].append(run)
        return run.samples, run.seconds

    ways: dict[str, Way] = {}
    for n in numbers:
        alone = partial(scaling.plain, loader, plan, n, options.samples // 4)
        ways[f"plain loader, {n} process(es)"] = alone
        ways[f"stream, {n} task(s)"] = partial(fast, n)
    first = next(iter(ways))
    timings = in_turns(ways, first, options.rounds)
    say(f"\nthe stream, {options.size} (height x width), its consumer on the same cores")
    say(table(timings, "samples"))
    own = [t for t in timings if t.name.startswith("stream")]
    rows = {}
    for n, timing in zip(numbers, own, strict=True):
        some = runs[n][-options.rounds :]
        taken = sum(run.samples for run in some)
        rows[n] = {
            "rate": timing.rate,
            "efficiency": efficiency(timing, n, own[0], numbers[0]),
            "waited": sum(run.waited for run in some) / sum(run.seconds for run in some),
            "bytes_per_sample": sum(run.size for run in some) / taken,
            "megabytes_per_second": sum(run.size for run in some) / sum(run.seconds for run in some) / 1e6,
        }
    say(rows_table(rows, "task(s)"))
    return {**json.loads(as_json("stream", timings, {})), "scaling": rows}


def bench_training(
    config: Config, people: People, size: tuple[int, int], numbers: Sequence[int], options: Options
) -> dict[str, Any]:
    """Training steps on 1, 2, 4 … ranks at the same global batch, with one decoding task for each."""
    import ray

    from mipnet.bench import scaling
    from mipnet.bench.rounds import as_json, in_turns, table

    config = replace(config, input=InputConfig(*size))
    cutter = make_cutter(config, people, size, options.samples // 4)
    reference = ray.put(cutter)
    runs: dict[int, list[scaling.Trained]] = {n: [] for n in numbers}

    def some_steps(ranks: int) -> tuple[float, float]:
        run = scaling.train(config, reference, cutter.plan, ranks, ranks)
        runs[ranks].append(run)
        return run.samples, run.seconds

    ways: dict[str, Way] = {f"training, {n} rank(s)": partial(some_steps, n) for n in numbers}
    timings = in_turns(ways, next(iter(ways)), max(options.rounds - 1, 1), warmup=0)
    say(f"\ntraining, {size[1]}x{size[0]}, global batches of {cutter.plan.batch_size}, on CPUs")
    say(table(timings, "samples"))
    rows = {}
    for n, timing in zip(numbers, timings, strict=True):
        seconds = sum(run.seconds for run in runs[n])
        rows[n] = {
            "rate": timing.rate,
            "efficiency": efficiency(timing, n, timings[0], numbers[0]),
            "waited": sum(run.waited for run in runs[n]) / seconds,
            "bytes_per_sample": n * sum(run.size for run in runs[n]) / sum(run.samples for run in runs[n]),
            "megabytes_per_second": n * sum(run.size for run in runs[n]) / seconds / 1e6,
        }
    say(rows_table(rows, "rank(s)"))
    return {**json.loads(as_json("training", timings, {})), "scaling": rows}


def efficiency(timing: Timing, n: int, first: Timing, least: int) -> float:
    """The rate of each of n workers as a share of that of each of the least, the median over the rounds."""
    from statistics import median

    return median((a / n) / (b / least) for a, b in zip(timing.rates, first.rates, strict=True))


def rows_table(rows: dict[int, dict[str, float]], unit: str) -> str:
    lines = [f"{'':>12}  {'efficiency':>10}  {'waited for data':>18}  {'through the object store':>24}"]
    for n, row in rows.items():
        lines.append(
            f"{f'{n} {unit}':>12}  {100 * row['efficiency']:>8.0f} %  {100 * row['waited']:>8.1f} % of time"
            f"  {row['megabytes_per_second']:>19,.0f} MB/s"
        )
    return "\n".join(lines)


def bench_sizing(streams: dict[str, Any], people: People, options: Options) -> list[dict[str, float]]:
    """From the stream's rate with most tasks: cores, network and object store of clusters."""
    from mipnet.bench.scaling import sizing, sizing_table

    tasks, row = max(streams["scaling"].items())
    some = range(min(len(people.images), 50))
    per_image = sum(len(people.images.read(i)) for i in some) / len(some)
    image_bytes = per_image * len(people.images) / len(people)
    rows = sizing(options.gpu_rate, row["rate"] / tasks, row["bytes_per_sample"], image_bytes)
    say(
        f"\nif a GPU trains on {options.gpu_rate:,} samples/s (--gpu-rate) and a core makes "
        f"{row['rate'] / tasks:,.0f}, as here; nodes of 8 GPUs, network when other nodes decode"
    )
    say(sizing_table(rows))
    return [asdict(found) for found in rows]
