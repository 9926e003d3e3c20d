"""``mipnet bench inference``: crops to heatmaps, with the flip test, beside the plain way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mipnet.commands.bench_flags import BenchOptions, begin, read
from mipnet.config.flags import option, say


@dataclass(frozen=True)
class Options(BenchOptions):
    """Flags of ``mipnet bench inference``."""

    batch: int = option(0, "crops in a forward pass; 0: 4 on a CPU, 64 on a GPU")
    steps: int = option(0, "forward passes in a round; 0: 1 on a CPU, 20 on a GPU")
    flip: bool = option(True, "the flip test")


def main(command: str, argv: Sequence[str]) -> int:
    """Print the table, and how far each way's heatmaps are from the plain one's."""
    about = "Crops to heatmaps, beside the whole network over the images repeated N times."
    least = {"batch": 0, "steps": 0}
    options, _, config = read(command, about, Options, ["model", "input"], argv, least)
    from mipnet.bench.inference import difference, timed, trained, ways
    from mipnet.bench.rounds import as_json, in_turns, machine, table
    from mipnet.bench.step import PLAIN, random_batch

    device = begin(options)
    config = replace(config, evaluation=replace(config.evaluation, flip_test=options.flip))
    gpu = device.type == "cuda"
    batch, steps = options.batch or (64 if gpu else 4), options.steps or (20 if gpu else 1)
    crops = random_batch(config, batch, seed=1)[0].to(device)
    found = ways(config, trained(config, device), device)
    expected = found[PLAIN](crops)
    differences = {name: difference(run(crops), expected) for name, run in found.items()}
    facts: dict[str, object] = {
        "preset": options.preset,
        "instances": config.model.instances,
        "flip": options.flip,
        "batch": batch,
        "threads": options.threads,
        "machine": machine(device.type),
        "heatmap_differences": differences,
    }
    flip = "with" if options.flip else "without"
    say(f"{options.preset}, N = {config.model.instances}, {flip} flip test, batch {batch}")
    say(f"{facts['machine']}, {options.threads} CPU threads\n")
    timings = in_turns({n: timed(run, crops, steps) for n, run in found.items()}, PLAIN, options.rounds)
    say(table(timings, "crops"))
    say("\nheatmaps, largest difference over the largest value:")
    for name, value in differences.items():
        say(f"{name:<28} {value:.1e}")
    if options.json:
        Path(options.json).write_text(as_json("inference", timings, facts), encoding="utf-8")
    return 0
