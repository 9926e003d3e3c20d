"""How much worse poses become when the detector's uncertain boxes are left out (the paper's robustness).

In a crowd those are the boxes of people who are half hidden. A network that finds the second person in the
first one's box does not need them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mipnet.config import Config
from mipnet.data.coco import CocoFile
from mipnet.evaluation.merging import Instances
from mipnet.evaluation.predicted_poses import PredictionsBySplit
from mipnet.evaluation.scoring import score
from mipnet.formats import aligned, percent

LEAST_CONFIDENCE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Robustness:
    """AP of one split and box source as the least box confidence rises.

    Attributes:
        split, source: which people, in whose boxes.
        confidence: the least that a box must have.
        kept: share of the boxes that have it.
        ap: view ("merged", and "lambda0" where N > 1) -> AP for each confidence, 0 to 1.
    """

    split: str
    source: str
    confidence: tuple[float, ...]
    kept: tuple[float, ...]
    ap: dict[str, tuple[float, ...]]


def robustness(
    poses: PredictionsBySplit,
    config: Config,
    files: Mapping[str, CocoFile],
    confidence: Sequence[float] = LEAST_CONFIDENCE,
) -> list[Robustness]:
    """One curve for each split and detector; ground-truth boxes have no confidence and are left out.

    Args:
        poses: as from ``predict_splits``; nothing is predicted again.
        config, files: as there.
        confidence: the thresholds; a box at the threshold stays.
    """
    views: dict[str, Instances] = {"merged": "merged"}
    if config.model.instances > 1:
        views["lambda0"] = 0
    curves = []
    for (split, source), part in poses.items():
        if source == "gt":
            continue
        parts = [part.where(part.boxes.scores >= least) for least in confidence]
        ap = {
            view: tuple(score(p, config, files[split], only)[0]["AP"] for p in parts)
            for view, only in views.items()
        }
        kept = tuple(len(p.boxes) / max(len(part.boxes), 1) for p in parts)
        curves.append(Robustness(split, source, tuple(confidence), kept, ap))
    return curves


def robustness_table(curves: Sequence[Robustness]) -> str:
    """A line for each curve and view, a column for each confidence; percentages."""
    if not curves:
        return ""
    rows = [("split", "boxes", "least confidence", *(f"{c:g}" for c in curves[0].confidence))]
    for curve in curves:
        figures = {"boxes kept": curve.kept} | {f"AP {view}": ap for view, ap in curve.ap.items()}
        rows += [
            (curve.split, curve.source, name, *(percent(v, "-") for v in row))
            for name, row in figures.items()
        ]
    return "\n".join(aligned(rows, 3))
