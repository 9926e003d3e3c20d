"""COCO's AP of the people who overlap others: occlusion, on data sets of mostly separate people."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from mipnet.data.box_ops import box_iou
from mipnet.evaluation import coco
from mipnet.evaluation.coco import ALL_SIZES, Annotations, Sigmas

OVERLAP = 0.3  # box IoU with another person


def overlapped_ap(annotations: Annotations, results: list[dict[str, Any]], sigmas: Sigmas) -> float:
    """AP over the images that show an overlapped person, of the overlapped people alone.

    All others are regions to ignore, as COCO ignores crowds: a pose that COCOeval matches with one of them at
    OKS 0.5, its loosest threshold, counts at no threshold. So an isolated person's pose, however imprecise,
    is neither a hit nor a false alarm, while a pose of nobody still is one.

    Args:
        annotations: a COCO keypoint data set, or the path of its JSON; not changed.
        results: COCO's result format; not changed.
        sigmas: (K,) OKS constants.

    Returns:
        0 to 1; nan where nobody with labelled joints overlaps anybody.

    Raises:
        DataError: as ``evaluate_keypoints``.
    """
    annotations = coco.load_annotations(annotations)
    people = coco.ground_truth_index(annotations, len(sigmas)).dataset["annotations"]
    chosen = overlapped_people(people)
    image_ids = list(dict.fromkeys(people[i]["image_id"] for i in sorted(chosen)))
    if not image_ids:
        return float("nan")
    wanted = set(image_ids)
    restricted = [
        person if number in chosen else {**person, "iscrowd": 1}
        for number, person in enumerate(people)
        if person["image_id"] in wanted
    ]
    here = [result for result in results if result["image_id"] in wanted]
    ground_truth = coco.ground_truth_index({**annotations, "annotations": restricted}, len(sigmas))
    poses = coco.results_index(annotations, here, len(sigmas))

    first = coco.run_evaluation(ground_truth, poses, sigmas, image_ids, ALL_SIZES)
    counted = [  # ids are numbers from 1 in the order of the results
        here[number - 1]
        for image in first.evalImgs
        if image is not None
        for number, ignored in zip(image["dtIds"], image["dtIgnore"][0], strict=True)
        if not ignored
    ]
    poses = coco.results_index(annotations, counted, len(sigmas))
    judged = coco.run_evaluation(ground_truth, poses, sigmas, image_ids, ALL_SIZES)
    return coco.mean_present(judged.eval["precision"])


def overlapped_people(people: list[dict[str, Any]]) -> set[int]:
    """Indices of the people with labelled joints whose box has IoU > 0.3 with another's.

    The other may be any person that is not a crowd region, labelled joints or not.

    Args:
        people: with image_id, bbox, iscrowd and num_keypoints.
    """
    by_image: dict[Any, list[int]] = defaultdict(list)
    for number, person in enumerate(people):
        if not person["iscrowd"]:
            by_image[person["image_id"]].append(number)
    chosen: set[int] = set()
    for numbers in by_image.values():
        if len(numbers) < 2:
            continue
        boxes = np.array([people[number]["bbox"] for number in numbers], np.float64)
        overlap = box_iou(boxes, boxes)
        np.fill_diagonal(overlap, 0)
        chosen.update(numbers[i] for i in np.flatnonzero(overlap.max(axis=1) > OVERLAP).tolist())
    return {number for number in chosen if people[number]["num_keypoints"] > 0}
