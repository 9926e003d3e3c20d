"""``mipnet bench inference``: crops to heatmaps, with the flip test, beside the plain way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mipnet.config import from_dict, preset
from mipnet.config.checks import require
from mipnet.config.flags import chosen, option, parse, say

DEFAULT = "coco-hrnet-w32-256x192"


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet bench inference``."""

    preset: str = option(DEFAULT, "whose network and crops")
    batch: int = option(0, "crops in a forward pass; 0: 4 on a CPU, 64 on a GPU")
    steps: int = option(0, "forward passes in a round; 0: 1 on a CPU, 20 on a GPU")
    rounds: int = option(5, "rounds that count")
    threads: int = option(1, "CPU threads")
    device: str = option("auto", "auto, cpu or cuda")
    flip: bool = option(True, "the flip test")
    json: str = option("", "file for the whole measurement")


def main(command: str, argv: Sequence[str]) -> int:
    """Print the table, and how far each way's heatmaps are from the plain one's."""
    base = preset(chosen(argv, "--preset", DEFAULT))
    description = "Crops to heatmaps, beside the whole network over the images repeated N times."
    options, settings = parse(command, description, Options, ["model", "input"], base, argv)
    for name in ("rounds", "threads"):
        require(f"--{name}", getattr(options, name), at_least=1)
    for name in ("batch", "steps"):
        require(f"--{name}", getattr(options, name), at_least=0)
    import torch

    from mipnet.bench.device import choose_device
    from mipnet.bench.inference import difference, timed, trained, ways
    from mipnet.bench.rounds import as_json, in_turns, machine, table
    from mipnet.bench.step import PLAIN, random_batch

    config, device = from_dict(settings, base), choose_device(options.device)
    config = replace(config, evaluation=replace(config.evaluation, flip_test=options.flip))
    gpu = device.type == "cuda"
    torch.set_num_threads(options.threads)
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
