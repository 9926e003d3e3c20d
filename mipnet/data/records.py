"""What a data set holds, as arrays: images, their people, and boxes to predict in. No pixels, no Ray.

The annotations travel to every decoding task through shared memory, so they are flat arrays and not objects.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mipnet.data.geometry import clip_box
from mipnet.errors import DataError
from mipnet.skeletons import Skeleton
from mipnet.storage import Folder, contained


@dataclass(frozen=True)
class Images:
    """Where the pixels of I images are.

    Attributes:
        uris: (I,) path or URI of each file.
        ids: (I,) int64, the annotation file's image ids.
    """

    uris: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> bytes:
        """The encoded bytes of one image."""
        return read_uri(str(self.uris[index]))


@dataclass(frozen=True)
class People:
    """The annotated people of a data set, sorted by image.

    Attributes:
        images: the images that show at least one person.
        first: (I + 1,) int64; people first[i] : first[i + 1] are those of image i.
        ids: (P,) int64 annotation ids.
        boxes: (P, 4) float64 x, y, w, h in px, cut at the image's border.
        keypoints: (P, K, 3) float32 x, y in px and v in {0, 1, 2}.
    """

    images: Images
    first: np.ndarray
    ids: np.ndarray
    boxes: np.ndarray
    keypoints: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def per_image(self) -> np.ndarray:
        """(I,) number of people."""
        return np.diff(self.first)


@dataclass(frozen=True)
class Boxes:
    """Boxes in which to look for people, sorted by image.

    Attributes:
        images: the images they lie in (some may have none).
        image: (B,) int64 index into ``images``.
        boxes: (B, 4) float64 x, y, w, h in px.
        scores: (B,) float64.
        group: (B,) int64, which split and source a box belongs to when several are predicted together.
    """

    images: Images
    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def join(cls, parts: Sequence[Boxes]) -> Boxes:
        """All boxes of several lists, those of the same file side by side so that it is decoded once."""
        uris = np.concatenate([p.images.uris for p in parts])
        ids = np.concatenate([p.images.ids for p in parts])
        unique, where, inverse = np.unique(uris, return_index=True, return_inverse=True)
        starts = np.cumsum([0, *(len(p.images) for p in parts)])
        image = np.concatenate([inverse[p.image + s] for p, s in zip(parts, starts, strict=False)])
        order = np.argsort(image, kind="stable")
        group = np.concatenate([np.full(len(p), g) for g, p in enumerate(parts)])
        return cls(
            Images(unique, ids[where]),
            image[order],
            np.concatenate([p.boxes for p in parts])[order],
            np.concatenate([p.scores for p in parts])[order],
            group[order],
        )


@dataclass
class Complaints:
    """Samples that cannot be used, counted by kind with the first few named."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        self.counts[kind] += 1
        if len(self.examples.setdefault(kind, [])) < 5:
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


