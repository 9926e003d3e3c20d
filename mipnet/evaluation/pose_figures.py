"""Figures beside AP: precision and recall over the score, and of each joint its AP, error and PCK.

All are of people as ``match_poses`` assigns poses to them: by OKS 0.5 over all joints, people whom the
protocol ignores left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mipnet.config import Config
from mipnet.data.coco import CocoKeypointFile
from mipnet.evaluation.external_results import EXTERNAL_MODE
from mipnet.evaluation.matching import Matches, match_poses
from mipnet.evaluation.operating_point import OperatingPoint, operating_point_line
from mipnet.evaluation.result_rows import ResultRow
from mipnet.formats import aligned, decimal, percent
from mipnet.skeletons import Skeleton

PCK_SHARE = 0.2
"""PCK@0.2: a joint is found within so much of the longer side of the person's box."""
OKS_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0, 1, 101)
CURVE_POINTS = 200
MERGED = "merged"
ALL_JOINTS = "all joints"

FIGURES_HELP = """\
A pose finds a person at OKS 0.5 over all joints; by falling score each takes the best one that is free, as in
COCO. Ignored people count neither way. AP of a joint: as COCO's, with the OKS of that joint alone, poses
ranked by their score; a pose that finds nobody is a false positive, one whose person has no label for the
joint does not count. Error: mean distance from the joints of poses to the labelled ones of the people that
they find, in px and in percent of the longer side of the person's box. PCK@0.2: share of the labelled joints
within 0.2 of that side; those of people whom no pose finds are missed."""


@dataclass(frozen=True)
class Detection:
    """How many of the people a set of poses finds.

    Attributes:
        poses: their number.
        precision: share of the poses that find a person.
        recall: share of the people who are found.
        f1: harmonic mean of both, 2 · found / (poses + people).
    """

    poses: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class JointFigures:
    """Of one joint, or over all; nan where it is not labelled or never found.

    Attributes:
        labelled: how many people have it labelled.
        ap: as COCO's AP, but of poses that are assigned once, with the OKS of this joint alone: mean over OKS
            0.5 to 0.95 and 101 recall levels. Poses are ranked by their score. A pose that finds nobody is a
            false positive, one whose person has no label for the joint counts neither way. Over all joints:
            the mean.
        error_px: mean distance in px from the joint of a pose to the labelled one of the person it finds.
        error_box: the same, of the longer side of the person's annotated box.
        pck: PCK@0.2: share of the labelled joints with one of the person's pose within 0.2 of the longer side
            of the annotated box. Those of people whom no pose finds are missed. Over all joints: of all
            labelled joints.
    """

    labelled: int
    ap: float
    error_px: float
    error_box: float
    pck: float


@dataclass(frozen=True)
class PoseFigures:
    """The figures of one split and box source, of merged poses or of another method's.

    Attributes:
        split, source, instance_mode: as in ``ResultRow``.
        people: who count.
        all_poses: without a threshold.
        kept: at the operating point; None without one.
        joints: name -> figures, and over all under ``ALL_JOINTS``; of all poses.
        curve: ``score`` (falling), ``precision`` and ``recall`` of the poses from that score on.
    """

    split: str
    source: str
    instance_mode: str
    people: int
    all_poses: Detection
    kept: Detection | None
    joints: dict[str, JointFigures]
    curve: dict[str, list[float]]

    @property
    def name(self) -> str:
        return f"{self.split}/{self.source}/{self.instance_mode}"


def detection(matches: Matches, min_score: float = -math.inf) -> Detection:
    """Precision, recall and F1 of the poses from ``min_score`` on; nan where the divisor is 0."""
    kept = matches.scores >= min_score
    poses, found, people = int(kept.sum()), int(matches.hits[kept].sum()), len(matches.keypoints)
    return Detection(poses, _share(found, poses), _share(found, people), _share(2 * found, poses + people))


def joint_figures(matches: Matches, skeleton: Skeleton) -> dict[str, JointFigures]:
    """``PoseFigures.joints`` of matched poses."""
    poses, people = matches.found()
    labelled = (matches.keypoints[..., 2] > 0).sum(axis=0)  # (K,)
    away = matches.distances()  # (F, K)
    relative = away / matches.boxes[people, 2:].max(axis=1, initial=0)[:, None]
    near = (relative <= PCK_SHARE).sum(axis=0)
    oks = np.full((len(matches.scores), len(labelled)), -1.0)  # a false positive reaches no threshold
    oks[poses] = matches.joint_oks(skeleton.sigmas)
    found = {
        joint: JointFigures(
            int(labelled[k]),
            joint_ap(oks[:, k], int(labelled[k])),
            _mean(away[:, k]),
            _mean(relative[:, k]),
            _share(int(near[k]), int(labelled[k])),
        )
        for k, joint in enumerate(skeleton.joints)
    }
    aps = np.array([joint.ap for joint in found.values()])
    everything = JointFigures(
        int(labelled.sum()),
        _mean(aps),
        _mean(away),
        _mean(relative),
        _share(int(near.sum()), int(labelled.sum())),
    )
    return {**found, ALL_JOINTS: everything}


