"""People in their images: what of a COCO file can be told only with the images' sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from mipnet.data.annotation_reading import Reading, Rules, labelled_count
from mipnet.data.box_formats import DOUBT, FEW, FORMATS, BoxFormat, box_fits, box_format, is_relative, to_xywh
from mipnet.data.crowding import mend_crowd_indices
from mipnet.data.geometry import BOX_AREA_FRACTION, clip_box
from mipnet.data.json_values import number, plain
from mipnet.data.validation import Findings

LEAST_AREA, MOST_AREA = 0.01, 1.02
"""Shares of its box between which a person's area can be true; tools round."""
PEOPLE_COMPARED = 2000
"""People whose boxes tell the format of all."""
SLACK = 1.0
"""px that a box or keypoint may stand over the image's border; tools round."""


def turn_boxes_in_px(reading: Reading) -> None:
    """Boxes in px of another format as x, y, w, h, in place, before they are asked how large an image is.

    Args:
        reading: as from ``read_annotations``; images may have no size yet, or a wrong one.
    """
    images = {image["id"]: image for image in reading.content["images"]}
    people = reading.content["annotations"]
    spread = people[:: 1 + len(people) // PEOPLE_COMPARED]
    some = [person for person in spread if images[person["image_id"]]["width"] and _counts(person)]
    infos = [images[person["image_id"]] for person in some]
    sizes = np.array([(info["width"], info["height"]) for info in infos], np.float64).reshape(-1, 2)
    boxes = np.array([person["bbox"] for person in some], np.float64).reshape(-1, 4)
    keypoints = np.array([person["keypoints"] for person in some], np.float64)
    found = box_format(boxes, sizes, keypoints.reshape(len(some), -1, 3) if some else None)
    if found in ("xyxy", "cxcywh"):
        boxes = np.array([person["bbox"] for person in people], np.float64)
        _set_boxes(people, to_xywh(boxes, np.ones((len(boxes), 2)), found), found, reading)


def place_annotations(reading: Reading, rules: Rules) -> None:
    """Keypoints and boxes in px, areas, crowd indices, and who lies outside of the image; in place.

    Args:
        reading: whose images all have width and height.
        rules: see ``Rules``.
    """
    images = {image["id"]: image for image in reading.content["images"]}
    people = reading.content["annotations"]
    infos = [images[person["image_id"]] for person in people]
    sizes = np.array([(info["width"], info["height"]) for info in infos], np.float64).reshape(-1, 2)
    counted = np.array([_counts(person) for person in people], bool)
    rows = np.flatnonzero(counted)
    keypoints = _keypoints_in_px(people, rows, sizes, reading)
    boxes = _boxes_in_px(people, rows, sizes, keypoints, reading)

    def report(findings: Findings, kind: str, chosen: np.ndarray) -> None:
        for row in rows[chosen].tolist():
            findings.add(kind, f"annotation {people[row]['id']} of {infos[row]['file_name']}")

    xy, labelled = keypoints[..., :2], keypoints[..., 2] > 0
    beyond = ((xy < -SLACK) | (xy > sizes[rows, None] + SLACK)).any(-1) & labelled
    report(reading.odd, "labelled keypoint outside of the image", np.any(beyond, axis=-1))
    misfits = ~box_fits(boxes[rows], sizes[rows], keypoints)
    if misfits.sum() > max(FEW, DOUBT * len(rows)):  # real people have keypoints outside of their boxes, too
        report(reading.odd, "box that does not fit its image, or not most of its person's keypoints", misfits)
    outside = np.any(clip_box(boxes[rows], *sizes[rows].T)[:, 2:] <= 0, axis=-1)
    empty = np.any(boxes[rows, 2:] <= 0, axis=1)
    report(reading.left_out, "box without width or height", empty)
    report(reading.left_out, "box outside its image", outside & ~empty)
    keep = np.ones(len(people), bool)
    keep[rows[outside]] = False
    kept = [person for person, yes in zip(people, keep.tolist(), strict=True) if yes]
    reading.content["annotations"] = kept
    if rules.crowdpose:
        measured = [person for person, yes in zip(people, (keep & counted).tolist(), strict=True) if yes]
        names = mend_crowd_indices(reading.content["images"], measured)
        if names:
            reading.mended.add("crowdIndex that cannot be true, counted from boxes and keypoints", *names)
    else:
        _areas(kept, _parts_in_image(boxes[keep], sizes[keep]), reading, rules)


def _keypoints_in_px(
    people: list[dict[str, Any]], rows: np.ndarray, sizes: np.ndarray, reading: Reading
) -> np.ndarray:
    """(n, K, 3) of the people who count, by their ``rows``; turned in all people where they are shares."""
    keypoints = np.array([people[row]["keypoints"] for row in rows.tolist()], np.float64)
    keypoints = keypoints.reshape(len(rows), len(reading.category.entry["keypoints"]), 3)
    if is_relative(keypoints[keypoints[..., 2] > 0][:, :2], sizes[rows]):
        scale = np.insert(sizes, 2, 1, axis=1)  # x, y and v
        for person, factor in zip(people, scale, strict=True):
            turned = np.reshape(person["keypoints"], (-1, 3)) * factor
            person["keypoints"] = [plain(value) for value in turned.ravel().tolist()]
        keypoints = keypoints * scale[rows, None]
        reading.notes.append("keypoints are shares of the image; they were turned into px")
    return keypoints


def _boxes_in_px(
    people: list[dict[str, Any]], rows: np.ndarray, sizes: np.ndarray, keypoints: np.ndarray, reading: Reading
) -> np.ndarray:
    """(P, 4) x, y, w, h in px of all people, whatever format their file has."""
    boxes = np.array([person["bbox"] for person in people], np.float64).reshape(-1, 4)
    found = box_format(boxes[rows], sizes[rows], keypoints)
    if found != "xywh":
        boxes = to_xywh(boxes, sizes, found)
        _set_boxes(people, boxes, found, reading)
    return boxes


def _set_boxes(people: list[dict[str, Any]], boxes: np.ndarray, given: BoxFormat, reading: Reading) -> None:
    """Give people (P, 4) x, y, w, h in px, and note what they were before."""
    for person, box in zip(people, boxes.tolist(), strict=True):
        person["bbox"] = [plain(value) for value in box]
    reading.notes.append(f"boxes are {FORMATS[given]}; they were turned into x, y, width, height in px")


def _counts(person: dict[str, Any]) -> bool:
    """Whether an annotation is of a person with labelled keypoints."""
    return not person["iscrowd"] and labelled_count(person["keypoints"]) > 0


def _parts_in_image(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(P,) px² of boxes (P, 4) x, y, w, h in images (P, 2), to a px."""
    low = np.maximum(boxes[:, :2], -SLACK)
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], sizes + SLACK)
    return np.asarray(np.maximum(high - low, 0).prod(axis=1))


def _areas(people: list[dict[str, Any]], in_image: np.ndarray, reading: Reading, rules: Rules) -> None:
    """Replace areas that cannot be true, unless the rules say otherwise.

    Args:
        people: P annotations.
        in_image: (P,) px² of the part of each box that lies in the image.
        reading: takes the findings.
        rules: see ``Rules``.
    """
    boxes = np.array([person["bbox"] for person in people], np.float64).reshape(-1, 4)
    of_box = np.maximum(boxes[:, 2], 0) * np.maximum(boxes[:, 3], 0)
    given = [number(person.get("area")) for person in people]
    stated = np.array([np.nan if area is None else area for area in given], np.float64)
    single = np.array([not person["iscrowd"] for person in people], bool)
    good = np.isfinite(stated) & (stated > 0)
    if not rules.keep_area:
        good &= ~single | ((stated >= LEAST_AREA * in_image) & (stated <= MOST_AREA * of_box))
        alike = stated[good & single]
        if len(alike) > 2 and np.ptp(alike) == 0 and np.ptp(of_box[good & single]) > 0:
            good &= ~single  # a constant of the exporting tool
    for person, area in zip(people, given, strict=True):
        if isinstance(person.get("area"), str):
            person["area"] = area
    for index in np.flatnonzero(~good).tolist():
        if people[index]["keypoints"]:  # else a region to ignore
            reading.mended.add(
                f"area that cannot be true, replaced by {BOX_AREA_FRACTION} of the box",
                f"annotation {people[index]['id']}",
            )
        people[index]["area"] = float(BOX_AREA_FRACTION * in_image[index])
