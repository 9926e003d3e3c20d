"""Time variants of the same work in interleaved rounds.

Machines are noisy and their speed drifts, so a single figure says little: every round runs each variant once,
in alternating order, and the ratio within a round is what counts.
"""

from __future__ import annotations

import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mipnet.formats import aligned
from mipnet.host import cores

Workload = Callable[[], float | tuple[float, float]]
"""Does the work once and returns its amount in the units of the table (samples, crops), or (amount, seconds)
if its start-up is not to be counted."""


@dataclass(frozen=True)
class Timing:
    """Measurement of one variant.

    Attributes:
        rates: units of work per second, one for each round.
        ratios: in each round, its rate over that of the plain variant.
    """

    name: str
    rates: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def rate(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rates)

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios, which is not the ratio of the medians."""
        return statistics.median(self.ratios)


def time_interleaved(
    ways: Mapping[str, Workload], plain: str, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> list[Timing]:
    """Time each variant once a round; every other round in reverse, so that none is always the first.

    Args:
        ways: the variants by name.
        plain: the one that ratios refer to.
        rounds: number of rounds that count; one before them does not.
        clock: seconds.

    Returns:
        one timing for each variant, in their order.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(1 + rounds):
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            gc.collect()
            begin = clock()
            work = ways[name]()
            seconds = clock() - begin
            if isinstance(work, tuple):
                work, seconds = work
            if turn:
                rates[name].append(work / max(seconds, 1e-9))
    return [
        Timing(name, tuple(own), tuple(a / b for a, b in zip(own, rates[plain], strict=True)))
        for name, own in rates.items()
    ]


def table(timings: list[Timing], unit: str) -> str:
    """Median rate and ratio with their spreads (lowest to highest), one line for each variant."""
    rows = [("", f"{unit}/s", "spread", "ratio", "spread")]
    for t in timings:
        spread = f"{min(t.rates):,.4g} – {max(t.rates):,.4g}"
        ratios = f"{min(t.ratios):.2f} – {max(t.ratios):.2f}"
        rows.append((t.name, f"{t.rate:,.4g}", spread, f"x {t.ratio:.2f}", ratios))
    return "\n".join(aligned(rows, 1))


def machine(device: str = "cpu") -> str:
    """CPU or GPU, cores and versions, in one line."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else _cpu()
    return f"{name}, {cores()} cores, torch {torch.__version__}, Python {platform.python_version()}"


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def measured(name: str, timings: list[Timing], facts: Mapping[str, object]) -> dict[str, Any]:
    """The measurement as JSON values, with the rate and ratio of every round."""
    ways = {
        t.name: {"rate": t.rate, "ratio": t.ratio, "rates": list(t.rates), "ratios": list(t.ratios)}
        for t in timings
    }
    return {"benchmark": name, **facts, "ways": ways}
