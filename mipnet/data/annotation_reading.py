"""One reading of a COCO keypoint file: what every command sees of it.

Ids are whole numbers, entries are there once, keypoints are flat lists in the skeleton's order, boxes are x,
y, w, h in px; the number of labelled keypoints and the area follow from these. What was left out, replaced or
is odd is counted and named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from mipnet.data.categories import Category, choose_category
from mipnet.data.json_values import (
    INT64,
    IdMap,
    coordinates,
    flag,
    flat,
    id_key,
    is_plain,
    number,
    plain,
    shown,
    whole_number,
)
from mipnet.data.orientation import Exif
from mipnet.data.validation import Findings
from mipnet.errors import DataError, first_few
from mipnet.skeletons import Skeleton


@dataclass
class Reading:
    """A COCO keypoint file as it is used.

    Attributes:
        content: images, annotations of people and the categories, the people's first, in COCO's format; width
            and height are None where nobody states them.
        category: the people's.
        category_ids: every spelling of a category id -> its number in ``content``.
        image_ids: every spelling of an image id -> its number in ``content``.
        left_out: people that cannot be used.
        mended: fields that were replaced, entries that were united.
        odd: what is used as it is but looks wrong.
        notes: other decisions, one line each.
        posed_others: name (id without one) of another category -> how many annotations of it have the
            skeleton's number of keypoints.
    """

    content: dict[str, Any]
    category: Category
    category_ids: IdMap
    image_ids: IdMap
    left_out: Findings = field(default_factory=Findings)
    mended: Findings = field(default_factory=Findings)
    odd: Findings = field(default_factory=Findings)
    notes: list[str] = field(default_factory=list)
    posed_others: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Rules:
    """How a file is read.

    Attributes:
        category: name or id of the people's category; "" takes whatever fits.
        keep_area: use the file's areas, whatever they are.
        crowdpose: CrowdPose's rules: ``num_keypoints`` is the file's where it states one, because the
            evaluation passes over people with 0; areas are not needed.
        exif: the frame that labels of pictures with an EXIF orientation are in, see ``label_frames``.
    """

    category: str = ""
    keep_area: bool = False
    crowdpose: bool = False
    exif: Exif = "auto"


def read_annotations(content: dict[str, Any], skeleton: Skeleton, where: str, rules: Rules) -> Reading:
    """Read a file's content, which is not changed.

    Args:
        content: with lists of images, annotations and categories.
        skeleton: K joints.
        where: the file lies, for messages.
        rules: see ``Rules``.

    Raises:
        DataError: an image that cannot be told from others, or no category that fits.
    """
    category = choose_category(content, skeleton, where, rules.category)
    images, image_ids, united = read_images(content["images"], where)
    kept = [c for c in content["categories"] if id_key(c["id"]) not in category.ids]
    category_ids = IdMap(c["id"] for c in (category.entry, *kept))
    categories = [{**c, "id": category_ids.get(c["id"])} for c in (category.entry, *kept)]
    reading = Reading(
        {"images": images, "annotations": [], "categories": categories}, category, category_ids, image_ids
    )
    reading.notes += category.notes
    if image_ids.invented:
        reading.mended.add("image id that is no whole number", *map(shown, image_ids.invented))
    if united:
        reading.mended.add("image that is listed again", *united)
    entries = Counter(image["file_name"] for image in images)
    several = [name for name, count in entries.items() if count > 1]
    if several:
        reading.notes.append(f"pictures under several image ids: {len(several)} ({first_few(several)})")
    reading.content["annotations"] = _people(content, reading, skeleton, rules)
    if not rules.crowdpose:  # in which some crowd regions have keypoints
        _crowds(reading)
    return reading


def _crowds(reading: Reading) -> None:
    """Crowd regions have no keypoints: if all who have keypoints are one, their tool wrote a constant."""
    people = reading.content["annotations"]
    crowds = [person for person in people if person["iscrowd"] and labelled_count(person["keypoints"])]
    names = [f"annotation {person['id']}" for person in crowds]
    if crowds and not any(labelled_count(p["keypoints"]) for p in people if not p["iscrowd"]):
        reading.mended.add("iscrowd of all who have labelled keypoints, taken for 0", *names)
        for person in crowds:
            person["iscrowd"] = 0
    elif crowds:
        reading.odd.add("crowd region with labelled keypoints, to be ignored", *names)


def read_images(entries: list[Any], where: str) -> tuple[list[dict[str, Any]], IdMap, list[str]]:
    """The images, each once; the map of their ids; names of those that were listed again."""
    hint = "give each image a number as id, file_name, width and height"
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or not {"id", "file_name"} <= entry.keys():
            raise DataError(f"{where}: image number {place} lacks id or file_name: {shown(entry)}", hint)
        if id_key(entry["id"]) is None or not isinstance(entry["file_name"], str):
            given = f"id {shown(entry['id'])} and file_name {shown(entry['file_name'])}"
            raise DataError(f"{where}: image number {place} has {given}", hint)
    ids = IdMap(entry["id"] for entry in entries)
    images: dict[int, dict[str, Any]] = {}
    united = []
    for entry in entries:
        image_id = ids.get(entry["id"])
        assert image_id is not None
        sides = [number(entry.get(side)) for side in ("width", "height")]
        known = all(side is not None and side > 0 for side in sides)
        width, height = (plain(side or 0) for side in sides) if known else (None, None)
        image = {**entry, "id": image_id, "width": width, "height": height}
        if image_id not in images:
            images[image_id] = image
        elif all(images[image_id].get(k) == image.get(k) for k in ("file_name", "width", "height")):
            united.append(entry["file_name"])
        else:
            raise DataError(
                f"{where}: two images have the id {shown(entry['id'])}", "give each an id of its own"
            )
    return list(images.values()), ids, united


def _people(
    content: dict[str, Any], reading: Reading, skeleton: Skeleton, rules: Rules
) -> list[dict[str, Any]]:
    """The annotations of the people's category that can be used."""
    images = {image["id"]: image for image in reading.content["images"]}
    known = {id_key(c["id"]): str(c.get("name", c["id"])) for c in content["categories"]}
    taken: dict[int, Any] = {}  # id -> the entry that has it
    seen: dict[tuple[int, int], dict[str, Any]] = {}
    people: list[dict[str, Any]] = []
    nameless: list[tuple[dict[str, Any], str]] = []
    others: Counter[int | str] = Counter()
    for place, entry in enumerate(content["annotations"]):
        if not isinstance(entry, dict):
            reading.left_out.add("annotation without id, image_id or category_id", f"number {place}")
            continue
        key = id_key(entry.get("category_id"))
        name = partial(_name, entry, place, images, reading.image_ids)  # made only for what is reported
        if key not in reading.category.ids:
            if key is not None and key in known:
                others[key] += 1  # a thing, or a kind with other keypoints
                given = entry.get("keypoints")
                if isinstance(given, list) and len(flat(given)) == 3 * skeleton.num_joints:
                    reading.posed_others[known[key]] += 1
                continue
            if entry.get("keypoints") is None:
                reading.left_out.add("annotation without id, image_id or category_id", name())
                continue
            reading.mended.add("category_id that is not among the categories", name())
        own = whole_number(entry.get("id"))
        if own is not None and own in taken and taken[own] == entry:
            reading.mended.add("person who is annotated again", name())
            continue
        person = _person(entry, name, reading, skeleton)
        if person is None:
            continue
        if labelled := labelled_count(person["keypoints"]):
            pose = (*person["keypoints"], *person["bbox"], person["iscrowd"])
            twin = seen.setdefault((person["image_id"], hash(pose)), person)
            if twin is not person and all(twin[k] == person[k] for k in ("keypoints", "bbox", "iscrowd")):
                reading.mended.add("person who is annotated again", name())
                continue
        _count_keypoints(person, labelled, name, reading, rules)
        if own is None or own in taken or not INT64.min <= own <= INT64.max:
            nameless.append((person, name()))
        else:
            person["id"] = own
            taken[own] = entry
        people.append(person)
    if others:
        kinds = [f"{n} of category {shown(key)}" for key, n in others.most_common()]
        reading.notes.append(f"annotations of other categories, not used: {first_few(kinds)}")
    free = 1
    for person, label in nameless:
        while free in taken:
            free += 1
        person["id"] = free
        taken[free] = None
        reading.mended.add("annotation without an id of its own", label)
    return people


