"""By which rules a data set's poses are judged, and the names of the figures."""

from __future__ import annotations

from typing import Any, Literal

from mipnet.evaluation.coco import Annotations, Sigmas, evaluate_keypoints
from mipnet.evaluation.crowdpose import evaluate_crowdpose
from mipnet.evaluation.overlap import overlapped_ap

Protocol = Literal["coco", "crowdpose"]

METRICS: dict[Protocol, tuple[str, ...]] = {
    "coco": ("AP", "AP50", "AP75", "APM", "APL", "AR", "R50", "AP_overlap"),
    "crowdpose": ("AP", "AP50", "AP75", "AR", "AP_easy", "AP_medium", "AP_hard"),
}
RULES: dict[Protocol, str] = {
    "coco": "COCO’s keypoint metrics in percent. R50: recall at OKS 0.5. AP_overlap: of the people with a "
    "neighbour above box IoU 0.3.",
    "crowdpose": "CrowdPose’s metrics in percent. AP_easy, AP_medium, AP_hard: in images of crowdIndex below "
    "0.2, from there to 0.8, and above.",
}


def evaluate_poses(
    protocol: Protocol, annotations: Annotations, results: list[dict[str, Any]], sigmas: Sigmas
) -> dict[str, float]:
    """The figures named in ``METRICS``, in that order, 0 to 1; nan where there is nobody to measure.

    Args:
        protocol: whose rules.
        annotations: a COCO keypoint data set, or the path of its JSON; not changed.
        results: COCO's result format; not changed.
        sigmas: (K,) OKS constants.

    Raises:
        DataError: as ``evaluate_keypoints`` and ``evaluate_crowdpose``.
    """
    if protocol == "crowdpose":
        found = evaluate_crowdpose(annotations, results, sigmas)
    else:
        found = evaluate_keypoints(annotations, results, sigmas)
        found["AP_overlap"] = overlapped_ap(annotations, results, sigmas)
    return {name: found[name] for name in METRICS[protocol]}
