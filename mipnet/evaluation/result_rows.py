"""A row of a results table, and the flat names of its metrics: ``split/source/instance_mode/metric``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ResultRow:
    """Metrics and poses of one split, box source and instance mode.

    Attributes:
        split, source: the split and the box source; for external results the method's name.
        instance_mode: "merged", or "lambda0", "lambda1", … for one instance alone; "results" for another
            method's.
        metrics: by the names of the protocol, 0 to 1; nan where the split has no such people.
        results: the poses in COCO's results format, with ``instance`` and ``box`` added.
    """

    split: str
    source: str
    instance_mode: str
    metrics: dict[str, float]
    results: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return f"{self.split}/{self.source}/{self.instance_mode}"


def flat_metrics(result_rows: Sequence[ResultRow]) -> dict[str, float]:
    """``split/source/instance_mode/metric`` -> value, without nan."""
    return {
        f"{row.name}/{metric}": value
        for row in result_rows
        for metric, value in row.metrics.items()
        if not np.isnan(value)
    }


def current_metric_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """Flat metrics under today's names: COCO's AR50 was called R50 before."""
    return {re.sub("/R50$", "/AR50", name): value for name, value in metrics.items()}
