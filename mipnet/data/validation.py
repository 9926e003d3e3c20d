"""Validation of COCO annotations: invalid ones are counted by kind, the first of each kind are named."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mipnet.data.geometry import clip_box
from mipnet.errors import MAX_EXAMPLES, DataError, first_few


@dataclass
class InvalidAnnotations:
    """Annotations that cannot be used.

    Attributes:
        counts: kind of fault -> how many.
        examples: kind of fault -> the first of them.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        self.counts[kind] += 1
        if len(self.examples.setdefault(kind, [])) < MAX_EXAMPLES:
            self.examples[kind].append(name)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def lines(self) -> list[str]:
        return [f"{n} x {kind}: {', '.join(self.examples[kind])}" for kind, n in self.counts.most_common()]

    def check(self, samples: int, limit: float, where: str) -> None:
        """Check that not too many samples are invalid.

        Args:
            samples: how many there are, valid or not.
            limit: largest fraction of invalid samples, 0 to 1.
            where: the annotation file, for the message.

        Raises:
            DataError: more than ``limit`` of ``samples`` are invalid.
        """
        if self.total > limit * max(samples, 1):
            raise DataError(
                f"{where}: {self.total} of {samples} samples are unusable ({'; '.join(self.lines())})",
                "mend them, or raise --data.max-bad-share",
            )


def check_readable(unreadable: list[str], of: int, limit: float) -> None:
    """Check that not too many images are unreadable.

    Args:
        unreadable: their names.
        of: how many images there are, readable or not.
        limit: largest fraction of unreadable images, 0 to 1.

    Raises:
        DataError: more than ``limit`` of the images are unreadable.
    """
    if len(unreadable) > limit * of:
        raise DataError(
            f"{len(unreadable)} of {of} images cannot be read ({first_few(unreadable)})",
            "mend them, or raise --data.max-bad-share",
        )


def check_image_entries(images: list[Any], where: str) -> None:
    """Check the image entries of an annotation file; none can be dropped, because annotations refer to them.

    Args:
        images: the file's list.
        where: path of the file, for messages.

    Raises:
        DataError: an entry does not describe an image, or two have the same id.
    """
    hint = "give each image a number as id, file_name, width and height"
    seen: set[int] = set()
    for number, image in enumerate(images):
        if not isinstance(image, dict) or not {"id", "file_name", "width", "height"} <= image.keys():
            shown = image if isinstance(image, dict) and len(str(image)) < 200 else f"number {number}"
            raise DataError(f"{where}: image {shown} lacks id, file_name, width or height", hint)
        if not _is_integer(image["id"]) or not isinstance(image["file_name"], str):
            raise DataError(f"{where}: image number {number} has id {image['id']!r:.50}", hint)
        if not all(_is_positive(image[side]) for side in ("width", "height")):
            size = f"{image['width']!r:.20} x {image['height']!r:.20}"
            raise DataError(f"{where}: image {image['id']} has size {size}", hint)
        if image["id"] in seen:
            raise DataError(f"{where}: two images have the id {image['id']}", "give each an id of its own")
        seen.add(image["id"])


def drop_invalid_annotations(content: dict[str, Any], num_keypoints: int) -> InvalidAnnotations:
    """Drop the annotations that cannot be used from a data set in COCO's format, in place.

    Crowd regions (``iscrowd``) and persons without labelled keypoints stay: the evaluation ignores them.

    Args:
        content: with checked image entries. A valid annotation has id, image_id and category_id; its
            ``keypoints`` [x, y, v] · K and ``bbox`` [x, y, w, h], if any, are numbers.
        num_keypoints: K.
    """
    invalid_annotations = InvalidAnnotations()
    images = {image["id"]: image for image in content["images"]}
    seen: set[int] = set()
    kept = []
    for number, person in enumerate(content["annotations"]):
        fault = _fault(person, images, seen, num_keypoints)
        if fault:
            invalid_annotations.add(fault, _name(person, number, images))
        else:
            seen.add(person["id"])
            kept.append(person)
    content["annotations"] = kept
    return invalid_annotations


def _fault(person: Any, images: dict[Any, Any], seen: set[int], num_keypoints: int) -> str:
    """The kind of fault of an annotation; "" if it is valid."""
    if not isinstance(person, dict) or not {"id", "image_id", "category_id"} <= person.keys():
        return "annotation without id, image_id or category_id"
    if not _is_integer(person["id"]):
        return "annotation whose id is not a whole number"
    if person["id"] in seen:
        return "annotation with the id of another"
    if not _is_integer(person["image_id"]) or person["image_id"] not in images:
        return "annotation without its image"
    if not person.get("keypoints"):
        return f"0 keypoints instead of {num_keypoints}" if person.get("num_keypoints") else ""
    keypoints, box = _numbers(person["keypoints"]), _numbers(person.get("bbox"))
    if keypoints is None:
        return "keypoints that are not numbers"
    if keypoints.shape != (3 * num_keypoints,):
        return f"{keypoints.size // 3} keypoints instead of {num_keypoints}"
    if box is None or box.shape != (4,):
        return "box that is not four numbers"
    if person.get("iscrowd") or not person.get("num_keypoints", 1):
        return ""
    image = images[person["image_id"]]
    clipped = clip_box(box, image["width"], image["height"])
    return "box outside its image" if min(clipped[2:]) <= 0 else ""


def _name(person: Any, number: int, images: dict[Any, Any]) -> str:
    if not isinstance(person, dict) or "id" not in person:
        return f"number {number}"
    image_id = person.get("image_id")
    image = images.get(image_id) if _is_integer(image_id) else None
    return f"annotation {person['id']!r:.50}" + (f" of {image['file_name']}" if image else "")


def _numbers(values: Any) -> np.ndarray | None:
    """A list of finite numbers as an array; None for anything else."""
    try:
        array = np.asarray(values)
    except ValueError:  # nested lists of different lengths
        return None
    return array if array.dtype.kind in "iuf" and np.isfinite(array).all() else None


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < float("inf")
