"""How robust AP is to missed detections (paper): boxes below a rising confidence threshold are left out.

In a crowd these are the boxes of half hidden people. A network that finds the second person in the first
one's box does not need them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mipnet.config import Config
from mipnet.data.coco import CocoKeypointFile
from mipnet.evaluation.predicted_poses import PredictionsBySplit, instance_modes, score_predictions
from mipnet.formats import aligned, percent

CONFIDENCE_THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class RobustnessCurve:
    """AP of one split and box source by confidence threshold.

    Attributes:
        split, source: the split and the box source.
        confidence: the thresholds.
        kept: share of the boxes at or above each threshold.
        ap: instance mode ("merged", and "lambda0" where N > 1) -> AP at each threshold, 0 to 1.
    """

    split: str
    source: str
    confidence: tuple[float, ...]
    kept: tuple[float, ...]
    ap: dict[str, tuple[float, ...]]


def robustness_curves(
    poses: PredictionsBySplit,
    config: Config,
    files: Mapping[str, CocoKeypointFile],
    confidence: Sequence[float] = CONFIDENCE_THRESHOLDS,
) -> list[RobustnessCurve]:
    """One curve for each split and detector; ground-truth boxes have no confidence and are left out.

    Args:
        poses: as from ``predict_splits``.
        config, files: as for ``predict_splits``.
        confidence: the thresholds; a box at the threshold stays.
    """
    modes = {k: v for k, v in instance_modes(config.model.instances).items() if k in ("merged", "lambda0")}
    curves = []
    for (split, source), predictions in poses.items():
        if source == "gt":
            continue
        subsets = [predictions.where(predictions.boxes.scores >= least) for least in confidence]
        ap = {
            name: tuple(score_predictions(p, config, files[split], mode)[0]["AP"] for p in subsets)
            for name, mode in modes.items()
        }
        kept = tuple(len(p.boxes) / max(len(predictions.boxes), 1) for p in subsets)
        curves.append(RobustnessCurve(split, source, tuple(confidence), kept, ap))
    return curves


def robustness_table(curves: Sequence[RobustnessCurve]) -> str:
    """A row for each curve and instance mode, a column for each threshold; percentages."""
    if not curves:
        return ""
    rows = [("split", "boxes", "least confidence", *(f"{c:g}" for c in curves[0].confidence))]
    for curve in curves:
        figures = {"boxes kept": curve.kept} | {f"AP {mode}": ap for mode, ap in curve.ap.items()}
        for name, row in figures.items():
            rows.append((curve.split, curve.source, name, *(percent(v, "-") for v in row)))
    return "\n".join(aligned(rows, 3))
