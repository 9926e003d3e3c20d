"""What is wrong with the images and people of a data set: counted by kind, the first of each named."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mipnet.data.geometry import clip_box
from mipnet.errors import NAMED, DataError, first_few


@dataclass
class Complaints:
    """Samples that cannot be used, counted by kind with the first few named."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        self.counts[kind] += 1
        if len(self.examples.setdefault(kind, [])) < NAMED:
            self.examples[kind].append(name)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def lines(self) -> list[str]:
        return [f"{n} x {kind}: {', '.join(self.examples[kind])}" for kind, n in self.counts.most_common()]

    def check(self, samples: int, limit: float, where: str) -> None:
        """Stop if too many samples are bad.

        Raises:
            DataError: more than ``limit`` of ``samples`` were complained about.
        """
        if self.total > limit * max(samples, 1):
            raise DataError(
                f"{where}: {self.total} of {samples} samples are unusable ({'; '.join(self.lines())})",
                "mend them, or raise --data.max-bad-share",
            )


def check_readable(unreadable: list[str], of: int, limit: float) -> None:
    """Stop if too many images cannot be read.

    Raises:
        DataError: there are more than ``limit`` of ``of``.
    """
    if len(unreadable) > limit * of:
        raise DataError(
            f"{len(unreadable)} of {of} images cannot be read ({first_few(unreadable)})",
            "mend them, or raise --data.max-bad-share",
        )


def check_images(images: list[Any], where: str) -> None:
    """Everything else refers to the images, so none can be left out.

    Args:
        images: the list of an annotation file.
        where: the file lies, for messages.

    Raises:
        DataError: an entry does not describe an image, or two have the same id.
    """
    mend = "give each image a number as id, file_name, width and height"
    seen: set[int] = set()
    for place, image in enumerate(images):
        if not isinstance(image, dict) or not {"id", "file_name", "width", "height"} <= image.keys():
            shown = image if isinstance(image, dict) and len(str(image)) < 200 else f"number {place}"
            raise DataError(f"{where}: image {shown} lacks id, file_name, width or height", mend)
        if not _whole(image["id"]) or not isinstance(image["file_name"], str):
            raise DataError(f"{where}: image number {place} has id {image['id']!r:.50}", mend)
        if not all(_positive(image[side]) for side in ("width", "height")):
            size = f"{image['width']!r:.20} x {image['height']!r:.20}"
            raise DataError(f"{where}: image {image['id']} has size {size}", mend)
        if image["id"] in seen:
            raise DataError(f"{where}: two images have the id {image['id']}", "give each an id of its own")
        seen.add(image["id"])


def leave_out_unusable(content: dict[str, Any], num_joints: int) -> Complaints:
    """Take the people that cannot be used out of a data set in COCO's format, in place.

    Groups (``iscrowd``) and people without labelled joints stay: evaluation passes over what is found there.

    Args:
        content: with checked images; people must not lack id, image_id or category_id, and where they have
            ``keypoints`` [x, y, v] · K and ``bbox`` [x, y, w, h] these must be numbers.
        num_joints: K.
    """
    complaints = Complaints()
    images = {image["id"]: image for image in content["images"]}
    seen: set[int] = set()
    kept = []
    for place, person in enumerate(content["annotations"]):
        problem = _problem(person, images, seen, num_joints)
        if problem:
            complaints.add(problem, _name(person, place, images))
        else:
            seen.add(person["id"])
            kept.append(person)
    content["annotations"] = kept
    return complaints


def _problem(person: Any, images: dict[Any, Any], seen: set[int], num_joints: int) -> str:
    """The kind of fault, or ""."""
    if not isinstance(person, dict) or not {"id", "image_id", "category_id"} <= person.keys():
        return "annotation without id, image_id or category_id"
    if not _whole(person["id"]):
        return "annotation whose id is not a whole number"
    if person["id"] in seen:
        return "annotation with the id of another"
    if not _whole(person["image_id"]) or person["image_id"] not in images:
        return "annotation without its image"
    if not person.get("keypoints"):
        return f"0 keypoints instead of {num_joints}" if person.get("num_keypoints") else ""
    joints, box = _numbers(person["keypoints"]), _numbers(person.get("bbox"))
    if joints is None:
        return "keypoints that are not numbers"
    if joints.shape != (3 * num_joints,):
        return f"{joints.size // 3} keypoints instead of {num_joints}"
    if box is None or box.shape != (4,):
        return "box that is not four numbers"
    if person.get("iscrowd") or not person.get("num_keypoints", 1):
        return ""
    image = images[person["image_id"]]
    cut = clip_box(box, image["width"], image["height"])
    return "box outside its image" if min(cut[2:]) <= 0 else ""


def _name(person: Any, place: int, images: dict[Any, Any]) -> str:
    if not isinstance(person, dict) or "id" not in person:
        return f"number {place}"
    image_id = person.get("image_id")
    image = images.get(image_id) if _whole(image_id) else None
    return f"annotation {person['id']!r:.50}" + (f" of {image['file_name']}" if image else "")


def _numbers(values: Any) -> np.ndarray | None:
    """A list of finite numbers as an array, None for anything else."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of several lengths
        return None
    return array if array.dtype.kind in "iuf" and np.isfinite(array).all() else None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < float("inf")
