"""What lies in a folder: JSON files by kind, and folders of pictures. No picture is opened."""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from mipnet.data.categories import joint_names
from mipnet.data.image_names import PICTURE_SUFFIXES
from mipnet.data.json_values import coordinates, id_key
from mipnet.data.ochuman import is_ochuman
from mipnet.data.shards import MANIFEST, byte_ranges
from mipnet.errors import DataError
from mipnet.storage import Folder

Kind = Literal["keypoints", "ochuman", "no keypoints", "detections", "results", "other"]
KINDS: dict[Kind, str] = {
    "keypoints": "COCO person keypoints",
    "ochuman": "OCHuman's own format",
    "no keypoints": "COCO without labelled keypoints",
    "detections": "detections",
    "results": "results of a method",
    "other": "something else",
}
HIDDEN = (".", "__MACOSX")
"""Beginnings of the names of files and folders that are passed over."""


@dataclass(frozen=True)
class JsonFile:
    """A JSON file of a folder.

    Attributes:
        name: relative to the folder.
        kind: see ``KINDS``.
        images: the ``file_name`` of each image entry.
        image_ids: of the images, or of those that detections are of, see ``id_key``.
        people: people with labelled keypoints; of other lists, the entries.
        most_people: in one image.
        joints: their names, as many as people have; [] where the file does not name them.
        num_joints: K.
        category: name of the people's category.
        limbs: the category's ``skeleton``, names of joints.
        crowdpose: whether images have CrowdPose's crowdIndex.
    """

    name: str
    kind: Kind
    images: list[str] = field(default_factory=list)
    image_ids: frozenset[int | str | None] = frozenset()
    people: int = 0
    most_people: int = 0
    joints: list[str] = field(default_factory=list)
    num_joints: int = 0
    category: str = ""
    limbs: list[tuple[str, str]] = field(default_factory=list)
    crowdpose: bool = False

    def line(self) -> str:
        """What it is, in one line."""
        about = KINDS[self.kind]
        if self.kind == "keypoints":
            about += f", {self.num_joints} joints; {len(self.images):,} images, {self.people:,} people"
        elif self.kind in ("detections", "results"):
            what = "boxes" if self.kind == "detections" else "poses"
            about += f", {self.people:,} {what} of {len(self.image_ids):,} images"
        return f"{self.name}  {about}"


@dataclass(frozen=True)
class Survey:
    """What lies in a folder.

    Attributes:
        root: the folder.
        files: its JSON files, sorted by name.
        pictures: names of all its pictures.
    """

    root: Folder
    files: list[JsonFile]
    pictures: list[str]

    @property
    def picture_folders(self) -> Counter[str]:
        """Folder, relative to the root ("." is the root itself) -> pictures directly in it."""
        return Counter(posixpath.dirname(name) or "." for name in self.pictures)


def survey(root: Folder) -> Survey:
    """Look at everything in a folder and below; packed pictures have their own names.

    Raises:
        DataError: a folder of packed pictures is broken.
    """
    names = [name for name in root.files() if not any(p.startswith(HIDDEN) for p in name.split("/"))]
    packed = [posixpath.dirname(name) for name in names if posixpath.basename(name) == MANIFEST]
    jsons = [name for name in names if name.lower().endswith(".json")]
    files = [read_file(root, name) for name in jsons if posixpath.basename(name) != MANIFEST]
    pictures = [name for name in names if is_picture(name)]
    for folder in packed:
        pictures += [posixpath.join(folder, name) for name in byte_ranges(root.join(folder or "."))]
    return Survey(root, files, pictures)


def is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURE_SUFFIXES)


def read_file(root: Folder, name: str) -> JsonFile:
    """What a JSON file is; parsed only if it may hold keypoints or scored boxes."""
    try:
        text = root.read(name)
        if b'"keypoints"' not in text and b'"score"' not in text:
            coco = b'"images"' in text and b'"annotations"' in text
            return JsonFile(name, "no keypoints" if coco else "other")
        content = json.loads(text)
    except (OSError, ValueError, RecursionError):  # not readable, not JSON, not UTF-8, or nested without end
        return JsonFile(name, "other")
    if is_ochuman(content):
        return JsonFile(name, "ochuman")
    if isinstance(content, list):
        return read_list(name, [entry for entry in content if isinstance(entry, dict)])
    lists = [content.get(key) for key in ("images", "annotations")] if isinstance(content, dict) else [None]
    if not all(isinstance(each, list) for each in lists):
        return JsonFile(name, "other")
    return read_coco(name, content)


