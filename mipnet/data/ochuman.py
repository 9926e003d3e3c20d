"""Converts OCHuman's own annotation format to COCO's, with COCO's 17 keypoints.

``{"images": [{"image_id", "file_name", "width", "height", "annotations": [...]}]}``; a person has ``bbox``
[x1, y1, x2, y2] and, if its pose is annotated, ``keypoints`` [x, y, visibility] · 19. Visibility: 0 missing,
1 visible, 2 occluded by the person itself, 3 occluded by others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mipnet.data.geometry import BOX_AREA_FRACTION
from mipnet.errors import DataError
from mipnet.skeletons import COCO17

OCHUMAN_KEYPOINTS = (
    "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "head", "neck", "right_ear", "left_ear", "nose", "right_eye", "left_eye",
)  # fmt: skip
COCO17_TO_OCHUMAN = [OCHUMAN_KEYPOINTS.index(name) for name in COCO17.joints]
COCO_VISIBILITY = np.array([0, 2, 1, 1])  # by OCHuman's; 0 unlabelled, 1 occluded, 2 visible


def is_ochuman(content: Any) -> bool:
    """Whether a JSON file's content is in OCHuman's own format: annotations inside the image entries."""
    if not isinstance(content, dict) or "annotations" in content:
        return False
    images = content.get("images")
    return isinstance(images, list) and any("annotations" in i for i in images if isinstance(i, dict))


def ochuman_to_coco(content: dict[str, Any], where: str) -> dict[str, Any]:
    """OCHuman's persons with annotated poses as a COCO keypoint data set.

    Image ids as from ``ids_from_names``.

    Args:
        content: of OCHuman's file; not changed.
        where: path of the file, for messages.

    Raises:
        DataError: an image or a person lacks a field, or has another number of keypoints.
    """
    images: list[dict[str, Any]] = []
    people: list[dict[str, Any]] = []
    try:
        ids = ids_from_names([image["image_id"] for image in content["images"]])
        for image_id, image in zip(ids, content["images"], strict=True):
            size = {"width": image["width"], "height": image["height"]}
            images.append({"id": image_id, "file_name": image["file_name"], **size})
            for person in image["annotations"]:
                if person.get("keypoints"):
                    people.append({"id": len(people) + 1, "image_id": image_id, **_person(person)})
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{where} is not OCHuman's file: image {len(images)} {reason}") from None
    category = {"id": 1, "name": "person", "keypoints": list(COCO17.joints)}
    return {"images": images, "annotations": people, "categories": [category]}


def ids_from_names(names: list[Any]) -> list[int]:
    """Integer ids of images: the names themselves if all are distinct decimal numbers, else 1, 2, 3, …"""
    if all(str(name).isdecimal() for name in names) and len({int(name) for name in names}) == len(names):
        return [int(name) for name in names]
    return list(range(1, len(names) + 1))


def _person(person: dict[str, Any]) -> dict[str, Any]:
    left, top, right, bottom = map(float, person["bbox"])
    given = np.asarray(person["keypoints"], np.float64)
    if given.size != 3 * len(OCHUMAN_KEYPOINTS):
        raise ValueError(f"has a person of {given.size / 3:g} keypoints, not {len(OCHUMAN_KEYPOINTS)}")
    keypoints = given.reshape(-1, 3)[COCO17_TO_OCHUMAN]
    keypoints[:, 2] = COCO_VISIBILITY[keypoints[:, 2].astype(int)]
    keypoints[keypoints[:, 2] == 0] = 0
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [left, top, right - left, bottom - top],
        "area": BOX_AREA_FRACTION * (right - left) * (bottom - top),
        "keypoints": keypoints.ravel().tolist(),
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
    }
