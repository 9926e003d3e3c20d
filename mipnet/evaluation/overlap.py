"""AP_overlap: COCO's AP of the people whose box overlaps another's, for data sets with few occlusions."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from mipnet.data.box_ops import box_iou
from mipnet.evaluation import coco
from mipnet.evaluation.coco import ALL_AREAS, Annotations
from mipnet.evaluation.oks import Sigmas

OVERLAP_IOU = 0.3  # least box IoU with another person


def overlapped_ap(annotations: Annotations, results: list[dict[str, Any]], sigmas: Sigmas) -> float:
    """AP of the overlapped people, over the images that show any.

    All other people are regions to ignore, like COCO's crowds: a pose that COCOeval matches with one of them
    at OKS 0.5, its loosest threshold, counts at no threshold. So an isolated person's pose, however
    imprecise, is neither a true nor a false positive, but a pose that matches no person is a false positive.

    Args:
        annotations: a COCO keypoint data set, or the path of its JSON; not changed.
        results: COCO's result format; not changed.
        sigmas: (K,) OKS constants.

    Returns:
        0 to 1; nan where no person with labelled keypoints overlaps another.

    Raises:
        DataError: as ``evaluate_keypoints``.
    """
    annotations = coco.load_annotations(annotations)
    people = coco.ground_truth_index(annotations, len(sigmas)).dataset["annotations"]
    overlapped = overlapped_people(people)
    image_ids = list(dict.fromkeys(people[i]["image_id"] for i in sorted(overlapped)))
    if not image_ids:
        return float("nan")
    image_set = set(image_ids)
    restricted = [
        person if i in overlapped else {**person, "iscrowd": 1}
        for i, person in enumerate(people)
        if person["image_id"] in image_set
    ]
    candidates = [result for result in results if result["image_id"] in image_set]
    ground_truth = coco.ground_truth_index({**annotations, "annotations": restricted}, len(sigmas))
    poses = coco.results_index(annotations, candidates, len(sigmas))

    first = coco.run_evaluation(ground_truth, poses, sigmas, image_ids, ALL_AREAS)
    counted = [  # COCOeval's ids count from 1 in the order of the results
        candidates[number - 1]
        for image in first.evalImgs
        if image is not None
        for number, ignored in zip(image["dtIds"], image["dtIgnore"][0], strict=True)
        if not ignored
    ]
    poses = coco.results_index(annotations, counted, len(sigmas))
    final = coco.run_evaluation(ground_truth, poses, sigmas, image_ids, ALL_AREAS)
    return coco.mean_present(final.eval["precision"])


def overlapped_people(people: list[dict[str, Any]]) -> set[int]:
    """Indices of the people with labelled keypoints whose box has IoU > 0.3 with another person's.

    The other person may have no labelled keypoints, but must not be a crowd region.

    Args:
        people: with image_id, bbox, iscrowd and num_keypoints.
    """
    by_image: dict[Any, list[int]] = defaultdict(list)
    for number, person in enumerate(people):
        if not person["iscrowd"]:
            by_image[person["image_id"]].append(number)
    overlapped: set[int] = set()
    for indices in by_image.values():
        if len(indices) < 2:
            continue
        boxes = np.array([people[i]["bbox"] for i in indices], np.float64)
        iou = box_iou(boxes, boxes)  # (n, n)
        np.fill_diagonal(iou, 0)
        overlapped.update(indices[i] for i in np.flatnonzero(iou.max(axis=1) > OVERLAP_IOU).tolist())
    return {i for i in overlapped if people[i]["num_keypoints"] > 0}
