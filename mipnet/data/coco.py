"""COCO keypoint annotations as flat arrays: images, annotated persons, and boxes to predict in.

Arrays, not objects, because every decoding task reads them from Ray's shared memory. No pixels, no Ray.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mipnet.data.box_ops import box_nms
from mipnet.data.geometry import clip_box
from mipnet.data.image_sizes import fix_swapped_sizes
from mipnet.data.ochuman import is_ochuman, ochuman_to_coco
from mipnet.data.parquet import read_row
from mipnet.data.shards import byte_ranges
from mipnet.data.validation import check_image_entries, drop_invalid_annotations
from mipnet.errors import DataError, reason_of
from mipnet.skeletons import Skeleton
from mipnet.storage import Folder, safe_relative_path, split_uri, without_byte_range

logger = logging.getLogger(__name__)

BOX_FORMAT_HINT = "give detections as [{image_id, category_id, bbox: [x, y, w, h], score}]"
BOXES_OPTION_HINT = "give --data.boxes gt, NAME for ROOT/boxes/NAME_SPLIT.json, or NAME=FILE"


@dataclass(frozen=True)
class ImageIndex:
    """Where the files of I images are.

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
class PersonAnnotations:
    """The annotated persons (P) of a data set, sorted by image; the samples to train on.

    Attributes:
        images: the images that show at least one person.
        image_offsets: (I + 1,) int64, CSR indptr: the people of image i are rows
            image_offsets[i] : image_offsets[i + 1].
        ids: (P,) int64 annotation ids.
        boxes: (P, 4) float64 x, y, w, h in px, clipped to the image.
        keypoints: (P, K, 3) float32 x, y in px and v in {0, 1, 2}.
    """

    images: ImageIndex
    image_offsets: np.ndarray
    ids: np.ndarray
    boxes: np.ndarray
    keypoints: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def slice_of_image(self, image: int) -> slice:
        """The rows of the people in an image, given by its index."""
        return slice(int(self.image_offsets[image]), int(self.image_offsets[image + 1]))

    @property
    def people_per_image(self) -> np.ndarray:
        """(I,) number of people."""
        return np.diff(self.image_offsets)


@dataclass(frozen=True)
class Boxes:
    """Boxes (B) in which poses are predicted, sorted by image.

    Attributes:
        images: the images; some may have no box.
        image_index: (B,) int64 index into ``images``.
        boxes: (B, 4) float64 x, y, w, h in px.
        scores: (B,) float64.
        source_index: (B,) int64, which split and box source a box comes from, when several are concatenated.
    """

    images: ImageIndex
    image_index: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    source_index: np.ndarray

    def __len__(self) -> int:
        return len(self.image_index)

    def where(self, rows: np.ndarray) -> Boxes:
        """Only some of the boxes: (B,) bool, or indices."""
        columns = (column[rows] for column in (self.image_index, self.boxes, self.scores, self.source_index))
        return Boxes(self.images, *columns)

    @classmethod
    def concatenate(cls, parts: Sequence[Boxes]) -> Boxes:
        """The boxes of several lists; those of one file lie together, so that it is decoded once."""
        uris = np.concatenate([p.images.uris for p in parts])
        ids = np.concatenate([p.images.ids for p in parts])
        unique, first, inverse = np.unique(uris, return_index=True, return_inverse=True)
        offsets = np.cumsum([0, *(len(p.images) for p in parts)])
        image_index = np.concatenate(
            [inverse[p.image_index + o] for p, o in zip(parts, offsets, strict=False)]
        )
        order = np.argsort(image_index, kind="stable")
        source_index = np.concatenate([np.full(len(p), i) for i, p in enumerate(parts)])
        return cls(
            ImageIndex(unique, ids[first]),
            image_index[order],
            np.concatenate([p.boxes for p in parts])[order],
            np.concatenate([p.scores for p in parts])[order],
            source_index[order],
        )


