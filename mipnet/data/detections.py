"""A detector's boxes: which of a list are of persons, what they are given in, and which cannot be used."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from mipnet.data.box_formats import FORMATS, box_format, to_xywh
from mipnet.data.box_ops import box_iou, box_nms
from mipnet.data.coco import Boxes, CocoKeypointFile, read_json
from mipnet.data.json_values import coordinates, id_key, number, shown
from mipnet.data.validation import Findings
from mipnet.errors import DataError
from mipnet.storage import Folder

BOX_FORMAT_HINT = "give detections as [{image_id, category_id, bbox: [x, y, w, h], score}]"
IMAGES_COMPARED = 500
BOXES_OPTION_HINT = "give --data.boxes gt, NAME for ROOT/boxes/NAME_SPLIT.json, or NAME=FILE"


def read_detections(
    file: CocoKeypointFile,
    root: Folder,
    name: str,
    min_score: float,
    *,
    max_iou: float = 1.0,
    max_bad_share: float = 0.0,
) -> Boxes:
    """The boxes of persons in a COCO-format list of {image_id, category_id, bbox, score}.

    Args:
        file: annotations of the same images.
        root: folder of the list.
        name: its file in that folder.
        min_score: boxes with a lower score are dropped.
        max_iou: IoU threshold of box NMS; 1 keeps all boxes.
        max_bad_share: single boxes that cannot be used are left out up to this share.

    Raises:
        DataError: the list is missing or broken, or refers to images that the annotations do not have.
    """
    detections, where = read_json(root, name, BOXES_OPTION_HINT), root.path(name)
    if not isinstance(detections, list):
        raise DataError(f"{where} is not a list", BOX_FORMAT_HINT)
    rows, unusable, others = _rows(file, detections, min_score, where)
    unusable.check(len(detections) - others.total(), max_bad_share, where, BOX_FORMAT_HINT)
    notes = [f"left out of {where}: {line}" for line in unusable.lines()]
    if not len(rows):
        no_persons = others.total()
        below = len(detections) - no_persons - unusable.total
        notes.append(
            f"{where} has no box to predict in: of {len(detections)} boxes {no_persons} are not of persons "
            f"(category {file.category_id}) and {below} are below the score threshold {min_score:g}"
        )
    elif others[0]:
        notes.append(
            f"{where}: {others[0]} boxes are of category 0; if its classes count from 0, those of category "
            f"{file.category_id} are not persons"
        )
    images = file.images()
    infos = [file.coco.imgs[i] for i in images.ids.tolist()]
    sizes = np.array([(info["width"], info["height"]) for info in infos], np.float64).reshape(-1, 2)
    image_index, boxes = rows[:, 0].astype(np.int64), rows[:, 1:5]
    found = box_format(boxes, sizes[image_index])
    turned = to_xywh(boxes, sizes[image_index], found)
    if found != "xywh" and _overlap(turned, image_index, file) >= _overlap(boxes, image_index, file):
        boxes = turned
        notes.append(
            f"boxes of {where} are {FORMATS[found]}; they were turned into x, y, width, height in px"
        )
    kept = box_nms(image_index, boxes, rows[:, 5], max_iou)
    zeros = np.zeros(len(image_index[kept]), np.int64)
    return Boxes(images, image_index[kept], boxes[kept], rows[kept, 5], zeros, notes=tuple(notes))


def _overlap(boxes: np.ndarray, image_index: np.ndarray, file: CocoKeypointFile) -> float:
    """Mean over boxes (B, 4) of the largest IoU with a person in the same image, of a few hundred images."""
    best, people = [0.0], file.ground_truth_boxes()
    for image in np.unique(image_index)[:IMAGES_COMPARED]:
        truth = people.boxes[people.image_index == image]
        if len(truth):
            best += box_iou(boxes[image_index == image], truth).max(axis=1).tolist()
    return float(np.mean(best))


def _rows(
    file: CocoKeypointFile, detections: list[Any], min_score: float, where: str
) -> tuple[np.ndarray, Findings, Counter[int | str]]:
    """Of detections: (B, 6) image index, the box's four numbers and score, sorted by image; what cannot be
    used; how many are of which other category."""
    index = {image_id: i for i, image_id in enumerate(sorted(file.coco.imgs))}
    rows: list[tuple[float, ...]] = []
    unusable, others = Findings(), Counter[int | str]()
    for place, detection in enumerate(detections):
        entry = detection if isinstance(detection, dict) else {}
        category = id_key(entry.get("category_id"))
        if category is not None and not file.is_person(category):
            others[category] += 1
            continue
        box, score = coordinates(entry.get("bbox")), number(entry.get("score"))
        known = category is not None or entry.get("category_id") is None
        if not known or box is None or score is None or len(box) != 4 or min(box[2:]) <= 0:
            unusable.add("box that is not usable", f"number {place}")
        elif score >= min_score:
            image_id = file.image_ids.get(entry.get("image_id"))
            if image_id is None:
                raise DataError(
                    f"{where}: detection {place} names the unknown image {shown(entry.get('image_id'))}",
                    f"the boxes must be of the images in {file.path}",
                )
            rows.append((index[image_id], *box, score))
    rows.sort(key=lambda row: row[0])
    return np.array(rows, np.float64).reshape(-1, 6), unusable, others
