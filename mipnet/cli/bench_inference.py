"""``mipnet bench inference``: crops to heatmaps, with the flip test, beside the plain way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from mipnet.cli.bench_options import NETWORK_SECTIONS, NetworkOptions, begin, write_json
from mipnet.cli.shared_options import Call
from mipnet.config.flags import option
from mipnet.config.schema import NonNegativeInt
from mipnet.console import say

ABOUT = "Crops to heatmaps, beside the whole network over the images repeated N times."
SECTIONS = NETWORK_SECTIONS


@dataclass(frozen=True)
class Options(NetworkOptions):
    """Flags of ``mipnet bench inference``."""

    steps: NonNegativeInt = option(0, "forward passes in a round; 0: 1 on a CPU, 20 on a GPU")
    flip: bool = option(True, "the flip test")


def run(options: Options, call: Call) -> int:
    """Print the table, and how far each way's heatmaps are from the plain one's."""
    from mipnet.bench.inference import difference, repeat, warmed_up_model, ways
    from mipnet.bench.rounds import measured, table, time_interleaved
    from mipnet.bench.step import PLAIN_VARIANT, random_batch
    from mipnet.formats import aligned

    device, batch, facts = begin(options, call.config)
    config = replace(call.config, evaluation=replace(call.config.evaluation, flip_test=options.flip))
    steps = options.steps or (20 if device.type == "cuda" else 1)
    crops = random_batch(config, batch, seed=1)[0].to(device)
    found = ways(config, warmed_up_model(config, device), device)
    expected = found[PLAIN_VARIANT](crops)
    differences = {name: difference(run(crops), expected) for name, run in found.items()}
    facts |= {"flip": options.flip, "heatmap_differences": differences}
    flip = "with" if options.flip else "without"
    say(f"{options.preset}, N = {config.model.instances}, {flip} flip test, batch {batch}")
    say(f"{facts['machine']}, {options.threads} CPU threads\n")
    rounds = {name: partial(repeat, run, crops, steps) for name, run in found.items()}
    timings = time_interleaved(rounds, PLAIN_VARIANT, options.rounds)
    say(table(timings, "crops"))
    say("\nheatmaps, largest difference over the largest value:")
    say("\n".join(aligned([(name, f"{value:.1e}") for name, value in differences.items()], 1)))
    write_json(options.json, measured("inference", timings, facts))
    return 0
