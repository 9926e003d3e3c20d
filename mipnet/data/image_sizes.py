"""Images whose annotations state width and height the wrong way round, as some releases of CrowdPose do."""

from __future__ import annotations

from typing import Any

TOLERANCE = 0.5  # px that boxes may stand over the border by rounding


def turn_swapped_sizes(annotations: dict[str, Any]) -> int:
    """Swap ``width`` and ``height`` where the people prove that they are swapped; in place.

    The proof is a box or labelled joint outside of the image as stated, while all boxes and joints of the
    image lie inside of the turned one. Where the people fit both, nothing depends on the size.

    Returns:
        how many images were turned.
    """
    reach = _reach(annotations["annotations"])
    turned = 0
    for image in annotations["images"]:
        right, bottom = reach.get(image["id"], (0.0, 0.0))
        width, height = image["width"] + TOLERANCE, image["height"] + TOLERANCE
        if (right > width or bottom > height) and right <= height and bottom <= width:
            image["width"], image["height"] = image["height"], image["width"]
            turned += 1
    return turned


def _reach(people: list[dict[str, Any]]) -> dict[Any, tuple[float, float]]:
    """Image id -> the largest x and y of its boxes and labelled joints."""
    reach: dict[Any, tuple[float, float]] = {}
    for person in people:
        try:
            x, y, w, h = person["bbox"]
            joints = person.get("keypoints") or []
            labelled = [
                (a, b) for a, b, v in zip(joints[::3], joints[1::3], joints[2::3], strict=True) if v > 0
            ]
            before = reach.get(person["image_id"], (0.0, 0.0))
            right = max(before[0], x + w, *(a for a, _ in labelled))
            bottom = max(before[1], y + h, *(b for _, b in labelled))
        except (KeyError, TypeError, ValueError):
            continue  # complained about where people are read
        reach[person["image_id"]] = right, bottom
    return reach
