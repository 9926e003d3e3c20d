"""``mipnet bench step``: a training step beside the plain one that computes the whole network for each λ."""

from __future__ import annotations

from dataclasses import dataclass

from mipnet.cli.bench_options import NETWORK_SECTIONS, NetworkOptions, begin, write_json
from mipnet.cli.shared_options import Call
from mipnet.config import preset
from mipnet.config.flags import option
from mipnet.config.schema import NonNegativeInt
from mipnet.config.validation import Problem
from mipnet.console import say
from mipnet.host import has_compiler

ABOUT = "A training step beside the plain one: the whole network over the images repeated N times."
SECTIONS = NETWORK_SECTIONS


@dataclass(frozen=True)
class Options(NetworkOptions):
    """Flags of ``mipnet bench step``."""

    steps: NonNegativeInt = option(0, "steps in a round; 0: 1 on a CPU, 10 on a GPU")
    compile: str = option(
        "auto", "time torch.compile as well: true, false, or auto, on a GPU with a C compiler"
    )


def run(options: Options, call: Call) -> int:
    """Print the table, the gradients' difference, and on a GPU memory and the share of its peak."""
    config = call.config
    if options.compile not in ("auto", "true", "false"):
        raise Problem("--compile", options.compile, "is unknown", "give true, false or auto")
    from mipnet.bench.device import bf16_peak
    from mipnet.bench.rounds import measured, table, time_interleaved
    from mipnet.bench.step import PLAIN_VARIANT, StepWorkload, gradient_difference, step_flops, variants

    device, batch, facts = begin(options, config)
    gpu = device.type == "cuda"
    steps = options.steps or (10 if gpu else 1)
    difference = gradient_difference(call.on(preset("debug")))
    facts["gradient_difference_fp64"] = difference
    say(f"{options.preset}, N = {config.model.instances}, batch {batch}, {options.threads} CPU threads")
    say(facts["machine"])
    say(f"gradients, fp64, preset debug: largest relative difference {difference:.1e}\n")
    compile = gpu and has_compiler("cuda") if options.compile == "auto" else options.compile == "true"
    ways = {v.name: StepWorkload(config, v, batch, steps, device) for v in variants(device, compile)}
    timings = time_interleaved(ways, PLAIN_VARIANT, options.rounds)
    say(table(timings, "samples"))
    if gpu:
        peak, source = bf16_peak(device)
        say(f"\nbf16 peak: {source}")
        shares, memory = {}, {}
        for t in timings:
            shares[t.name] = t.rate * step_flops(config) / peak
            memory[t.name] = ways[t.name].peak_memory
            say(f"{t.name:<26} {100 * shares[t.name]:5.1f} % of it, {memory[t.name] / 2**30:.1f} GiB at most")
        facts |= {"share_of_bf16_peak": shares, "peak_memory_bytes": memory}
    write_json(options.json, measured("step", timings, facts))
    return 0