def _person(
    entry: dict[str, Any], name: Callable[[], str], reading: Reading, skeleton: Skeleton
) -> dict[str, Any] | None:
    """An annotation with ids, flag, keypoints and box as they are meant; None for what cannot be used."""
    image_id = reading.image_ids.get(entry.get("image_id"))
    if image_id is None:
        reading.left_out.add("annotation without its image", name())
        return None
    iscrowd = flag(entry.get("iscrowd"))
    if iscrowd is None:
        reading.mended.add("iscrowd that is neither 0 nor 1, taken for 0", name())
    person = {**entry, "image_id": image_id, "category_id": reading.content["categories"][0]["id"]}
    person["iscrowd"] = iscrowd or 0
    given = entry.get("keypoints")
    if given is None or (isinstance(given, list) and not given):
        if number(entry.get("num_keypoints")):
            reading.left_out.add(f"0 keypoints instead of {skeleton.num_joints}", name())
            return None
        person["keypoints"] = []
    else:
        problem = _read_keypoints(person, given, skeleton.num_joints)
        if problem:
            reading.left_out.add(problem, name())
            return None
        order = reading.category.orders.get(id_key(entry.get("category_id")) or 0)
        if order is not None:
            triples = np.array(person["keypoints"], object).reshape(-1, 3)
            person["keypoints"] = triples[order].ravel().tolist()
        _look_at_keypoints(person, name, reading)
    box = coordinates(entry.get("bbox"))
    if box is None or len(box) != 4:
        findings, kind = reading.left_out, "box that is not four numbers"
        if not person["keypoints"]:
            findings, kind = reading.mended, "annotation without keypoints and box"
        findings.add(kind, name())
        return None
    person["bbox"] = box
    return person


