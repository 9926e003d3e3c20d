"""Numbers, times and tables as text."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percent(share: float | None, missing: str = "–") -> str:
    """A fraction from 0 to 1 in percent with one decimal; ``missing`` for None and nan."""
    return missing if share is None or math.isnan(share) else f"{100 * share:.1f}"


def decimal(value: float | None, missing: str = "–") -> str:
    """A number with one decimal; ``missing`` for None and nan."""
    return missing if value is None or math.isnan(value) else f"{value:.1f}"


def gain(difference: float) -> str:
    """A difference of fractions in percentage points, with its sign: +1.2 or −1.2."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def duration(seconds: float) -> str:
    """E.g. 9.5 s, 41 s, 6 min 29 s, 3 h 05 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else (f"{seconds:.1f} s" if seconds < 10 else f"{rest} s")


def short_duration(seconds: float) -> str:
    """For tables: 41 s, 6 min, 3 h 05 min."""
    return f"{round(seconds / 60)} min" if 100 <= seconds < 3600 else duration(seconds)


def instance_mode_label(mode: str) -> str:
    """The text for "merged" or "lambda1": λ = 1 alone."""
    return mode.replace("lambda", "λ = ") + " alone" if mode.startswith("lambda") else mode


def aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines with columns under one another: the first ``left`` flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
