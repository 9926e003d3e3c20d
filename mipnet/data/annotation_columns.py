"""A reading of a keypoint file as columns: what is kept of it in memory, and from one start to the next.

The objects of COCO's 262,000 people take ten times as much memory, and ten times as long to make.
"""

from __future__ import annotations

import functools
import io
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from mipnet.data.annotation_reading import Reading, labelled_count
from mipnet.data.json_values import IdMap, id_key, number
from mipnet.data.orientation import Orientations
from mipnet.data.validation import Findings

IMAGE_EXTRAS = ("crowdIndex",)
"""Fields of an image, beside id, name and size, that something uses."""
LOSSLESS_TYPES = (np.int16, np.int32, np.float32)


@dataclass(frozen=True)
class AnnotationColumns:
    """I images and P annotations of people, in the file's order; whole numbers where all of a column are.

    Attributes:
        image_ids: (I,) int64.
        sizes: (I, 2) width and height in px.
        frames: (I, 3), see ``Orientations``.
        ids: (P,) int64.
        image_of: (P,) int64 image id.
        crowd: (P,) bool.
        num_keypoints: (P,) int64 as the evaluation counts them.
        labelled: (P,) int64 keypoints with v > 0.
        areas: (P,) px²; nan where the file states none and the protocol needs none.
        boxes: (P, 4) x, y, w, h in px, as stated.
        keypoints: (P, K, 3) x, y, v; 0 where none are given.
        given: (P,) bool, whether keypoints are given.
        about: the rest, as JSON: names and extras of the images, categories, findings.
    """

    image_ids: np.ndarray
    sizes: np.ndarray
    frames: np.ndarray
    ids: np.ndarray
    image_of: np.ndarray
    crowd: np.ndarray
    num_keypoints: np.ndarray
    labelled: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray
    keypoints: np.ndarray
    given: np.ndarray
    about: dict[str, Any]

    @classmethod
    def of(cls, reading: Reading, orientations: Orientations) -> AnnotationColumns:
        """The columns of a reading whose images have sizes and whose annotations are placed."""
        images, people = reading.content["images"], reading.content["annotations"]
        joints = len(reading.category.entry["keypoints"])
        given = np.array([bool(p["keypoints"]) for p in people], bool)
        keypoints = np.zeros((len(people), 3 * joints))
        keypoints[given] = np.array([p["keypoints"] for p in people if p["keypoints"]]).reshape(
            -1, 3 * joints
        )
        extras = {i: {k: e[k] for k in IMAGE_EXTRAS if k in e} for i, e in enumerate(images)}
        about = {
            "file_names": [image["file_name"] for image in images],
            "extras": {str(i): found for i, found in extras.items() if found},
            "categories": reading.content["categories"],
            "category_ids": sorted(reading.category.ids, key=str),
            "own_category_id": reading.category.entry["id"],
            "other_category_ids": [
                id_key(reading.category_ids.own(category["id"]))
                for category in reading.content["categories"][1:]
            ],
            "posed_others": [category for category, _ in reading.posed_others.most_common()],
            "written": {str(number): value for number, value in reading.image_ids.written.items()},
            "orientations": {
                "looked_at": orientations.looked_at,
                "undecided": orientations.undecided,
                "resized": orientations.resized,
            },
            "notes": reading.notes,
            **{name: vars(getattr(reading, name)) for name in ("left_out", "mended", "odd")},
        }
        return cls(
            np.array([image["id"] for image in images], np.int64),
            _smallest([(image["width"], image["height"]) for image in images], 2),
            _smallest(orientations.frames, 3),
            np.array([p["id"] for p in people], np.int64),
            np.array([p["image_id"] for p in people], np.int64),
            np.array([p["iscrowd"] for p in people], bool),
            np.array([p["num_keypoints"] for p in people], np.int64),
            np.array([labelled_count(p["keypoints"]) for p in people], np.int64),
            _smallest([_area(p.get("area")) for p in people]),
            _smallest([p["bbox"] for p in people], 4),
            _smallest(keypoints.reshape(-1, joints, 3)),
            given,
            about,
        )

    def to_bytes(self) -> bytes:
        """The content of an npz file."""
        about = np.frombuffer(json.dumps(self.about).encode(), np.uint8)
        file = io.BytesIO()
        arrays = {name: getattr(self, name) for name in self.__dataclass_fields__}
        np.savez(file, **(arrays | {"about": about}))
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> AnnotationColumns:
        """The columns in the content of an npz file."""
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in cls.__dataclass_fields__}
        return cls(**(arrays | {"about": json.loads(arrays["about"].tobytes())}))

    @functools.cached_property
    def ids_map(self) -> IdMap:
        """Every spelling of an image id -> its number."""
        written = {int(number): value for number, value in self.about["written"].items()}
        return IdMap.of_numbers(self.image_ids.tolist(), written)

    @property
    def orientations(self) -> Orientations:
        """The frames that the labels are in."""
        return Orientations(self.frames, **self.about["orientations"])

    @property
    def extras(self) -> dict[int, dict[str, Any]]:
        """Row of an image -> its ``IMAGE_EXTRAS``; only of images that have any."""
        return {int(row): found for row, found in self.about["extras"].items()}

    def findings(self, name: str) -> Findings:
        """``left_out``, ``mended`` or ``odd`` of the reading."""
        found = self.about[name]
        return Findings(Counter(found["counts"]), dict(found["examples"]))

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """The rows of people, given by their annotations' ids."""
        return _rows(self.ids, ids)

    def sizes_of(self, image_ids: np.ndarray) -> np.ndarray:
        """(n, 2) float64 width and height in px of images, given by their ids."""
        sizes: np.ndarray = self.sizes[_rows(self.image_ids, image_ids)].astype(np.float64)
        return sizes

    def to_coco(self) -> dict[str, Any]:
        """Images, annotations and categories in COCO's format, as dictionaries."""
        images = [
            {"id": image_id, "file_name": name, "width": width, "height": height}
            for image_id, name, (width, height) in zip(
                self.image_ids.tolist(), self.about["file_names"], self.sizes.tolist(), strict=True
            )
        ]
        for row, found in self.extras.items():
            images[row] |= found
        category_id = self.about["categories"][0]["id"]
        people = [
            {
                "id": annotation_id,
                "image_id": image_id,
                "category_id": category_id,
                "iscrowd": int(crowd),
                "num_keypoints": count,
                "bbox": box,
                "keypoints": keypoints if given else [],
                **({"area": area} if area == area else {}),
            }
            for annotation_id, image_id, crowd, count, box, keypoints, given, area in zip(
                self.ids.tolist(),
                self.image_of.tolist(),
                self.crowd.tolist(),
                self.num_keypoints.tolist(),
                self.boxes.tolist(),
                self.keypoints.reshape(-1, 3 * self.keypoints.shape[1]).tolist(),
                self.given.tolist(),
                self.areas.tolist(),
                strict=True,
            )
        ]
        return {"images": images, "annotations": people, "categories": self.about["categories"]}


def _smallest(values: Any, width: int = 0) -> np.ndarray:
    """Numbers in the smallest type that holds all of them exactly; (n, width) if a width is given."""
    array = np.asarray(values, np.float64)
    array = array.reshape(-1, width) if width else array
    for kind in LOSSLESS_TYPES:
        with np.errstate(invalid="ignore", over="ignore"):
            small = array.astype(kind)
        if ((small == array) | ((small != small) & (array != array))).all():
            return small
    return array


def _area(value: Any) -> float:
    found = number(value)
    return float("nan") if found is None else found


def _rows(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    order = np.argsort(ids, kind="stable")
    rows: np.ndarray = order[np.searchsorted(ids, wanted, sorter=order)]
    return rows
