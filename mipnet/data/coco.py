"""What a data set holds, as arrays: images, their people, and boxes to predict in. No pixels, no Ray.

The annotations travel to every decoding task through shared memory, so they are flat arrays and not objects.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mipnet.data.box_ops import box_nms
from mipnet.data.geometry import clip_box
from mipnet.data.image_sizes import turn_swapped_sizes
from mipnet.data.ochuman import is_ochuman, ochuman_to_coco
from mipnet.data.parquet import read_row
from mipnet.data.shards import pieces
from mipnet.data.validation import Complaints, check_images, leave_out_unusable
from mipnet.errors import DataError, reason_of
from mipnet.skeletons import Skeleton
from mipnet.storage import Folder, contained, file_name, parent_of

BOX_HELP = "give detections as [{image_id, category_id, bbox: [x, y, w, h], score}]"
BOXES_HELP = "give --data.boxes gt, NAME for ROOT/boxes/NAME_SPLIT.json, or NAME=FILE"


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

    def of_image(self, image: int) -> slice:
        """Everybody in an image."""
        return slice(int(self.first[image]), int(self.first[image + 1]))

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

    def where(self, rows: np.ndarray) -> Boxes:
        """Only some of the boxes: (B,) bool, or indices."""
        columns = (column[rows] for column in (self.image, self.boxes, self.scores, self.group))
        return Boxes(self.images, *columns)

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


class CocoFile:
    """A keypoint annotation file, in COCO's format or OCHuman's own, and the folder of its images.

    Attributes:
        annotations: in COCO's format, without what cannot be used.
        complaints: about that.
        notes: one line about each thing that was mended while reading.

    Args:
        root: the data set's folder.
        annotations: name of the file in it.
        images: name of the image folder in it.
        skeleton: the joints that the file must have.

    Raises:
        DataError: file missing, not JSON, not COCO keypoints, or of another skeleton; packed by an older
            version in a way that this one cannot read.
    """

    def __init__(self, root: Folder, annotations: str, images: str, skeleton: Skeleton) -> None:
        self.path, self.images_uri, self.skeleton = root.path(annotations), root.path(images), skeleton
        self.notes: list[str] = []
        tiles = root.join(images).join(f"tiles-{PurePosixPath(annotations).stem}")
        if tiles.exists():
            raise DataError(
                f"{tiles.uri} was packed with --tiles, which no longer exists", "pack the data set again"
            )
        self.annotations: dict[str, Any] = read_json(root, annotations)
        if is_ochuman(self.annotations):
            self.annotations = ochuman_to_coco(self.annotations, self.path)
        for key in ("images", "annotations", "categories"):
            if not isinstance(self.annotations, dict) or not isinstance(self.annotations.get(key), list):
                raise DataError(f"{self.path} has no list {key!r}", "give a COCO keypoint annotation file")
        for category in self.annotations["categories"]:
            if not isinstance(category, dict) or "id" not in category:
                raise DataError(
                    f"{self.path} has a category without id", "give a COCO keypoint annotation file"
                )
            joints = len(category.get("keypoints") or ())
            if joints and joints != skeleton.num_joints:
                raise DataError(
                    f"{self.path} annotates {joints} keypoints but skeleton {skeleton.name} has "
                    f"{skeleton.num_joints}",
                    "choose the skeleton with --data.skeleton",
                )
        self.categories = self._merge_categories()
        check_images(self.annotations["images"], self.path)
        if turned := turn_swapped_sizes(self.annotations):
            self.notes.append(f"{self.path}: width and height of {turned} images were swapped; turned back")
        self.complaints = leave_out_unusable(self.annotations, skeleton.num_joints)
        self.coco = to_coco(self.annotations)

    def _merge_categories(self) -> set[Any]:
        """Take all categories with keypoints (kinds of animals, say) for one, the first: no network of ours
        tells them apart, and metrics by category would find nearly all poses in the wrong one.

        Returns:
            the ids that stand for it in other files.
        """
        kinds = [c for c in self.annotations["categories"] if c.get("keypoints")]
        ids = {category["id"] for category in kinds} or {1}
        if len(ids) > 1:
            for person in self.annotations["annotations"]:
                if isinstance(person, dict) and person.get("category_id") in ids:
                    person["category_id"] = kinds[0]["id"]
            self.annotations["categories"] = [
                c for c in self.annotations["categories"] if c["id"] not in ids or c is kinds[0]
            ]
            self.notes.append(f"{self.path}: {len(ids)} categories with keypoints; they are taken for one")
        return ids

    @property
    def category_id(self) -> int:
        """Of the people: the first category with keypoints."""
        categories = self.annotations["categories"]
        return next((c["id"] for c in categories if c.get("keypoints")), 1)

    def images(self) -> Images:
        """All images of the file, by id."""
        ids = sorted(self.coco.imgs)
        names = [contained(self.coco.imgs[i]["file_name"], self.images_uri) for i in ids]
        folder = Folder(self.images_uri)
        places = pieces(folder)
        return Images(np.array([folder.path(places.get(n, n)) for n in names]), np.array(ids, np.int64))

    def people(self) -> tuple[People, Complaints]:
        """The people with labelled joints, and complaints about those that cannot be used.

        Raises:
            DataError: there is nobody.
        """
        return self._people, self.complaints

    @functools.cached_property
    def _people(self) -> People:
        ids, boxes, keypoints, owner = [], [], [], []
        images = self.images()
        for index, image_id in enumerate(images.ids.tolist()):
            info = self.coco.imgs[image_id]
            for ann in self.coco.imgToAnns.get(image_id, []):
                # COCO marks groups and people without joints; they are not samples, nor faults.
                if ann.get("iscrowd") or not ann.get("keypoints") or not ann.get("num_keypoints", 1):
                    continue
                joints = np.asarray(ann["keypoints"], np.float32).reshape(-1, 3)
                if joints[:, 2].max() <= 0:
                    continue
                ids.append(ann["id"])
                boxes.append(clip_box(np.asarray(ann["bbox"], np.float64), info["width"], info["height"]))
                keypoints.append(joints)
                owner.append(index)
        if not ids:
            why = "; ".join(self.complaints.lines()) or "no annotation has labelled keypoints"
            raise DataError(f"{self.path} has no usable person ({why})", "label the keypoints of some people")
        used, counts = np.unique(owner, return_counts=True)
        return People(
            Images(images.uris[used], images.ids[used]),
            np.concatenate([[0], np.cumsum(counts)]),
            np.array(ids, np.int64),
            np.array(boxes),
            np.array(keypoints, np.float32),
        )

    def ground_truth_boxes(self) -> Boxes:
        """The boxes of the people with labelled joints, score 1 each."""
        people, _ = self.people()
        image = np.repeat(np.arange(len(people.images)), people.per_image)
        return Boxes(people.images, image, people.boxes, np.ones(len(image)), np.zeros(len(image), np.int64))

    def detected_boxes(self, root: Folder, name: str, min_score: float, max_iou: float = 1.0) -> Boxes:
        """A detector's boxes from a COCO-format list of {image_id, category_id, bbox, score}.

        Args:
            root, name: where the list lies.
            min_score: boxes below are left out.
            max_iou: of two boxes of an image with a higher IoU only the one with the higher score stays.

        Raises:
            DataError: the file is missing or broken, or names images that the annotations do not have.
        """
        detections = read_json(root, name, BOXES_HELP)
        where = root.path(name)
        if not isinstance(detections, list):
            raise DataError(f"{where} is not a list", BOX_HELP)
        images, person = self.images(), self.category_id
        index = {image_id: i for i, image_id in enumerate(images.ids.tolist())}
        rows = []
        for number, d in enumerate(detections):
            try:
                if d.get("category_id", person) not in self.categories or d["score"] < min_score:
                    continue
                x, y, w, h = map(float, d["bbox"])
                if not (w > 0 and h > 0 and np.isfinite([x, y, w, h, d["score"]]).all()):
                    raise ValueError
                rows.append((index[d["image_id"]], x, y, w, h, float(d["score"])))
            except (KeyError, TypeError, ValueError, AttributeError):
                image_id = d.get("image_id") if isinstance(d, dict) else None
                unknown = isinstance(image_id, int | str) and image_id not in index
                what = f"names the unknown image {image_id!r:.50}" if unknown else "is not a usable box"
                mend = f"the boxes must be of the images in {self.path}" if unknown else BOX_HELP
                raise DataError(f"{where}: detection {number} {what}", mend) from None
        rows.sort(key=lambda row: row[0])
        table = np.array(rows, np.float64).reshape(-1, 6)
        table = table[box_nms(table[:, 0], table[:, 1:5], table[:, 5], max_iou)]
        image = table[:, 0].astype(np.int64)
        return Boxes(images, image, table[:, 1:5], table[:, 5], np.zeros_like(image))


def read_uri(uri: str) -> bytes:
    """The bytes of one file by its path or URI, or of a table's row (``mipnet.data.parquet``).

    Raises:
        FileNotFoundError: there is none.
    """
    if "#row=" in uri and (content := read_row(uri)) is not None:
        return content
    folder, name = parent_of(uri)
    return folder.read(name)


def absent(images: Images) -> list[str]:
    """Those of the images whose file is not there; one listing of each folder, not one question a file."""
    places = [parent_of(str(uri)) for uri in images.uris]
    there = {folder: set(folder.names()) for folder in dict.fromkeys(folder for folder, _ in places)}
    return [
        str(uri)
        for uri, (folder, name) in zip(images.uris, places, strict=True)
        if file_name(name) not in there[folder]
    ]


def read_json(folder: Folder, name: str, mend: str = "check --data (data.root)") -> Any:
    """The content of a JSON file.

    Args:
        folder, name: where it is.
        mend: what to do if it is not there.

    Raises:
        DataError: it is missing or broken; says where.
    """
    where = folder.path(name)
    try:
        return json.loads(folder.read(name))
    except FileNotFoundError:
        raise DataError(f"{where} does not exist", mend) from None
    except OSError as error:
        raise DataError(f"cannot read {where} ({reason_of(error)})", "check its permissions") from None
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