class CocoFile:
    """A COCO keypoint annotation file and the folder of its images.

    Args:
        root: the data set's folder in COCO layout.
        split: its images lie in ROOT/SPLIT, its annotations in ROOT/annotations/person_keypoints_SPLIT.json.
        skeleton: the joints that the file must have.

    Raises:
        DataError: file missing, not JSON, not COCO keypoints, or of another skeleton.
    """

    def __init__(self, root: Folder, split: str, skeleton: Skeleton) -> None:
        name = f"annotations/person_keypoints_{split}.json"
        self.path, self.images_uri, self.skeleton = root.path(name), root.path(split), skeleton
        self.annotations: dict[str, Any] = read_json(root, name)
        for key in ("images", "annotations", "categories"):
            if not isinstance(self.annotations, dict) or not isinstance(self.annotations.get(key), list):
                raise DataError(f"{self.path} has no list {key!r}", "give a COCO keypoint annotation file")
        for category in self.annotations["categories"]:
            joints = len(category.get("keypoints", ()))
            if joints and joints != skeleton.num_joints:
                raise DataError(
                    f"{self.path} annotates {joints} keypoints but skeleton {skeleton.name} has "
                    f"{skeleton.num_joints}",
                    "choose the skeleton with --data.skeleton",
                )
        for image in self.annotations["images"]:
            if not {"id", "file_name", "width", "height"} <= image.keys():
                raise DataError(f"{self.path}: image {image} lacks id, file_name, width or height")
        self.coco = to_coco(self.annotations)

    def images(self) -> Images:
        """All images of the file, by id."""
        ids = sorted(self.coco.imgs)
        names = [contained(self.coco.imgs[i]["file_name"], self.images_uri) for i in ids]
        folder = Folder(self.images_uri)
        return Images(np.array([folder.path(n) for n in names]), np.array(ids, np.int64))

    def people(self) -> tuple[People, Complaints]:
        """The people with labelled joints, and complaints about those that cannot be used."""
        complaints = Complaints()
        ids, boxes, keypoints, owner = [], [], [], []
        images = self.images()
        for index, image_id in enumerate(images.ids.tolist()):
            info = self.coco.imgs[image_id]
            for ann in self.coco.imgToAnns.get(image_id, []):
                joints = np.asarray(ann.get("keypoints", []), np.float32)
                if ann.get("iscrowd") or not joints.size or not ann.get("num_keypoints", 1):
                    continue  # COCO marks groups and people without joints; they are not samples, nor faults
                problem, box = self._check(ann, joints, info)
                if problem:
                    complaints.add(problem, f"annotation {ann.get('id')} of {info['file_name']}")
                    continue
                if joints[2::3].max() <= 0:
                    continue
                ids.append(ann["id"])
                boxes.append(box)
                keypoints.append(joints.reshape(-1, 3))
                owner.append(index)
        for ann in self.annotations["annotations"]:
            if ann.get("image_id") not in self.coco.imgs:
                complaints.add("annotation without its image", f"annotation {ann.get('id')}")
        if not ids:
            raise DataError(
                f"{self.path} has no usable person", "; ".join(complaints.lines()) or "label some keypoints"
            )
        used, counts = np.unique(owner, return_counts=True)
        return (
            People(
                Images(images.uris[used], images.ids[used]),
                np.concatenate([[0], np.cumsum(counts)]),
                np.array(ids, np.int64),
                np.array(boxes),
                np.array(keypoints, np.float32),
            ),
            complaints,
        )

    def _check(self, ann: dict[str, Any], joints: np.ndarray, info: dict[str, Any]) -> tuple[str, np.ndarray]:
        box = np.asarray(ann.get("bbox", ()), np.float64)
        if joints.size != 3 * self.skeleton.num_joints:
            return f"{joints.size // 3} keypoints instead of {self.skeleton.num_joints}", box
        if not np.isfinite(joints).all():
            return "keypoints that are not numbers", box
        if box.shape != (4,) or not np.isfinite(box).all():
            return "box that is not four numbers", box
        box = clip_box(box, info["width"], info["height"])
        return ("box outside its image" if min(box[2:]) <= 0 else ""), box

    def ground_truth_boxes(self) -> Boxes:
        """The boxes of the people with labelled joints, score 1 each."""
        people, _ = self.people()
        image = np.repeat(np.arange(len(people.images)), people.per_image)
        return Boxes(people.images, image, people.boxes, np.ones(len(image)), np.zeros(len(image), np.int64))

    def detected_boxes(self, root: Folder, name: str, min_score: float) -> Boxes:
        """A detector's boxes from a COCO-format list of {image_id, category_id, bbox, score}.

        Raises:
            DataError: the file is missing or broken, or names images that the annotations do not have.
        """
        detections = read_json(root, name)
        where = root.path(name)
        if not isinstance(detections, list):
            raise DataError(f"{where} is not a list", "give detections as [{image_id, bbox, score}]")
        images = self.images()
        index = {image_id: i for i, image_id in enumerate(images.ids.tolist())}
        rows = []
        for number, d in enumerate(detections):
            try:
                if d.get("category_id", 1) != 1 or d["score"] < min_score:
                    continue
                x, y, w, h = map(float, d["bbox"])
                if not (w > 0 and h > 0 and np.isfinite([x, y, w, h, d["score"]]).all()):
                    raise ValueError
                rows.append((index[d["image_id"]], x, y, w, h, float(d["score"])))
            except (KeyError, TypeError, ValueError, AttributeError):
                unknown = isinstance(d, dict) and d.get("image_id") not in index
                what = f"names the unknown image {d.get('image_id')}" if unknown else "is not a usable box"
                raise DataError(f"{where}: detection {number} {what}", "check the file") from None
        rows.sort(key=lambda row: row[0])
        table = np.array(rows, np.float64).reshape(-1, 6)
        image = table[:, 0].astype(np.int64)
        return Boxes(images, image, table[:, 1:5], table[:, 5], np.zeros_like(image))


def read_uri(uri: str) -> bytes:
    """The bytes of one file by its path or URI.

    Raises:
        FileNotFoundError: there is none.
    """
    place, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    folder, _, name = place.rpartition("/")
    return Folder(f"{folder}{mark}{query}").read(name)


def read_json(folder: Folder, name: str) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: it is missing or broken; says where.
    """
    where = folder.path(name)
    try:
        return json.loads(folder.read(name))
    except FileNotFoundError:
        raise DataError(f"{where} does not exist", "check --data.root and the split's name") from None
    except OSError as error:
        raise DataError(f"cannot read {where} ({error.strerror or error})") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{where} is not JSON ({error})", "download or export it again") from None


def to_coco(annotations: dict[str, Any]) -> Any:
    """pycocotools' index over annotations that are already in memory, without its prints."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = annotations
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
