"""The lines of a table of results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Entry:
    """One line of a table.

    Attributes:
        split, source: which people, in whose boxes.
        view: "merged", or "lambda0", "lambda1", … for one instance alone; "results" for another method's.
        metrics: by the names of the protocol, 0 to 1; nan where the split has nobody to measure.
        results: the poses in COCO's results format, with ``instance`` and ``box`` added.
    """

    split: str
    source: str
    view: str
    metrics: dict[str, float]
    results: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return f"{self.split}/{self.source}/{self.view}"


def flat_metrics(entries: Sequence[Entry]) -> dict[str, float]:
    """``split/source/view/metric`` -> value, without those that nobody was there to measure."""
    return {
        f"{entry.name}/{metric}": value
        for entry in entries
        for metric, value in entry.metrics.items()
        if not np.isnan(value)
    }
