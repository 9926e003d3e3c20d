"""A detector's boxes: which of a list are of persons, what they are given in, and which cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mipnet.data.box_formats import FORMATS, box_format, to_xywh
from mipnet.data.box_ops import box_iou, box_nms
from mipnet.data.coco import Boxes, CocoKeypointFile
from mipnet.data.geometry import misses_image
from mipnet.data.image_index import ImageIndex
from mipnet.data.image_matching import ImageMatcher
from mipnet.data.json_files import read_json
from mipnet.data.json_values import coordinates, id_key, number, shown
from mipnet.data.validation import Findings
from mipnet.errors import DataError
from mipnet.storage import Folder

BOX_FORMAT_HINT = "give detections as [{file_name or image_id, category_id, bbox: [x, y, w, h], score}]"
IMAGES_COMPARED = 500
"""With people, to judge whether boxes fit them."""
LEAST_OVERLAP = 0.3
"""Largest IoU of a box with a person, mean over images, below which it is said; detectors reach 0.8."""
BOXES_OPTION_HINT = "give --data.boxes gt, NAME for ROOT/boxes/NAME_SPLIT.json, or NAME=FILE"


@dataclass(frozen=True)
class DetectionImages:
    """The images that detections are of.

    Attributes:
        index: I images.
        matcher: finds them.
        is_person: whether a category id means a person.
        category: the persons' category id, for messages.
        sizes: (n,) int64 indices of images -> (n, 2) width and height in px, nan where it is not known.
        source: of the images, if every box has to be of one of them; else boxes of others are left out.
        people: gives the boxes of labelled people, whom boxes of another format must fit better when turned.
        judged: the format of the boxes is judged by so many boxes; by default by all.
    """

    index: ImageIndex
    matcher: ImageMatcher
    is_person: Callable[[Any], bool]
    category: Any
    sizes: Callable[[np.ndarray], np.ndarray]
    source: str = ""
    people: Callable[[], Boxes] | None = None
    judged: int | None = None


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
    images = file.images()
    sizes = file.columns.sizes_of(images.ids)
    of_file = DetectionImages(
        images,
        file.matcher,
        file.is_person,
        file.category_id,
        lambda index: sizes[index],
        file.path,
        file.ground_truth_boxes,
    )
    where = root.path(name)
    return detection_boxes(
        detection_list(root, name, BOXES_OPTION_HINT),
        where,
        of_file,
        min_score=min_score,
        max_iou=max_iou,
        max_bad_share=max_bad_share,
    )


def detection_list(root: Folder, name: str, hint: str) -> list[Any]:
    """The content of a file of detections.

    Raises:
        DataError: it is missing (what to do then is the hint) or no list.
    """
    detections = read_json(root, name, hint)
    if not isinstance(detections, list):
        raise DataError(f"{root.path(name)} is not a list", BOX_FORMAT_HINT)
    return detections


def detection_boxes(
    detections: Sequence[Any],
    where: str,
    images: DetectionImages,
    *,
    min_score: float,
    max_iou: float,
    max_bad_share: float,
) -> Boxes:
    """The boxes of persons in images; other arguments as for ``read_detections``.

    Args:
        detections: of the file.
        where: it lies, for messages.
        images: that the boxes are of.

    Raises:
        DataError: too many boxes that cannot be used, or boxes whose images are guesswork, or of images that
            there are not, where every box has to be of one of them; else if no box is of any of them.
    """
    entries = [entry if isinstance(entry, dict) else {} for entry in detections]
    categories = [id_key(entry.get("category_id")) for entry in entries]
    others = Counter(c for c in categories if c is not None and not images.is_person(c))
    persons = {place: entries[place] for place, c in enumerate(categories) if c not in others}
    table, unusable, unscored = _read_boxes(persons)
    unusable.check(len(persons), max_bad_share, where, BOX_FORMAT_HINT)
    notes = [f"left out of {where}: {line}" for line in unusable.lines()]
    scored = table[table[:, 5] >= min_score]
    below = len(table) - len(scored)
    table, foreign = _with_images(scored, entries, where, images)
    counts = [
        f"{others.total()} are not of persons (category {images.category})",
        f"{below} are below the score threshold {min_score:g}",
        *([] if images.source else [f"{foreign} are of other images"]),
    ]
    counted = f"of {len(detections)} boxes {', '.join(counts[:-1])} and {counts[-1]}"
    if not len(table):
        note = f"{where} has no box to predict in: {counted}"
        if not images.source:
            raise DataError(note, _hint(others, persons, below, foreign, images))
        notes.append(note)
    elif not images.source and len(table) < len(detections) - unusable.total:
        notes.append(f"left out of {where}: {counted}")
    elif others[0]:
        notes.append(
            f"{where}: {others[0]} boxes are of category 0; if its classes count from 0, those of category "
            f"{images.category} are not persons"
        )
    if unscored:
        notes.append(f"{where}: {unscored} boxes without a score, taken for 1")
    table = _in_images(_in_pixels(table, where, images, notes), where, images, notes)
    if (highest := table[:, 5].max(initial=0)) > 1:
        notes.append(f"{where}: scores reach {highest:g}, where thresholds expect 0 to 1; divide them")
    if images.people and (overlap := _best_overlap(table, images.people())) < LEAST_OVERLAP:
        notes.append(
            f"{where}: the boxes hardly overlap the annotated people (the best of an image by an IoU of "
            f"{overlap:.2f} on average); check that they are of these pictures, and x, y, width, height in px"
        )
    image_index, boxes, scores = table[:, 0].astype(np.int64), table[:, 1:5], table[:, 5]
    kept = box_nms(image_index, boxes, scores, max_iou)
    zeros = np.zeros(len(kept), np.int64)
    return Boxes(images.index, image_index[kept], boxes[kept], scores[kept], zeros, notes=tuple(notes))


def _read_boxes(entries: Mapping[int, Any]) -> tuple[np.ndarray, Findings, int]:
    """Of detections by their place in the list: (B, 6) place, the box's four numbers and score; what cannot
    be used; and how many state no score."""
    rows: list[tuple[float, ...]] = []
    unusable, unscored = Findings(), 0
    for place, entry in entries.items():
        box, score = coordinates(entry.get("bbox")), number(entry.get("score", 1.0))
        category = entry.get("category_id")
        known = category is None or id_key(category) is not None
        if not known or box is None or score is None or len(box) != 4 or min(box[2:]) <= 0:
            unusable.add("box that is not usable", f"number {place}")
            continue
        unscored += "score" not in entry
        rows.append((place, *box, score))
    return np.array(rows, np.float64).reshape(-1, 6), unusable, unscored


def _with_images(
    table: np.ndarray, detections: Sequence[dict[str, Any]], where: str, images: DetectionImages
) -> tuple[np.ndarray, int]:
    """The table with the image's index in place of the detection's, sorted by it; and how many detections
    are of other images."""
    places = table[:, 0].astype(np.int64).tolist()
    found = images.matcher.match([detections[place] for place in places], where, "detection")
    unknown = next((place for place, index in zip(places, found, strict=True) if index is None), None)
    if images.source and unknown is not None:
        entry = detections[unknown]
        name = entry.get("file_name") or entry.get("image_id")
        raise DataError(
            f"{where}: detection {unknown} names the unknown image {shown(name)}",
            f"the boxes must be of the images in {images.source}",
        )
    table[:, 0] = [-1 if index is None else index for index in found]
    kept = table[table[:, 0] >= 0]
    return kept[np.argsort(kept[:, 0], kind="stable")], len(table) - len(kept)


def _in_pixels(table: np.ndarray, where: str, images: DetectionImages, notes: list[str]) -> np.ndarray:
    """A table (image's index, box, score) with boxes x, y, w, h in px; adds to the notes what was turned."""
    image_index, boxes = table[:, 0].astype(np.int64), table[:, 1:5]
    chosen = _judged(table, images)
    sizes = images.sizes(image_index[chosen])
    known = ~np.isnan(sizes).any(1)
    found = box_format(boxes[chosen[known]], sizes[known])
    if found == "xywh":
        return table
    sizes = images.sizes(image_index) if found.startswith("relative") else np.ones((len(table), 2))
    turned = np.column_stack([table[:, 0], to_xywh(boxes, sizes, found), table[:, 5]])
    if images.people and _overlap(turned, images.people()) < _overlap(table, images.people()):
        return table
    notes.append(f"boxes of {where} are {FORMATS[found]}; they were turned into x, y, width, height in px")
    known = ~np.isnan(sizes).any(1)
    if not known.all():
        notes.append(f"left out of {where}: {(~known).sum()} boxes of images whose size cannot be read")
    return turned[known]


def _judged(table: np.ndarray, images: DetectionImages) -> np.ndarray:
    """Rows of a table by which all are judged, evenly spread."""
    if images.judged is None or len(table) <= images.judged:
        return np.arange(len(table))
    return np.linspace(0, len(table) - 1, images.judged).astype(np.int64)


def _in_images(table: np.ndarray, where: str, images: DetectionImages, notes: list[str]) -> np.ndarray:
    """A table (image's index, box, score) without boxes that miss their image; notes how many these are.

    Raises:
        DataError: all do.
    """

    def missing(part: np.ndarray) -> np.ndarray:
        return misses_image(part[:, 1:5], images.sizes(part[:, 0].astype(np.int64)))

    if not missing(table[_judged(table, images)]).any():
        return table
    missed = missing(table)
    if missed.all():
        raise DataError(
            f"{where}: all {len(table)} boxes lie outside of their images", "give x, y, width, height in px"
        )
    notes.append(f"left out of {where}: {missed.sum()} boxes outside of their images")
    kept: np.ndarray = table[~missed]
    return kept


def _overlap(table: np.ndarray, people: Boxes) -> float:
    """Mean over boxes, of a table (image's index, box, score), of the largest IoU with a person in the same
    image, of a few hundred images."""
    best = [0.0]
    for image in np.unique(table[:, 0])[:IMAGES_COMPARED]:
        truth = people.boxes[people.image_index == image]
        if len(truth):
            best += box_iou(table[table[:, 0] == image, 1:5], truth).max(axis=1).tolist()
    return float(np.mean(best))


def _best_overlap(table: np.ndarray, people: Boxes) -> float:
    """Mean over a few hundred images with boxes and people of their largest IoU; 1 without such images."""
    best = []
    for image in np.intersect1d(table[:, 0], people.image_index)[:IMAGES_COMPARED]:
        truth = people.boxes[people.image_index == image]
        best.append(box_iou(truth, table[table[:, 0] == image, 1:5]).max())
    return float(np.mean(best)) if best else 1.0


def _hint(
    others: Counter[int | str],
    persons: Mapping[int, Any],
    below: int,
    foreign: int,
    images: DetectionImages,
) -> str:
    """What to do where no box is left."""
    if foreign:
        if all(isinstance(entry.get("file_name"), str) for entry in persons.values()):
            return f"name the images as here, e.g. {images.matcher.names[0]}"
        if images.matcher.has_ids:
            return "the ids must be those of --images-json; or give each box a file_name"
        return "give each box a file_name, or the ids of the images with --images-json FILE"
    if below:
        return "lower --data.box-score-threshold"
    if others:
        return f"say which are persons with --data.category ID, e.g. {others.most_common(1)[0][0]}"
    return "without --boxes each whole image is one box"