def joint_ap(oks: np.ndarray, labelled: int) -> float:
    """AP of one joint, see ``JointFigures.ap``.

    Args:
        oks: (M,) OKS of the joint by falling score of its pose; nan where the pose does not count, negative
            where it finds nobody.
        labelled: how many there are to be found.
    """
    if not labelled:
        return math.nan
    counted = oks[~np.isnan(oks)]
    if not len(counted):
        return 0.0
    right = (counted >= OKS_THRESHOLDS[:, None]).cumsum(axis=1)  # (T, M)
    precision = right / np.arange(1, len(counted) + 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    values = []
    for row, recall in zip(envelope, right / labelled, strict=True):
        place = np.searchsorted(recall, RECALL_LEVELS, side="left")
        values.append(np.append(row, 0.0)[place].mean())  # beyond the largest recall precision is 0
    return float(np.mean(values))


def score_curve(matches: Matches) -> dict[str, list[float]]:
    """``PoseFigures.curve``: at each distinct score, or at ``CURVE_POINTS`` of them in even steps."""
    levels, index = np.unique(-matches.scores, return_inverse=True)
    kept = np.bincount(index, minlength=len(levels)).cumsum()
    found = np.bincount(index, weights=matches.hits, minlength=len(levels)).cumsum()
    chosen = np.unique(np.linspace(0, len(levels) - 1, min(CURVE_POINTS, len(levels))).astype(int))
    people = max(len(matches.keypoints), 1)
    curves = {"score": -levels, "precision": found / np.maximum(kept, 1), "recall": found / people}
    return {name: np.asarray(values)[chosen].tolist() for name, values in curves.items()}


def pose_figures(
    result_rows: Sequence[ResultRow],
    config: Config,
    files: Mapping[str, CocoKeypointFile],
    point: OperatingPoint | None,
) -> list[PoseFigures]:
    """The figures of all rows of merged poses, and of other methods' rows; none of a row without poses.

    Args:
        result_rows: of the table.
        config: protocol and skeleton.
        files: split -> its annotations.
        point: the model's operating point; other methods' scores have nothing to do with it.
    """
    figures = []
    for row in result_rows:
        if row.instance_mode not in (MERGED, EXTERNAL_MODE) or not row.results:
            continue
        matches = match_poses(config.data, files[row.split].annotations, row.results)
        own = point if row.instance_mode == MERGED else None
        figures.append(
            PoseFigures(
                *(row.split, row.source, row.instance_mode),
                people=len(matches.keypoints),
                all_poses=detection(matches),
                kept=detection(matches, own.pose_score) if own else None,
                joints=joint_figures(matches, config.data.joints),
                curve=score_curve(matches),
            )
        )
    return figures


def flat_figures(figures: Sequence[PoseFigures]) -> dict[str, float]:
    """``split/source/instance_mode/figure`` -> value over all joints and poses, without nan, for MLflow."""
    found: dict[str, float] = {}
    for figure in figures:
        joints = figure.joints[ALL_JOINTS]
        values = {"joint_AP": joints.ap, "joint_error_box": joints.error_box, "PCK": joints.pck}
        values["F1_all_poses"] = figure.all_poses.f1
        if figure.kept:
            kept = figure.kept
            values |= {"F1": kept.f1, "precision": kept.precision, "recall": kept.recall}
        found |= {f"{figure.name}/{name}": value for name, value in values.items() if not math.isnan(value)}
    return found


def figures_json(figures: Sequence[PoseFigures], point: OperatingPoint | None) -> dict[str, Any]:
    """Everything as JSON values: null where a figure is nan."""
    content = {
        "operating_point": point.to_json() if point else None,
        "figures": [asdict(figure) for figure in figures],
    }
    return _without_nan(content)  # type: ignore[no-any-return]


def figures_text(figures: Sequence[PoseFigures], point: OperatingPoint | None) -> str:
    """Two tables: precision, recall and F1 with and without the operating point; the joints' figures."""
    rows: list[tuple[str, ...]] = [
        ("split", "boxes", "instances", "poses", "number", "precision", "recall", "F1")
    ]
    for figure in figures:
        sets = {"all": figure.all_poses, **({"kept": figure.kept} if figure.kept else {})}
        for name, found in sets.items():
            values = (percent(v, "-") for v in (found.precision, found.recall, found.f1))
            rows.append((figure.split, figure.source, figure.instance_mode, name, str(found.poses), *values))
    lines = [operating_point_line(point), "", *aligned(rows, 4), ""]
    joint_rows: list[tuple[str, ...]] = [
        ("split", "boxes", "joint", "labelled", "AP", "error px", "error % of box", "PCK@0.2")
    ]
    for figure in figures:
        for name, joint in figure.joints.items():
            shares = (percent(v, "-") for v in (joint.error_box, joint.pck))
            absolute = (str(joint.labelled), percent(joint.ap, "-"), decimal(joint.error_px, "-"))
            joint_rows.append((figure.split, figure.source, name, *absolute, *shares))
    return "\n".join([*lines, *aligned(joint_rows, 3), "", FIGURES_HELP]) + "\n"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _mean(values: np.ndarray) -> float:
    """Mean of the values that are not nan; nan if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