def read_list(name: str, entries: list[dict[str, Any]]) -> JsonFile:
    """Detections and results are lists."""
    kind: Kind = "other"
    if entries and all("score" in entry for entry in entries):
        keys = set.intersection(*(set(entry) for entry in entries))
        kind = "results" if "keypoints" in keys else "detections" if "bbox" in keys else "other"
    ids = frozenset(id_key(entry.get("image_id", entry.get("file_name"))) for entry in entries)
    return JsonFile(name, kind, image_ids=ids, people=len(entries))


def read_coco(name: str, content: dict[str, Any]) -> JsonFile:
    """Images and people of a COCO file; people are of the category that most of them have."""
    images = [entry for entry in content["images"] if isinstance(entry, dict)]
    people: Counter[Any] = Counter()  # by category and number of joints
    by_image: dict[Any, Counter[Any]] = {}
    for entry in content["annotations"]:
        keypoints = coordinates(entry.get("keypoints")) if isinstance(entry, dict) else None
        if keypoints is not None and len(keypoints) % 3 == 0 and any(v > 0 for v in keypoints[2::3]):
            kind = id_key(entry.get("category_id")), len(keypoints) // 3
            people[kind] += 1
            by_image.setdefault(kind, Counter())[id_key(entry.get("image_id"))] += 1
    if not people:
        return JsonFile(name, "no keypoints")
    ((category_id, num_joints), count) = people.most_common(1)[0]
    categories = content.get("categories")
    categories = [c for c in categories if isinstance(c, dict)] if isinstance(categories, list) else []
    fitting = [c for c in categories if len(joint_names(c)) == num_joints]
    own = [c for c in fitting if id_key(c.get("id")) == category_id] or fitting or [{}]
    joints = joint_names(own[0])
    joints = joints if len(set(joints)) == len(joints) else []
    return JsonFile(
        name,
        "keypoints",
        images=[entry["file_name"] for entry in images if isinstance(entry.get("file_name"), str)],
        image_ids=frozenset(id_key(entry.get("id")) for entry in images),
        people=count,
        most_people=max(by_image[category_id, num_joints].values()),
        joints=joints,
        num_joints=num_joints,
        category=str(own[0].get("name", "")),
        limbs=read_limbs(own[0].get("skeleton"), joints),
        crowdpose=any("crowdIndex" in entry for entry in images),
    )


def read_limbs(skeleton: Any, joints: list[str]) -> list[tuple[str, str]]:
    """COCO's pairs of joints, which count from 1; [] unless all of them are joints."""
    pairs = coordinates(skeleton)
    if pairs is None or len(pairs) % 2 or not all(1 <= joint <= len(joints) for joint in pairs):
        return []
    names = [joints[int(joint) - 1] for joint in pairs]
    return [*zip(names[::2], names[1::2], strict=True)]


def image_folder(file: JsonFile, pictures: list[str]) -> tuple[str, int]:
    """The folder, relative to the root, in which most of a file's images lie, and how many of them do."""
    by_name: dict[str, list[str]] = {}
    for picture in pictures:
        by_name.setdefault(posixpath.basename(picture), []).append(picture)
    found: Counter[str] = Counter()
    for image in dict.fromkeys(file.images):
        name = posixpath.normpath(image.replace("\\", "/"))
        for picture in by_name.get(posixpath.basename(name), ()):
            if f"/{picture}".endswith(f"/{name}"):
                found[picture[: -len(name)].rstrip("/") or "."] += 1
    return min(found.items(), key=lambda item: (-item[1], item[0]), default=(".", 0))


def require_survey(root: Folder) -> Survey:
    """``survey``, if it found a file to train with.

    Raises:
        DataError: there is none; says what there is.
    """
    found = survey(root)
    if not any(file.kind == "keypoints" for file in found.files):
        kinds = Counter(KINDS[file.kind] for file in found.files)
        there = ", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "no JSON file"
        hint = "export the labels as COCO keypoints (images, annotations with keypoints, categories)"
        if any(file.kind == "ochuman" for file in found.files):
            hint = "give --dataset ochuman"
        raise DataError(
            f"{root.uri} has no file of labelled people: {there}; {len(found.pictures)} pictures", hint, 1
        )
    return found
