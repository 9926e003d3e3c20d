"""OCHuman's own annotation file, turned into COCO's format with COCO's 17 joints.

``{"images": [{"image_id", "file_name", "width", "height", "annotations": [...]}]}``; a person has ``bbox``
[x1, y1, x2, y2] and, if its pose is annotated, ``keypoints`` [x, y, visibility] · 19. The visibility is 0
missing, 1 visible, 2 hidden by the person itself, 3 hidden by others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mipnet.errors import DataError
from mipnet.skeletons import COCO17

JOINTS = (
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "head",
    "neck",
    "right_ear",
    "left_ear",
    "nose",
    "right_eye",
    "left_eye",
)
TO_COCO17 = [JOINTS.index(name) for name in COCO17.joints]
VISIBILITY = np.array([0, 2, 1, 1])  # COCO's: 0 not labelled, 1 labelled but hidden, 2 visible
AREA_FRACTION = 0.53  # of the box, in place of the mask's area; CrowdPose's rule


def is_ochuman(content: Any) -> bool:
    """Whether a JSON file's content is in OCHuman's own format: people inside of the images."""
    if not isinstance(content, dict) or "annotations" in content:
        return False
    images = content.get("images")
    return isinstance(images, list) and any("annotations" in i for i in images if isinstance(i, dict))


def ochuman_to_coco(content: dict[str, Any], where: str) -> dict[str, Any]:
    """The people whose pose is annotated, as a COCO keypoint data set.

    Image ids are kept where all are whole numbers (or strings of digits), else they are 1, 2, 3, …

    Args:
        content: of OCHuman's file; not changed.
        where: it lies, for messages.

    Raises:
        DataError: an image or a person lacks something, or has another number of joints.
    """
    images: list[dict[str, Any]] = []
    people: list[dict[str, Any]] = []
    try:
        ids = image_ids([image["image_id"] for image in content["images"]])
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


def image_ids(names: list[Any]) -> list[int]:
    """The names as numbers if all are different numbers, else 1, 2, 3, …"""
    if all(str(name).isdecimal() for name in names) and len({int(name) for name in names}) == len(names):
        return [int(name) for name in names]
    return list(range(1, len(names) + 1))


def _person(person: dict[str, Any]) -> dict[str, Any]:
    left, top, right, bottom = map(float, person["bbox"])
    given = np.asarray(person["keypoints"], np.float64)
    if given.size != 3 * len(JOINTS):
        raise ValueError(f"has a person of {given.size / 3:g} keypoints, not {len(JOINTS)}")
    joints = given.reshape(-1, 3)[TO_COCO17]
    joints[:, 2] = VISIBILITY[joints[:, 2].astype(int)]
    joints[joints[:, 2] == 0] = 0
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [left, top, right - left, bottom - top],
        "area": AREA_FRACTION * (right - left) * (bottom - top),
        "keypoints": joints.ravel().tolist(),
        "num_keypoints": int((joints[:, 2] > 0).sum()),
    }
