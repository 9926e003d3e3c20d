"""Evaluation protocols: the rules for a data set's poses, and the names and meanings of the metrics."""

from __future__ import annotations

import math
from typing import Any, Literal

from mipnet.config.schema import DataConfig
from mipnet.evaluation.coco import Annotations, evaluate_keypoints
from mipnet.evaluation.crowdpose import evaluate_crowdpose
from mipnet.evaluation.overlap import overlapped_ap

Protocol = Literal["coco", "crowdpose"]

METRIC_NAMES: dict[Protocol, tuple[str, ...]] = {
    "coco": ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AP_overlap"),
    "crowdpose": ("AP", "AP50", "AP75", "AR", "AP_easy", "AP_medium", "AP_hard"),
}
METRIC_DESCRIPTIONS: dict[Protocol, str] = {
    "coco": "COCO’s keypoint metrics in percent. AR50: recall at OKS 0.5. AP_overlap: of the people with a "
    "neighbour above box IoU 0.3.",
    "crowdpose": "CrowdPose’s metrics in percent. AP_easy, AP_medium, AP_hard: in images of crowdIndex below "
    "0.2, from there to 0.8, and above.",
}


def evaluate_poses(
    data: DataConfig, annotations: Annotations, results: list[dict[str, Any]]
) -> dict[str, float]:
    """The metrics of ``METRIC_NAMES``, in that order, 0 to 1; nan where there are no such people.

    Args:
        data: has the protocol and the skeleton.
        annotations: a COCO keypoint data set, or the path of its JSON; not changed.
        results: COCO's result format; not changed.

    Raises:
        DataError: as ``evaluate_keypoints`` and ``evaluate_crowdpose``.
    """
    sigmas = data.joints.sigmas
    if data.protocol == "crowdpose":
        metrics = evaluate_crowdpose(annotations, results, sigmas)
    else:
        metrics = evaluate_keypoints(annotations, results, sigmas)
        metrics["AP_overlap"] = overlapped_ap(annotations, results, sigmas)
    return {name: metrics[name] for name in METRIC_NAMES[data.protocol]}


def nothing_measured(data: DataConfig) -> dict[str, float]:
    """The metrics of ``METRIC_NAMES`` where there is neither a box nor a pose: all nan."""
    return dict.fromkeys(METRIC_NAMES[data.protocol], math.nan)
