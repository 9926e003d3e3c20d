"""Sizes of images: decided by their headers where a file states none, or states them the wrong way round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mipnet.data.annotation_reading import Reading
from mipnet.data.image_headers import ImageHeader

TOLERANCE = 0.5
"""px that boxes may stand over the border by rounding."""
TEMPLATE_DOUBT = 2.0
"""px over the border, from which the picture is asked whether its stated size is a template's."""
SWAPPED_RELEASE = 0.05
"""Share of a file's images that must be proven to be turned before its annotations alone are believed."""


def resolve_sizes(reading: Reading, header: Callable[[str], ImageHeader | None]) -> None:
    """Give every image a width and height; in place.

    The header of a picture is read where no size is stated, and where a box or a labelled keypoint lies
    outside of the image as stated but inside of the turned one. Without the pictures a size is turned only
    if that is so in more than 5 % of the file's images, as in some releases of CrowdPose; and an image
    without size reaches as far as its annotations.

    Args:
        reading: of a file.
        header: file name -> header of the picture; None if it cannot be read.
    """
    _replace_templates(reading, header)
    reach = _reach(reading.content["annotations"])
    by_annotations = []
    for image in reading.content["images"]:
        right, bottom = reach.get(image["id"], (0.0, 0.0))
        if image["width"] is None:
            found = header(image["file_name"])
            size = found.displayed if found else (max(1, int(np.ceil(right))), max(1, int(np.ceil(bottom))))
            image["width"], image["height"] = size
            source = "picture" if found else "annotations"
            reading.mended.add(f"image without width and height, taken from the {source}", image["file_name"])
        elif _looks_turned(image, right, bottom):
            found = header(image["file_name"])
            if found is None:
                by_annotations.append(image)
            elif (image["height"], image["width"]) in (found.stored, found.displayed):
                _turn(image, reading)
    if len(by_annotations) > SWAPPED_RELEASE * len(reading.content["images"]):
        for image in by_annotations:
            _turn(image, reading)


def _looks_turned(image: Mapping[str, Any], right: float, bottom: float) -> bool:
    width, height = image["width"] + TOLERANCE, image["height"] + TOLERANCE
    return bool((right > width or bottom > height) and right <= height and bottom <= width)


def _turn(image: dict[str, Any], reading: Reading) -> None:
    image["width"], image["height"] = image["height"], image["width"]
    reading.mended.add("image whose width and height were swapped, turned back", image["file_name"])


def _reach(people: list[dict[str, Any]]) -> dict[int, tuple[float, float]]:
    """Image id -> the largest x and y of its boxes and labelled keypoints."""
    reach: dict[int, tuple[float, float]] = {}
    for person in people:
        x, y, w, h = person["bbox"]
        keypoints = person["keypoints"]
        labelled = [
            (a, b) for a, b, v in zip(keypoints[::3], keypoints[1::3], keypoints[2::3], strict=True) if v > 0
        ]
        right, bottom = reach.get(person["image_id"], (0.0, 0.0))
        right = max(right, x + w, *(a for a, _ in labelled))
        bottom = max(bottom, y + h, *(b for _, b in labelled))
        reach[person["image_id"]] = right, bottom
    return reach


def _replace_templates(reading: Reading, header: Callable[[str], ImageHeader | None]) -> None:
    """Sizes that are not the picture's, turned or not, where a box lies clearly outside; in place."""
    images = {image["id"]: image for image in reading.content["images"] if image["width"] is not None}
    doubted = set()
    for person in reading.content["annotations"]:
        image, (x, y, w, h) = images.get(person["image_id"]), person["bbox"]
        if image and (x + w > image["width"] + TEMPLATE_DOUBT or y + h > image["height"] + TEMPLATE_DOUBT):
            doubted.add(image["id"])
    for image_id in sorted(doubted):
        image = images[image_id]
        found = header(image["file_name"])
        if found and (image["width"], image["height"]) not in (found.stored, found.stored[::-1]):
            image["width"], image["height"] = found.displayed
            kind = "image that is not of the stated width and height, which are the picture's now"
            reading.mended.add(kind, image["file_name"])
