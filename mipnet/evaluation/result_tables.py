"""The results table as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mipnet.config.schema import DataConfig
from mipnet.evaluation.occlusion import occlusion_ap
from mipnet.evaluation.protocols import METRIC_NAMES
from mipnet.evaluation.result_rows import ResultRow, flat_metrics
from mipnet.formats import aligned, percent


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
        rows.append(
            (row.split, row.source, row.instance_mode, *(percent(row.metrics[m], "-") for m in columns))
        )
    for split, value in (ceilings or {}).items():
        rows.append((split, "gt", "ceiling", percent(value, "-"), *[""] * (len(columns) - 1)))
    lines = aligned(rows, 3)
    lines.insert(1, "-" * max(map(len, lines)))
    occlusion = occlusion_ap(data, flat_metrics(result_rows))
    if occlusion.metric:  # external results have no merged poses
        lines += ["", f"{occlusion.name}: {percent(occlusion.value, '-')}"]
    return "\n".join(lines)