class CocoKeypointFile:
    """A keypoint annotation file, in COCO's format or OCHuman's own, and its image folder; checked.

    Attributes:
        annotations: the file's content in COCO's format, without the dropped annotations.
        invalid_annotations: what was dropped, and why.
        fixes: one line for each fault that was corrected while reading.
        person_category_ids: category ids that mean a person in detections and results of this data set.
        coco: pycocotools' index over ``annotations``.

    Args:
        root: the data set's folder.
        annotations: name of the annotation file in it.
        images: name of the image folder in it.
        skeleton: the keypoints that the file must have.

    Raises:
        DataError: the file is missing, not JSON, not COCO keypoints, or of another skeleton; or the images
            were packed in a layout of an older version, which this one cannot read.
    """

    def __init__(self, root: Folder, annotations: str, images: str, skeleton: Skeleton) -> None:
        self.path, self.images_uri, self.skeleton = root.path(annotations), root.path(images), skeleton
        self.fixes: list[str] = []
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
            count = len(category.get("keypoints") or ())
            if count and count != skeleton.num_joints:
                raise DataError(
                    f"{self.path} annotates {count} keypoints but skeleton {skeleton.name} has "
                    f"{skeleton.num_joints}",
                    "choose the skeleton with --data.skeleton",
                )
        self.person_category_ids = self._merge_categories()
        check_image_entries(self.annotations["images"], self.path)
        if turned := fix_swapped_sizes(self.annotations):
            self.fixes.append(f"{self.path}: width and height of {turned} images were swapped; turned back")
        self.invalid_annotations = drop_invalid_annotations(self.annotations, skeleton.num_joints)
        for line in self.fixes:
            logger.info("corrected: %s", line)
        for line in self.invalid_annotations.lines():
            logger.info("dropped from %s: %s", self.path, line)
        self.coco = coco_index(self.annotations)

    def _merge_categories(self) -> set[Any]:
        """Map all categories with keypoints (kinds of animals, say) to the first one.

        The network does not predict categories; metrics by category would count nearly all poses as wrong.

        Returns:
            the ids of all these categories, as other files use them.
        """
        merged = [c for c in self.annotations["categories"] if c.get("keypoints")]
        ids = {category["id"] for category in merged} or {1}
        if len(ids) > 1:
            for person in self.annotations["annotations"]:
                if isinstance(person, dict) and person.get("category_id") in ids:
                    person["category_id"] = merged[0]["id"]
            self.annotations["categories"] = [
                c for c in self.annotations["categories"] if c["id"] not in ids or c is merged[0]
            ]
            self.fixes.append(f"{self.path}: {len(ids)} categories with keypoints; they are taken for one")
        return ids

    @property
    def category_id(self) -> int:
        """The person category: the first one with keypoints, else 1."""
        categories = self.annotations["categories"]
        return next((c["id"] for c in categories if c.get("keypoints")), 1)

    def images(self) -> ImageIndex:
        """All images of the file, sorted by id."""
        ids = sorted(self.coco.imgs)
        names = [safe_relative_path(self.coco.imgs[i]["file_name"], self.images_uri) for i in ids]
        folder = Folder(self.images_uri)
        packed = byte_ranges(folder)
        return ImageIndex(np.array([folder.path(packed.get(n, n)) for n in names]), np.array(ids, np.int64))

    def people(self) -> PersonAnnotations:
        """The persons with at least one labelled keypoint.

        Raises:
            DataError: there is none.
        """
        return self._people

    @functools.cached_property
    def _people(self) -> PersonAnnotations:
        ids, boxes, keypoints, image_index = [], [], [], []
        images = self.images()
        for index, image_id in enumerate(images.ids.tolist()):
            info = self.coco.imgs[image_id]
            for ann in self.coco.imgToAnns.get(image_id, []):
                # Crowd regions and persons without keypoints are valid COCO, but no samples.
                if ann.get("iscrowd") or not ann.get("keypoints") or not ann.get("num_keypoints", 1):
                    continue
                points = np.asarray(ann["keypoints"], np.float32).reshape(-1, 3)  # (K, 3)
                if points[:, 2].max() <= 0:
                    continue
                ids.append(ann["id"])
                boxes.append(clip_box(np.asarray(ann["bbox"], np.float64), info["width"], info["height"]))
                keypoints.append(points)
                image_index.append(index)
        if not ids:
            why = "; ".join(self.invalid_annotations.lines()) or "no annotation has labelled keypoints"
            raise DataError(f"{self.path} has no usable person ({why})", "label the keypoints of some people")
        used, counts = np.unique(image_index, return_counts=True)
        return PersonAnnotations(
            ImageIndex(images.uris[used], images.ids[used]),
            np.concatenate([[0], np.cumsum(counts)]),
            np.array(ids, np.int64),
            np.array(boxes),
            np.array(keypoints, np.float32),
        )

    def ground_truth_boxes(self) -> Boxes:
        """The boxes of ``people()``, each with score 1."""
        people = self.people()
        image_index = np.repeat(np.arange(len(people.images)), people.people_per_image)
        source_index = np.zeros(len(people), np.int64)
        return Boxes(people.images, image_index, people.boxes, np.ones(len(people)), source_index)

    def detected_boxes(self, root: Folder, name: str, min_score: float, max_iou: float = 1.0) -> Boxes:
        """A detector's boxes from a COCO-format list of {image_id, category_id, bbox, score}.

        Args:
            root: folder of the list.
            name: its file in that folder.
            min_score: boxes with a lower score are dropped.
            max_iou: IoU threshold of box NMS; 1 keeps all boxes.

        Raises:
            DataError: the file is missing or broken, or refers to images that the annotations do not have.
        """
        detections = read_json(root, name, BOXES_OPTION_HINT)
        where = root.path(name)
        if not isinstance(detections, list):
            raise DataError(f"{where} is not a list", BOX_FORMAT_HINT)
        images, person = self.images(), self.category_id
        index = {image_id: i for i, image_id in enumerate(images.ids.tolist())}
        rows = []
        for number, d in enumerate(detections):
            try:
                if d.get("category_id", person) not in self.person_category_ids or d["score"] < min_score:
                    continue
                x, y, w, h = map(float, d["bbox"])
                if not (w > 0 and h > 0 and np.isfinite([x, y, w, h, d["score"]]).all()):
                    raise ValueError
                rows.append((index[d["image_id"]], x, y, w, h, float(d["score"])))
            except (KeyError, TypeError, ValueError, AttributeError):
                image_id = d.get("image_id") if isinstance(d, dict) else None
                unknown = isinstance(image_id, int | str) and image_id not in index
                what = f"names the unknown image {image_id!r:.50}" if unknown else "is not a usable box"
                hint = f"the boxes must be of the images in {self.path}" if unknown else BOX_FORMAT_HINT
                raise DataError(f"{where}: detection {number} {what}", hint) from None
        rows.sort(key=lambda row: row[0])
        table = np.array(rows, np.float64).reshape(-1, 6)
        table = table[box_nms(table[:, 0], table[:, 1:5], table[:, 5], max_iou)]
        image_index = table[:, 0].astype(np.int64)
        return Boxes(images, image_index, table[:, 1:5], table[:, 5], np.zeros_like(image_index))


