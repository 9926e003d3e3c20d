"""Corrects images whose annotations have width and height swapped, as in some releases of CrowdPose."""

from __future__ import annotations

from typing import Any

BORDER_TOLERANCE = 0.5  # px by which boxes may exceed the image because of rounding


def fix_swapped_sizes(annotations: dict[str, Any]) -> int:
    """Swap ``width`` and ``height``, in place, of images whose persons fit only the swapped size.

    That is: a box or labelled keypoint lies outside the image of the stated size, and all of them lie inside
    the image of the swapped size. Images whose persons fit both sizes stay, because nothing depends on it.

    Returns:
        how many images were corrected.
    """
    extents = _extents(annotations["annotations"])
    fixed = 0
    for image in annotations["images"]:
        right, bottom = extents.get(image["id"], (0.0, 0.0))
        width, height = image["width"] + BORDER_TOLERANCE, image["height"] + BORDER_TOLERANCE
        if (right > width or bottom > height) and right <= height and bottom <= width:
            image["width"], image["height"] = image["height"], image["width"]
            fixed += 1
    return fixed


def _extents(people: list[dict[str, Any]]) -> dict[Any, tuple[float, float]]:
    """Image id -> the largest x and y of its boxes and labelled keypoints."""
    extents: dict[Any, tuple[float, float]] = {}
    for person in people:
        try:
            x, y, w, h = person["bbox"]
            keypoints = person.get("keypoints") or []
            labelled = [
                (a, b)
                for a, b, v in zip(keypoints[::3], keypoints[1::3], keypoints[2::3], strict=True)
                if v > 0
            ]
            before = extents.get(person["image_id"], (0.0, 0.0))
            right = max(before[0], x + w, *(a for a, _ in labelled))
            bottom = max(before[1], y + h, *(b for _, b in labelled))
        except (KeyError, TypeError, ValueError):
            continue  # invalid: drop_invalid_annotations reports it
        extents[person["image_id"]] = right, bottom
    return extents
