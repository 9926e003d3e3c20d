"""Sizes of images: decided by their headers where a file states none, or states them the wrong way round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mipnet.data.annotation_reading import Reading
from mipnet.data.image_headers import ImageHeader

TOLERANCE = 0.5
"""px that boxes may stand over the border by rounding."""
TEMPLATE_DOUBT = 2.0
"""px over the border, from which the picture is asked whether its stated size is a template's."""
TEMPLATE_SHARE = 0.05
"""Share of the images of one stated size with a box over its border, above which the size is a template's."""
SWAPPED_RELEASE = 0.05
"""Share of a file's images that must be proven to be turned before its annotations alone are believed."""


def resolve_sizes(reading: Reading, header: Callable[[str], ImageHeader | None]) -> dict[int, bool]:
    """Give every image a width and height; in place.

    The header of a picture is read where no size is stated, and where a box or a labelled keypoint lies
    outside of the image as stated but inside of the turned one. A size is of the frame that the labels are
    in, where an EXIF orientation turns the picture sideways. Without the pictures a size is turned only
    if that is so in more than 5 % of the file's images, as in some releases of CrowdPose; and an image
    without size reaches as far as its annotations.

    Args:
        reading: of a file.
        header: file name -> header of the picture; None if it cannot be read.

    Returns:
        image id -> whether the labelled keypoints only fit the size as it was stated (True), or only the
        other one of the two that an EXIF orientation allows (False); without those that fit both.
    """
    _replace_templates(reading, header)
    reach = _reach(reading.content["annotations"])
    by_annotations = []
    fits: dict[int, bool] = {}
    for image in reading.content["images"]:
        joints, (right, bottom) = reach.get(image["id"], ((0.0, 0.0), (0.0, 0.0)))
        if image["width"] is None:
            found = header(image["file_name"])
            size = found.displayed if found else (max(1, int(np.ceil(right))), max(1, int(np.ceil(bottom))))
            image["width"], image["height"] = size
            if found and found.stored != size and _looks_turned(image, right, bottom):
                image["width"], image["height"] = found.stored
            source = "picture" if found else "annotations"
            reading.mended.add(f"image without width and height, taken from the {source}", image["file_name"])
        elif _looks_turned(image, right, bottom):
            found = header(image["file_name"])
            turned = (image["height"], image["width"])
            if found is None:
                by_annotations.append(image)
            elif turned in (found.stored, found.displayed) and (
                found.stored == found.displayed or joints == (0, 0) or _looks_turned(image, *joints)
            ):  # where an EXIF orientation allows both sizes, one bad box does not decide
                _turn(image, reading)
                fits |= {image["id"]: False} if found.stored != found.displayed else {}
        elif joints[0] > image["height"] + TOLERANCE or joints[1] > image["width"] + TOLERANCE:
            fits[image["id"]] = True
    if len(by_annotations) > SWAPPED_RELEASE * len(reading.content["images"]):
        for image in by_annotations:
            _turn(image, reading)
    return fits


def _looks_turned(image: Mapping[str, Any], right: float, bottom: float) -> bool:
    width, height = image["width"] + TOLERANCE, image["height"] + TOLERANCE
    return bool((right > width or bottom > height) and right <= height and bottom <= width)


def _turn(image: dict[str, Any], reading: Reading) -> None:
    image["width"], image["height"] = image["height"], image["width"]
    reading.mended.add("image whose width and height were swapped, turned back", image["file_name"])


Point = tuple[float, float]


def _reach(people: list[dict[str, Any]]) -> dict[int, tuple[Point, Point]]:
    """Image id -> the largest x and y of its labelled keypoints, and of its boxes and labelled keypoints."""
    reach: dict[int, tuple[Point, Point]] = {}
    for person in people:
        x, y, w, h = person["bbox"]
        keypoints = person["keypoints"]
        labelled = [
            (a, b) for a, b, v in zip(keypoints[::3], keypoints[1::3], keypoints[2::3], strict=True) if v > 0
        ]
        joints, whole = reach.get(person["image_id"], ((0.0, 0.0), (0.0, 0.0)))
        joints = max(joints[0], *(a for a, _ in labelled), 0), max(joints[1], *(b for _, b in labelled), 0)
        reach[person["image_id"]] = joints, (max(whole[0], joints[0], x + w), max(whole[1], joints[1], y + h))
    return reach


def _replace_templates(reading: Reading, header: Callable[[str], ImageHeader | None]) -> None:
    """Sizes that are not the picture's, turned or not, where a box lies clearly outside; in place."""
    images = {image["id"]: image for image in reading.content["images"] if image["width"] is not None}
    doubted = set()
    for person in reading.content["annotations"]:
        image, (x, y, w, h) = images.get(person["image_id"]), person["bbox"]
        if image and (x + w > image["width"] + TEMPLATE_DOUBT or y + h > image["height"] + TEMPLATE_DOUBT):
            doubted.add(image["id"])
    # The labels of other images of a template's size lie inside of it by chance.
    sizes = Counter((image["width"], image["height"]) for image in images.values())
    outside = Counter((images[each]["width"], images[each]["height"]) for each in doubted)
    templates = {size for size, count in outside.items() if count > TEMPLATE_SHARE * sizes[size]}
    asked = [i for i in images.values() if i["id"] in doubted or (i["width"], i["height"]) in templates]
    for image in asked:
        found = header(image["file_name"])
        if found and (image["width"], image["height"]) not in (found.stored, found.stored[::-1]):
            image["width"], image["height"] = found.displayed
            kind = "image that is not of the stated width and height, which are the picture's now"
            reading.mended.add(kind, image["file_name"])