def read_uri(uri: str) -> bytes:
    """The content of a file given by path or URI, or of one row of a Parquet table (``mipnet.data.parquet``).

    Raises:
        FileNotFoundError: no such file or row.
    """
    if "#row=" in uri and (content := read_row(uri)) is not None:
        return content
    folder, name = split_uri(uri)
    return folder.read(name)


def missing_files(images: ImageIndex) -> list[str]:
    """The URIs of images whose file does not exist; one listing per folder instead of a request per file."""
    locations = [split_uri(str(uri)) for uri in images.uris]
    existing = {folder: set(folder.names()) for folder in dict.fromkeys(folder for folder, _ in locations)}
    return [
        str(uri)
        for uri, (folder, name) in zip(images.uris, locations, strict=True)
        if without_byte_range(name) not in existing[folder]
    ]


def read_json(folder: Folder, name: str, hint: str = "check --data (data.root)") -> Any:
    """The content of a JSON file.

    Args:
        folder: where the file is.
        name: its name in the folder.
        hint: what to do if it does not exist.

    Raises:
        DataError: the file is missing or broken; the message has its path.
    """
    where = folder.path(name)
    try:
        return json.loads(folder.read(name))
    except FileNotFoundError:
        raise DataError(f"{where} does not exist", hint) from None
    except OSError as error:
        raise DataError(f"cannot read {where} ({reason_of(error)})", "check its permissions") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{where} is not JSON ({error})", "download or export it again") from None


def coco_index(annotations: dict[str, Any]) -> Any:
    """pycocotools' ``COCO`` over annotations in memory, without what it prints."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = annotations
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