def _read_keypoints(person: dict[str, Any], given: Any, count: int) -> str:
    """Give a person [x, y, v] · K, from a flat list or triples; what is not labelled may lie nowhere.

    Returns:
        what is wrong with them; "" if nothing is.
    """
    if is_plain(given) and len(given) == 3 * count:
        return ""  # stays as it is
    if not isinstance(given, list):
        return "keypoints that are not numbers"
    values = flat(given)
    if any(isinstance(v, list | dict) for v in values):
        return "keypoints that are not numbers"
    if len(values) != 3 * count:
        return f"{len(values) / 3:g} keypoints instead of {count}"
    for i in range(0, len(values), 3):
        *xy, v = values[i : i + 3]
        v = int(v) if isinstance(v, bool) else v
        nowhere = v is None or (number(v) == 0 and None in map(number, xy))
        values[i : i + 3] = (0, 0, 0) if nowhere else (*xy, v)
    found = coordinates(values)
    if found is None:
        return "keypoints that are not numbers"
    person["keypoints"] = found
    return ""


def _look_at_keypoints(person: dict[str, Any], name: Callable[[], str], reading: Reading) -> None:
    """Name what is odd about labelled keypoints; in place.

    Visibilities other than 0, 1 and 2 become one of these. What lies at (-1, -1) is missing: not labelled.
    """
    keypoints = person["keypoints"]
    if not {*keypoints[2::3]} <= {0, 1, 2}:
        reading.odd.add("visibility that is not 0, 1 or 2", name())
        keypoints = person["keypoints"] = [*keypoints]  # the file's own list stays
        keypoints[2::3] = [min(max(round(v), 1), 2) if v > 0 else 0 for v in keypoints[2::3]]
    if -1 in keypoints:
        missing = [i for i in range(0, len(keypoints), 3) if keypoints[i : i + 2] == [-1, -1]]
        if any(keypoints[i + 2] > 0 for i in missing):
            reading.mended.add("labelled keypoint at (-1, -1), taken for not labelled", name())
            keypoints = person["keypoints"] = [*keypoints]
            for i in missing:
                keypoints[i : i + 3] = (0, 0, 0)
    if any(v and not x and not y for x, y, v in zip(*[iter(keypoints)] * 3, strict=True)):
        reading.odd.add("labelled keypoint at (0, 0)", name())


def labelled_count(keypoints: list[Any]) -> int:
    """How many keypoints [x, y, v] · K are labelled."""
    return sum(v > 0 for v in keypoints[2::3])


def _count_keypoints(
    person: dict[str, Any], labelled: int, name: Callable[[], str], reading: Reading, rules: Rules
) -> None:
    """``num_keypoints``: of the file where the protocol demands that, else counted."""
    stated = number(person.get("num_keypoints"))
    if rules.crowdpose and stated is not None and 0 <= stated <= len(reading.category.entry["keypoints"]):
        person["num_keypoints"] = int(stated)
        return
    if "num_keypoints" in person and stated != labelled:
        reading.mended.add("num_keypoints that is not the number of labelled keypoints", name())
    person["num_keypoints"] = labelled


def _name(entry: Any, place: int, images: dict[int, dict[str, Any]], ids: IdMap) -> str:
    """An annotation for a message: its id, and its image's file."""
    if not isinstance(entry, dict) or "id" not in entry:
        return f"number {place}"
    image_id = ids.get(entry.get("image_id"))
    image = None if image_id is None else images[image_id]
    return f"annotation {shown(entry['id'])}" + (f" of {image['file_name']}" if image else "")
