"""The results table: its rows, its text, flat names of its metrics: ``split/source/instance_mode/metric``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mipnet.config.schema import DataConfig
from mipnet.evaluation.occlusion import occlusion_ap
from mipnet.evaluation.protocols import METRIC_NAMES
from mipnet.formats import aligned, percent


@dataclass(frozen=True)
class ResultRow:
    """Metrics and poses of one split, box source and instance mode.

    Attributes:
        split, source: the split and the box source; for external results the method's name.
        instance_mode: "merged", or "lambda0", "lambda1", … for one instance alone; "results" for another
            method's.
        metrics: by the names of the protocol, 0 to 1; nan where the split has no such people.
        results: the poses in COCO's results format, with ``instance`` and ``box`` added.
        notes: a line about each kind of thing that was left out or decided while reading another method's.
    """

    split: str
    source: str
    instance_mode: str
    metrics: dict[str, float]
    results: list[dict[str, Any]]
    notes: tuple[str, ...] = ()

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


def results_table(
    data: DataConfig, result_rows: Sequence[ResultRow], ceilings: Mapping[str, float] | None = None
) -> str:
    """One line per split, box source and instance mode, then the occlusion AP; percentages, '-' for nan.

    Args:
        data: the data set.
        result_rows: the rows.
        ceilings: split -> AP of a perfect prediction, one more row each.
    """
    columns = METRIC_NAMES[data.protocol]
    rows: list[tuple[str, ...]] = [("split", "boxes", "instances", *columns)]
    for row in result_rows:
        values = (percent(row.metrics[metric], "-") for metric in columns)
        rows.append((row.split, row.source, row.instance_mode, *values))
    for split, value in (ceilings or {}).items():
        rows.append((split, "gt", "ceiling", percent(value, "-"), *[""] * (len(columns) - 1)))
    lines = aligned(rows, 3)
    lines.insert(1, "-" * max(map(len, lines)))
    if notes := dict.fromkeys(
        f"{row.split}/{row.source}: {note}" for row in result_rows for note in row.notes
    ):
        lines += ["", *notes]
    occlusion = occlusion_ap(data, flat_metrics(result_rows))
    if occlusion.metric:  # external results have no merged poses
        lines += ["", f"{occlusion.name}: {percent(occlusion.value, '-')}"]
    return "\n".join(lines)
