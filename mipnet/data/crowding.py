"""CrowdPose's crowd index: how much the people of an image stand in one another's boxes."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from mipnet.data.geometry import clip_box
from mipnet.data.json_values import number


def crowd_index(boxes: np.ndarray, keypoints: np.ndarray) -> float:
    """CrowdPose's crowd index of an image: labelled keypoints of others in a person's box / the person's own.

    The mean over the image's persons, at most 1. On CrowdPose's val, half of the stated values agree to two
    decimals.

    Args:
        boxes: (P, 4) x, y, w, h in px.
        keypoints: (P, K, 3) x, y in px and v.
    """
    labelled = keypoints[..., 2] > 0
    xy = keypoints[None, ..., :2]
    low, high = boxes[:, None, None, :2], boxes[:, None, None, :2] + boxes[:, None, None, 2:]
    inside = ((xy >= low) & (xy <= high)).all(-1) & labelled[None]  # (box, person, keypoint)
    counts = inside.sum(-1)
    np.fill_diagonal(counts, 0)
    return float(min((counts.sum(1) / np.maximum(labelled.sum(1), 1)).mean(), 1))


def mend_crowd_indices(images: list[dict[str, Any]], people: list[dict[str, Any]]) -> list[str]:
    """Give images a ``crowdIndex`` where they state none that can be true, in place.

    It cannot be if it is no number, negative, or the same in all of several images. CrowdPose itself has
    images above 1.

    Args:
        images: with id, width and height.
        people: with keypoints, in px.

    Returns:
        names of the images whose index was replaced.
    """
    stated = [number(image.get("crowdIndex")) for image in images]
    constant = len(images) > 2 and len({*stated}) == 1
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for person in people:
        by_image[person["image_id"]].append(person)
    replaced = []
    for image, value in zip(images, stated, strict=True):
        if value is None or constant or value < 0:
            there = by_image[image["id"]]
            boxes = clip_box([p["bbox"] for p in there] or np.zeros((0, 4)), image["width"], image["height"])
            keypoints = np.array([p["keypoints"] for p in there], np.float64).reshape(len(there), -1, 3)
            counted = crowd_index(boxes, keypoints) if there else 0.0
            if counted != value:
                replaced.append(image["file_name"])
            value = counted
        image["crowdIndex"] = value
    return replaced
