"""What a spoiled COCO file means, said a second time: the plainest Python, entry by entry, without arrays.

The oracle of the fuzz test (``tests/data/test_spoiled_files.py``). It shares no code with the reading under
test, and has only the fuzz test's small file in view.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

LARGEST = 1e7
"""px; no picture reaches so far."""


@dataclass
class NaivePerson:
    """A person or region to ignore; ``doubtful`` ones may be left out, if that is said.

    ``area_replaced``: the area is not the file's.
    """

    image: int
    keypoints: list[float]
    bbox: list[float]
    area: float
    iscrowd: int
    doubtful: bool = False
    area_replaced: bool = False

    @property
    def measured(self) -> bool:
        return not self.iscrowd and any(v > 0 for v in self.keypoints[2::3])

    def key(self, name_of: dict[int, str]) -> tuple[Any, ...]:
        return name_of[self.image], tuple(map(float, self.keypoints)), tuple(map(float, self.bbox))


@dataclass
class NaiveFile:
    """What a file means.

    Attributes:
        refusals: why it must be refused as a whole; empty if it must be read.
        unclear: whether it may be refused or read, as which of its categories has people is a guess.
        orders: people's category -> names of its joints, in the order of its keypoints.
        known: ids of all categories.
        name_of: image id -> file name.
        people: of the people's category, regions to ignore included.
        said: word of a finding -> how often it must be said.
        lost: people that must be left out, and said.
    """

    refusals: list[str] = field(default_factory=list)
    unclear: bool = False
    orders: dict[int | str, list[str]] = field(default_factory=dict)
    known: set[int | str | None] = field(default_factory=set)
    name_of: dict[int, str] = field(default_factory=dict)
    ids: dict[int | str, int] = field(default_factory=dict)
    sizes: dict[int, tuple[float, float]] = field(default_factory=dict)
    people: list[NaivePerson] = field(default_factory=list)
    said: Counter[str] = field(default_factory=Counter)
    lost: int = 0


def number(value: Any) -> float | None:
    """A finite number or its text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def identifier(value: Any) -> int | str | None:
    """What spellings of an id have in common."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.removeprefix("-").isdigit() and text.isascii() else text or None
    return value if isinstance(value, int) else None


def flag(value: Any) -> int | None:
    if value is None or value == "" or value is False or value in ("false", "False"):
        return 0
    if value is True or value in ("true", "True"):
        return 1
    found = number(value)
    return int(found) if found in (0.0, 1.0) else None


def coordinates(values: Any, count: int) -> list[float] | None:
    """So many numbers, flat or in lists."""
    if not isinstance(values, list):
        return None
    flat: list[Any] = []
    for value in values:
        flat += value if isinstance(value, list) else [value]
    found = [number(value) for value in flat]
    if len(found) != count or any(value is None or abs(value) > LARGEST for value in found):
        return None
    return [value for value in found if value is not None]


def read(content: Any, joints: list[str], picture: tuple[int, int], pictures: set[str]) -> NaiveFile:
    """What the content of a file means, whose categories the fuzz test has not reordered.

    Args:
        content: of a file.
        joints: K names.
        picture: (width, height) of every picture there is.
        pictures: names of these.
    """
    naive = _read(content, joints, picture, pictures, {})
    true: dict[int, tuple[float, float]] = {}
    for person in naive.people:
        x, y, w, h = person.bbox
        points = [(x + w, y + h)] + [(a, b) for a, b, v in _triples(person.keypoints) if v > 0]
        width, height = naive.sizes[person.image]
        beyond = any(a > width + 2 or b > height + 2 for a, b in points)
        if beyond and (width, height) != picture and naive.name_of[person.image] in pictures:
            true[person.image] = picture
    return _read(content, joints, picture, pictures, true) if true else naive


def _read(
    content: Any,
    joints: list[str],
    picture: tuple[int, int],
    pictures: set[str],
    true: dict[int, tuple[float, float]],
) -> NaiveFile:
    """``read``, where some images are known to be of another size than the stated one."""
    naive = NaiveFile()
    if not isinstance(content, dict) or any(
        not isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    ):
        naive.refusals.append("no COCO file")
        return naive
    _categories(content["categories"], joints, naive)
    _images(content["images"], naive, picture, pictures)
    if naive.refusals or naive.unclear:
        return naive
    naive.sizes |= true
    naive.said["not of the stated"] += len(true)
    known = naive.known = {identifier(category["id"]) for category in content["categories"]}
    own_ids: dict[int, Any] = {}
    for entry in content["annotations"]:
        if not isinstance(entry, dict):
            naive.lost += 1
            continue
        category = identifier(entry.get("category_id"))
        if category not in naive.orders:
            if category in known:
                naive.said["of other categories"] += 1
                continue
            if entry.get("keypoints") is None:
                naive.lost += 1
                continue
            naive.said["category_id that"] += 1
        own = identifier(entry.get("id"))
        if isinstance(own, int) and own in own_ids and own_ids[own] == entry:
            naive.said["again"] += 1
            continue
        person = _person(entry, naive, joints)
        if person is None:
            continue
        if person.measured or person.iscrowd:
            twins = [
                p
                for p in naive.people
                if (p.image, p.keypoints, p.bbox, p.iscrowd)
                == (person.image, person.keypoints, person.bbox, person.iscrowd)
                and any(v > 0 for v in p.keypoints[2::3])
            ]
            if twins:
                naive.said["again"] += 1
                continue
        if not isinstance(own, int) or own in own_ids or abs(own) >= 2**63:
            naive.said["id of its own"] += 1
        else:
            own_ids[own] = entry
        naive.people.append(person)
    return naive


def _categories(categories: list[Any], joints: list[str], naive: NaiveFile) -> None:
    """The ids of the categories with the joints, and what cannot be understood."""
    others, nameless = 0, []
    for category in categories:
        key = identifier(category.get("id")) if isinstance(category, dict) else None
        if key is None:
            naive.refusals.append("a category without id")
            return
        names = category.get("keypoints")
        if not isinstance(names, list) or not names:
            nameless.append((key, category.get("name")))
        elif not all(isinstance(name, str) for name in names):
            naive.unclear = True
            return
        elif sorted(names) == sorted(joints):
            naive.orders[key] = names
        else:
            others += 1
    if not naive.orders and others:
        naive.refusals.append("other joints")
    elif not naive.orders:
        people = [key for key, name in nameless if name == "person"]
        naive.unclear = len(people) != 1
        naive.orders = dict.fromkeys(people, joints)


def _images(entries: list[Any], naive: NaiveFile, picture: tuple[int, int], pictures: set[str]) -> None:
    stated: dict[int | str, tuple[Any, ...]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or identifier(entry.get("id")) is None:
            naive.refusals.append("an image without id")
            return
        name = entry.get("file_name")
        if not isinstance(name, str) or name.startswith(("..", "/")) or "\0" in name:
            naive.refusals.append("an image without a name in the folder")
            return
        width, height = number(entry.get("width")), number(entry.get("height"))
        size = (width, height) if width and height and min(width, height) > 0 else None
        key = identifier(entry["id"])
        assert key is not None
        if key in stated:
            if stated[key] != (name, size):
                naive.refusals.append("two images with one id")
                return
            naive.said["listed again"] += 1
            continue
        stated[key] = (name, size)
    naive.ids = {key: key for key in stated if isinstance(key, int) and abs(key) < 2**63}
    for key in stated:
        if key not in naive.ids:
            naive.ids[key] = next(n for n in range(1, 99) if n not in naive.ids.values())
            naive.said["no whole number"] += 1
    for key, (name, size) in stated.items():
        naive.name_of[naive.ids[key]] = name
        if size is None:
            naive.said["without width and height"] += 1
            if name in pictures:
                size = picture
        naive.sizes[naive.ids[key]] = size or (math.inf, math.inf)


def _person(entry: dict[str, Any], naive: NaiveFile, joints: list[str]) -> NaivePerson | None:
    image = naive.ids.get(identifier(entry.get("image_id")) or 0)
    if identifier(entry.get("image_id")) is None or image is None:
        naive.lost += 1
        return None
    iscrowd = flag(entry.get("iscrowd"))
    if iscrowd is None:
        naive.said["iscrowd"] += 1
    given = entry.get("keypoints")
    keypoints: list[float] | None = []
    if given is None or given == []:
        if (number(entry.get("num_keypoints")) or 0) != 0:
            naive.lost += 1
            return None
    else:
        keypoints = coordinates(_cleared(given), 3 * len(joints))
        if keypoints is None:
            naive.lost += 1
            return None
        names = naive.orders.get(identifier(entry.get("category_id")) or 0, joints)
        by_name = dict(zip(names, _triples(keypoints), strict=True))
        keypoints = [value for joint in joints for value in by_name[joint]]
        if any(v not in (0, 1, 2) for v in keypoints[2::3]):
            naive.said["visibility"] += 1
            keypoints[2::3] = [0 if v <= 0 else min(max(round(v), 1), 2) for v in keypoints[2::3]]
    box = coordinates(entry.get("bbox"), 4)
    if box is None:
        if keypoints:
            naive.lost += 1
        else:
            naive.said["without keypoints and box"] += 1
        return None
    labelled = [(x, y) for x, y, v in _triples(keypoints or []) if v > 0]
    if (0, 0) in labelled:
        naive.said["at (0, 0)"] += 1
    stated = entry.get("num_keypoints")
    if "num_keypoints" in entry and number(stated) != len(labelled):
        naive.said["num_keypoints"] += 1
    width, height = naive.sizes[image]
    outside = any(not (-1 <= x <= width + 1 and -1 <= y <= height + 1) for x, y in labelled)
    naive.said["outside of the image"] += outside and not iscrowd
    naive.said["crowd region with"] += bool(labelled) and iscrowd == 1
    x, y, w, h = box
    right, bottom = min(x + w, width), min(y + h, height)
    doubtful = not iscrowd and bool(labelled) and not (right - max(x, 0) > 3 and bottom - max(y, 0) > 3)
    area, replaced = _area(entry.get("area"), box, iscrowd or 0, naive.sizes[image])
    return NaivePerson(image, keypoints or [], box, area, iscrowd or 0, doubtful, replaced)


def _cleared(given: Any) -> Any:
    """Coordinates of what is not labelled say nothing, whatever they are."""
    if not isinstance(given, list):
        return given
    flat: list[Any] = []
    for value in given:
        flat += value if isinstance(value, list) else [value]
    for i in range(0, len(flat) - 2, 3):
        v = flat[i + 2]
        if isinstance(v, bool):
            flat[i + 2] = v = int(v)
        if (v is None or number(v) == 0) and any(number(a) is None for a in flat[i : i + 3]):
            flat[i : i + 3] = [0, 0, 0]
    return flat


def _triples(keypoints: list[float]) -> list[tuple[float, float, float]]:
    return [(keypoints[i], keypoints[i + 1], keypoints[i + 2]) for i in range(0, len(keypoints), 3)]


def _area(stated: Any, box: list[float], iscrowd: int, size: tuple[float, float]) -> tuple[float, bool]:
    """The area, and whether it is of the part of the box that lies in the image (to a px)."""
    found = number(stated)
    x, y, w, h = box
    part = max(min(x + w, size[0] + 1) - max(x, -1), 0) * max(min(y + h, size[1] + 1) - max(y, -1), 0)
    if found is not None and found > 0 and (iscrowd or 0.01 * part <= found <= 1.02 * max(w, 0) * max(h, 0)):
        return found, False
    return 0.53 * part, True


def read_results(content: Any, naive: NaiveFile, joints: list[str]) -> list[dict[str, Any]] | None:
    """Poses of a COCO results file; None if it must be refused."""
    if not isinstance(content, list):
        return None
    poses = []
    stated = {identifier(entry.get("category_id")) for entry in content if isinstance(entry, dict)}
    counted_otherwise = len(stated) == 1 and not stated & (naive.known | {None})
    for entry in content:
        if not isinstance(entry, dict) or not {"image_id", "keypoints", "score"} <= entry.keys():
            return None
        keypoints = coordinates(entry["keypoints"], 3 * len(joints))
        score, image = number(entry["score"]), image_of(entry["image_id"], naive)
        category = identifier(entry.get("category_id"))
        unknown = (
            not counted_otherwise and category not in naive.orders and entry.get("category_id") is not None
        )
        if keypoints is None or score is None or image is None or unknown:
            return None
        poses.append({"image_id": image, "category_id": 1, "keypoints": keypoints, "score": score})
    return poses


def image_of(value: Any, naive: NaiveFile) -> int | None:
    """The image that a file name, a name that is the only one of its kind, or an id stands for."""
    if isinstance(value, str):
        for short in (
            str,
            lambda name: name.split("/")[-1],
            lambda name: name.split("/")[-1].rsplit(".", 1)[0],
        ):
            found = [image for image, name in naive.name_of.items() if short(name) == value]
            if len(found) == 1:
                return found[0]
    key = identifier(value)
    return None if key is None else naive.ids.get(key)


def read_detections(content: Any, naive: NaiveFile, least: float) -> tuple[list[tuple[Any, ...]], int] | None:
    """(image, x, y, w, h, score) of each box, and how many are not usable; None if it must be refused."""
    if not isinstance(content, list):
        return None
    boxes, unusable = [], 0
    for entry in content:
        if not isinstance(entry, dict):
            unusable += 1
            continue
        category = identifier(entry.get("category_id"))
        if category is not None and category not in naive.orders:
            continue
        box, score = coordinates(entry.get("bbox"), 4), number(entry.get("score", 1.0))
        odd = category is None and entry.get("category_id") is not None
        if box is None or score is None or odd or min(box[2:]) <= 0:
            unusable += 1
        elif score >= least:
            image = image_of(entry.get("image_id"), naive)
            if image is None:
                return None
            boxes.append((image, *box, score))
    return sorted(boxes), unusable
