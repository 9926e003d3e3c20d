"""People of two joints, for figures that can be done by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from mipnet.config.schema import DataConfig
from mipnet.evaluation.coco import keypoint_results
from mipnet.skeletons import Skeleton

TWO_JOINTS = Skeleton("two", ("a", "b"), (0.05, 0.05), ((0, 1),), ((0, 1),), ())
DATA = DataConfig(skeleton=TWO_JOINTS)
AREA = 10_000.0  # an OKS of 0.5 is at 2 · 0.05 · √(2 · ln 2 · 10,000) = 11.8 px


def person(number: int, image: int, x: float, **changes: Any) -> dict[str, Any]:
    """Two labelled joints, 10 px apart, in a box of 20 x 40 px."""
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [x, 0, 20, 40],
        "area": AREA,
        "iscrowd": 0,
        "num_keypoints": 2,
        "keypoints": [x, 0, 2, x + 10, 0, 2],
        **changes,
    }


def data_set(*people: dict[str, Any]) -> dict[str, Any]:
    images = [{"id": i, "width": 999, "height": 99, "crowdIndex": 0.5} for i in (1, 2)]
    categories = [{"id": 1, "name": "person", "keypoints": ["a", "b"]}]
    return {"images": images, "annotations": list(people), "categories": categories}


def results(*poses: tuple[int, float, float]) -> list[dict[str, Any]]:
    """(image, x, score) -> the result whose joints are at x and x + 10, with that score, too."""
    keypoints = np.array([[[x, 0, s], [x + 10, 0, s]] for _, x, s in poses], dtype=float)
    return keypoint_results([image for image, _, _ in poses], keypoints, np.array([s for _, _, s in poses]))
