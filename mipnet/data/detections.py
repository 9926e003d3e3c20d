"""A detector's boxes: which of a list are of persons, what they are given in, and which cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mipnet.data.box_formats import FORMATS, box_format, to_xywh
from mipnet.data.box_ops import box_nms
from mipnet.data.coco import Boxes, CocoKeypointFile
from mipnet.data.json_files import read_json
from mipnet.data.json_values import number, numbers
from mipnet.data.validation import Findings
from mipnet.errors import DataError
from mipnet.storage import Folder

BOX_FORMAT_HINT = "give detections as [{image_id, category_id, bbox: [x, y, w, h], score}]"
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
    persons = {
        place: d
        for place, d in enumerate(detections)
        if not isinstance(d, dict) or file.is_person(d.get("category_id", file.category_id))
    }
    rows, unusable = _rows(file, persons, min_score, where)
    unusable.check(len(persons), max_bad_share, where, BOX_FORMAT_HINT)
    notes = [f"left out of {where}: {line}" for line in unusable.lines()]
    if not len(rows):
        others, below = len(detections) - len(persons), len(persons) - unusable.total
        notes.append(
            f"{where} has no box to predict in: of {len(detections)} boxes {others} are not of persons "
            f"(category {file.category_id}) and {below} are below the score threshold {min_score:g}"
        )
    images = file.images()
    sizes = file.columns.sizes_of(images.ids)
    image_index, boxes = rows[:, 0].astype(np.int64), rows[:, 1:5]
    found = box_format(boxes, sizes[image_index])
    if found != "xywh":
        boxes = to_xywh(boxes, sizes[image_index], found)
        notes.append(
            f"boxes of {where} are {FORMATS[found]}; they were turned into x, y, width, height in px"
        )
    kept = box_nms(image_index, boxes, rows[:, 5], max_iou)
    zeros = np.zeros(len(image_index[kept]), np.int64)
    return Boxes(images, image_index[kept], boxes[kept], rows[kept, 5], zeros, notes=tuple(notes))


def _rows(
    file: CocoKeypointFile, persons: Mapping[int, Any], min_score: float, where: str
) -> tuple[np.ndarray, Findings]:
    """Of detections by their place in the list: (B, 6) image index, the box's four numbers and score, sorted
    by image; and what cannot be used."""
    index = {image_id: i for i, image_id in enumerate(file.images().ids.tolist())}
    rows: list[tuple[float, ...]] = []
    unusable = Findings()
    for place, detection in persons.items():
        entry = detection if isinstance(detection, dict) else {}
        box, score = numbers(entry.get("bbox"), 4), number(entry.get("score"))
        if box is None or score is None or min(box[2:]) <= 0:
            unusable.add("box that is not usable", f"number {place}")
        elif score >= min_score:
            image_id = file.image_ids.get(entry.get("image_id"))
            if image_id is None:
                raise DataError(
                    f"{where}: detection {place} names the unknown image {entry.get('image_id')!r:.50}",
                    f"the boxes must be of the images in {file.path}",
                )
            rows.append((index[image_id], *box.tolist(), score))
    rows.sort(key=lambda row: row[0])
    return np.array(rows, np.float64).reshape(-1, 6), unusable
