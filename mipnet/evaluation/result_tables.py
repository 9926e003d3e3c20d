"""Tables of results as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mipnet.config.schema import DataConfig
from mipnet.evaluation.occlusion import occlusion_ap
from mipnet.evaluation.protocols import METRICS
from mipnet.evaluation.result_rows import Entry, flat_metrics
from mipnet.formats import aligned, percent


def table(data: DataConfig, entries: Sequence[Entry], ceilings: Mapping[str, float] | None = None) -> str:
    """One line per split, box source and view, then the occlusion AP; percentages, '-' where nobody was.

    Args:
        data: what was evaluated.
        entries: the lines.
        ceilings: AP of a perfect prediction by split, for a line each.
    """
    columns = METRICS[data.protocol]
    rows: list[tuple[str, ...]] = [("split", "boxes", "instances", *columns)]
    for entry in entries:
        rows.append(
            (entry.split, entry.source, entry.view, *(percent(entry.metrics[m], "-") for m in columns))
        )
    for split, value in (ceilings or {}).items():
        rows.append((split, "gt", "ceiling", percent(value, "-"), *[""] * (len(columns) - 1)))
    lines = aligned(rows, 3)
    lines.insert(1, "-" * max(map(len, lines)))
    occlusion = occlusion_ap(data, flat_metrics(entries))
    if occlusion.metric:  # tables of other methods alone have no merged poses of ours
        lines += ["", f"{occlusion.name}: {percent(occlusion.value, '-')}"]
    return "\n".join(lines)
