"""CrowdPose's keypoint metrics; the rules differ from COCO's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mipnet.data.geometry import BOX_AREA_FRACTION
from mipnet.data.json_values import number, shown
from mipnet.errors import DataError
from mipnet.evaluation import coco
from mipnet.evaluation.coco import ALL_AREAS, Annotations
from mipnet.evaluation.oks import Sigmas

EASY_CROWD_INDEX, MEDIUM_CROWD_INDEX = 0.2, 0.8  # upper bounds, exclusive


def evaluate_crowdpose(
    annotations: Annotations, results: list[dict[str, Any]], sigmas: Sigmas
) -> dict[str, float]:
    """CrowdPose's metrics: OKS area 0.53 · w · h of the box, no size ranges, levels by ``crowdIndex``.

    Args:
        annotations: a CrowdPose data set, or the path of its JSON; not changed.
        results: COCO's result format with 14 keypoints; not changed.
        sigmas: (14,) OKS constants, those of ``CROWDPOSE14``.

    Returns:
        AP, AP50, AP75, AR, AR50, AR75, and AP_easy (crowdIndex < 0.2), AP_medium (< 0.8) and AP_hard, the
        last three rounded to 4 places as the benchmark reports them. All in [0, 1]; nan where there are no
        people.

    Raises:
        DataError: as ``evaluate_keypoints``; an image without ``crowdIndex``.
    """
    annotations = coco.load_annotations(annotations)
    ground_truth = coco.ground_truth_index(with_areas(annotations), len(sigmas))
    poses = coco.results_index(annotations, results, len(sigmas))

    evaluation = coco.run_evaluation(ground_truth, poses, sigmas, area_ranges=ALL_AREAS).eval
    precision, recall = evaluation["precision"], evaluation["recall"]
    metrics = {
        "AP": coco.mean_present(precision),
        "AP50": coco.mean_present(precision[0]),
        "AP75": coco.mean_present(precision[5]),
        "AR": coco.mean_present(recall),
        "AR50": coco.mean_present(recall[0]),
        "AR75": coco.mean_present(recall[5]),
    }
    for level, image_ids in crowd_levels(annotations).items():
        subset = coco.run_evaluation(ground_truth, poses, sigmas, image_ids, ALL_AREAS).eval
        metrics[f"AP_{level}"] = round(coco.mean_present(subset["precision"]), 4)
    return metrics


def with_areas(annotations: Mapping[str, Any]) -> dict[str, Any]:
    """CrowdPose annotations with the people's areas, which CrowdPose's files lack: 0.53 · w · h of the box.

    Raises:
        DataError: a person without a box.
    """
    return {**annotations, "annotations": [_with_area(person) for person in annotations["annotations"]]}


def _with_area(person: dict[str, Any]) -> dict[str, Any]:
    owner = f"annotation {person.get('id')}"
    if "bbox" not in person:
        raise DataError(f"{owner} has no bbox")
    _, _, width, height = coco.box_of(person, owner)
    return {**person, "area": BOX_AREA_FRACTION * width * height}


def crowd_levels(annotations: Mapping[str, Any]) -> dict[str, list[int]]:
    """Image ids of the levels easy, medium and hard, by ``crowdIndex``.

    Raises:
        DataError: an image has no ``crowdIndex``.
    """
    levels: dict[str, list[int]] = {"easy": [], "medium": [], "hard": []}
    for image in annotations["images"]:
        if "crowdIndex" not in image:
            raise DataError(f"image {image['id']!r} has no crowdIndex: not a CrowdPose data set")
        crowd_index = number(image["crowdIndex"])
        if crowd_index is None:
            what = f"image {image['id']!r} has the crowdIndex {shown(image['crowdIndex'])}"
            raise DataError(what, "give a number from 0 to 1")
        index = np.searchsorted([EASY_CROWD_INDEX, MEDIUM_CROWD_INDEX], crowd_index, side="right")
        levels[("easy", "medium", "hard")[index]].append(image["id"])
    return levels
