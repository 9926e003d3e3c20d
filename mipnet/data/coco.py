"""COCO keypoint annotations as flat arrays: images, annotated persons, and boxes to predict in.

Arrays, not objects, because every decoding task reads them from Ray's shared memory. No pixels, no Ray.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mipnet.data.annotation_cache import KeptReading
from mipnet.data.annotation_columns import AnnotationColumns
from mipnet.data.annotation_placing import place_annotations, turn_boxes_in_px
from mipnet.data.annotation_reading import Reading, Rules, read_annotations
from mipnet.data.fingerprints import file_of
from mipnet.data.geometry import clip_box
from mipnet.data.image_headers import ImageHeader, Read, header_of
from mipnet.data.image_index import ImageIndex, read_uri
from mipnet.data.image_matching import ImageMatcher
from mipnet.data.image_names import match_names
from mipnet.data.image_sizes import resolve_sizes
from mipnet.data.json_files import (
    no_garbage_collection,
    parse_json,
    read_json,
    reading_errors,
    without_segmentation,
)
from mipnet.data.json_values import IdMap, id_key, shown
from mipnet.data.ochuman import is_ochuman, ochuman_to_coco
from mipnet.data.orientation import RESIZED, Orientations, label_frames
from mipnet.data.shards import byte_ranges
from mipnet.data.validation import Findings
from mipnet.errors import DataError
from mipnet.skeletons import Skeleton
from mipnet.storage import Folder, split_uri

logger = logging.getLogger(__name__)

DEFAULT_RULES = Rules()


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
        entry_ids: (B,) int64 id of the image entry of each box, where it is not that of ``images``: several
            entries may have one file.
        notes: a line about each kind of thing that was left out or turned while reading.
    """

    images: ImageIndex
    image_index: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    source_index: np.ndarray
    entry_ids: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.image_index)

    @property
    def image_ids(self) -> np.ndarray:
        """(B,) int64 id of the image entry of each box."""
        return self.images.ids[self.image_index] if self.entry_ids is None else self.entry_ids

    def where(self, rows: np.ndarray) -> Boxes:
        """Only some of the boxes: (B,) bool, or indices."""
        columns = (self.image_index, self.boxes, self.scores, self.source_index, self.image_ids)
        return Boxes(self.images, *(column[rows] for column in columns))

    @classmethod
    def concatenate(cls, parts: Sequence[Boxes]) -> Boxes:
        """The boxes of several lists; those of one file lie together, so that it is decoded once."""
        images = ImageIndex.concatenate([p.images for p in parts])
        _, first, inverse = np.unique(images.uris, return_index=True, return_inverse=True)
        offsets = np.cumsum([0, *(len(p.images) for p in parts)])
        image_index = np.concatenate(
            [inverse[p.image_index + o] for p, o in zip(parts, offsets, strict=False)]
        )
        order = np.argsort(image_index, kind="stable")
        source_index = np.concatenate([np.full(len(p), i) for i, p in enumerate(parts)])
        return cls(
            images.where(first),
            image_index[order],
            np.concatenate([p.boxes for p in parts])[order],
            np.concatenate([p.scores for p in parts])[order],
            source_index[order],
            np.concatenate([p.image_ids for p in parts])[order],
        )


class CocoKeypointFile:
    """A keypoint annotation file, in COCO's format or OCHuman's own, and its image folder; checked.

    Attributes:
        columns: the annotations.
        sha256: of the file's content.
        invalid_annotations: what was dropped, and why.
        fixes: one line for each kind of fault that was corrected, or decision that was made while reading.
        oddities: what is used as it is but looks wrong.
        image_names: name of an image in the file -> its path below the image folder.
        orientations: the frames that labels are in.
        person_category_ids: keys (``id_key``) of the category ids that mean a person.

    Args:
        root: the data set's folder.
        annotations: name of the annotation file in it.
        images: name of the image folder in it.
        skeleton: the keypoints that the file must have.

    Raises:
        DataError: the file is missing, not JSON, not COCO keypoints, or of another skeleton; or the images
            were packed in a layout of an older version, which this one cannot read.
    """

    def __init__(
        self, root: Folder, annotations: str, images: str, skeleton: Skeleton, rules: Rules = DEFAULT_RULES
    ) -> None:
        self.path, self.images_uri = root.path(annotations), root.path(images)
        self.skeleton, self.rules = skeleton, rules
        tiles = root.join(images).join(f"tiles-{PurePosixPath(annotations).stem}")
        if tiles.exists():
            raise DataError(
                f"{tiles.uri} was packed with --tiles, which no longer exists", "pack the data set again"
            )
        self.columns, self.sha256 = self._columns(root, annotations, rules)
        self.person_category_ids = frozenset(self.columns.about["category_ids"])
        if len(self.person_category_ids) == len(self.columns.about["categories"]) == 1:
            # In other files the only category has a number, also where this one calls it "person".
            self.person_category_ids |= {self.category_id}
        self.invalid_annotations = self.columns.findings("left_out")
        self.oddities, self.orientations = self.columns.findings("odd"), self.columns.orientations
        mended = [*self._odd_names.lines(), *self.columns.findings("mended").lines()]
        decisions = [*self.columns.about["notes"], *mended]
        self.fixes = [f"{self.path}: {line}" for line in decisions]
        for line in self.fixes:
            logger.info("corrected: %s", line)
        for line in self.invalid_annotations.lines():
            logger.info("dropped from %s: %s", self.path, line)

    def _columns(self, root: Folder, annotations: str, rules: Rules) -> tuple[AnnotationColumns, str]:
        """The file as columns, and the SHA-256 of its content."""
        consulted: set[str] = set()

        def reader(name: str) -> Read:
            consulted.add(name)
            return self._reader(name)

        with reading_errors(self.path):
            kept = KeptReading(root, annotations, [asdict(self.skeleton), asdict(rules)])
        columns = kept.columns()
        if columns:
            self._match_names(columns.about["file_names"])
        if columns is None or not kept.is_valid(columns, self._files(columns.about["pictures"])):
            with no_garbage_collection():
                with reading_errors(self.path):
                    content = parse_json(kept.take_content(), without_segmentation)
                reading, orientations = self._reading(content, rules, reader)
                del content
                columns = AnnotationColumns.of(reading, orientations)
                del reading
            kept.keep(columns, self._files(consulted))
        return columns, kept.sha256

    def _reading(
        self, content: Any, rules: Rules, reader: Callable[[str], Read]
    ) -> tuple[Reading, Orientations]:
        if is_ochuman(content):
            content = ochuman_to_coco(content, self.path)
        for key in ("images", "annotations", "categories"):
            if not isinstance(content, dict) or not isinstance(content.get(key), list):
                raise DataError(f"{self.path} has no list {key!r}", "give a COCO keypoint annotation file")
        reading = read_annotations(content, self.skeleton, self.path, rules)
        self._match_names([image["file_name"] for image in reading.content["images"]])
        turn_boxes_in_px(reading)
        fits = resolve_sizes(reading, functools.partial(self._header, reader))
        orientations = label_frames(reading.content["images"], reader, rules.exif, reading.mended, fits)
        if orientations.resized:
            reading.odd.add(RESIZED, *orientations.resized)
        place_annotations(reading, rules)
        return reading, orientations

    def _match_names(self, names: Sequence[str]) -> None:
        self._odd_names = Findings()
        self.image_names = match_names(names, self.images_folder, self._packed, self._odd_names)

    def whole_annotations(self) -> dict[str, Any]:
        """``annotations`` with all fields that the file has, such as segmentations; read again."""
        folder, name = split_uri(self.path)
        return self._reading(read_json(folder, name), self.rules, self._reader)[0].content

    @functools.cached_property
    def annotations(self) -> dict[str, Any]:
        """The file's content in COCO's format, without the dropped annotations and what nothing here uses."""
        return self.columns.to_coco()

    @functools.cached_property
    def coco(self) -> Any:
        """pycocotools' index over ``annotations``."""
        return coco_index(self.annotations)

    def _header(self, reader: Callable[[str], Read], name: str) -> ImageHeader | None:
        try:
            return header_of(reader(name))
        except OSError as error:
            logger.info("no header of %s: %s", name, error)
            return None

    @property
    def images_folder(self) -> Folder:
        return Folder(self.images_uri)

    def _files(self, names: Iterable[str]) -> dict[str, str]:
        """Name of an image in the file -> URI of its file."""
        return {name: file_of(self._uri(name)) for name in names}

    def _reader(self, name: str) -> Read:
        return functools.partial(read_uri, self._uri(name))

    def _uri(self, name: str) -> str:
        path = self.image_names[name]
        return self.images_folder.path(self._packed.get(path, path))

    @functools.cached_property
    def _packed(self) -> dict[str, str]:
        return byte_ranges(self.images_folder)

    @property
    def image_ids(self) -> IdMap:
        """Every spelling of an image id -> the id in ``annotations``."""
        return self.columns.ids_map

    @property
    def category_id(self) -> int:
        """The person category."""
        return int(self.columns.about["categories"][0]["id"])

    @property
    def file_names(self) -> dict[int, str]:
        """Image id -> file name, in the file's order."""
        return dict(zip(self.columns.image_ids.tolist(), self.columns.about["file_names"], strict=True))

    @property
    def num_measured(self) -> int:
        """How many people the evaluation measures."""
        return int((~self.columns.crowd & (self.columns.num_keypoints > 0)).sum())

    def is_person(self, category_id: Any) -> bool:
        """Whether a category id of another file, in any spelling, means a person of this one."""
        return id_key(category_id) in self.person_category_ids

    @functools.cached_property
    def matcher(self) -> ImageMatcher:
        """Finds the image entries, in the order of ``images``, by what other files call them."""
        names = self.file_names
        ids = sorted(names)
        return ImageMatcher([names[i] for i in ids], [self.image_ids.own(i) for i in ids])

    def own_results(self, results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Results with ids as they are written in the file, which other tools look for, and file names."""
        names, category_id = self.file_names, self.columns.about["own_category_id"]
        return [
            {
                **result,
                "image_id": self.image_ids.own(result["image_id"]),
                "category_id": category_id,
                "file_name": names[result["image_id"]],
            }
            for result in results
        ]

    def images(self) -> ImageIndex:
        """All image entries of the file, sorted by id; several entries may have one file."""
        return self._images

    @functools.cached_property
    def _images(self) -> ImageIndex:
        names: list[str] = self.columns.about["file_names"]
        uris = np.array([self._uri(name) for name in names])
        ids = self.columns.image_ids
        return ImageIndex(uris, ids, self.orientations.frames).where(np.argsort(ids))

    def people(self) -> PersonAnnotations:
        """The persons with at least one labelled keypoint.

        Persons of several entries of one image file are together, because they stand beside one another.

        Raises:
            DataError: there is none.
        """
        return self._people

    @functools.cached_property
    def _labelled(self) -> tuple[np.ndarray, np.ndarray]:
        """(P,) index into ``images``, and row in ``columns``, of each person with labelled keypoints."""
        # Crowd regions and persons without keypoints are valid COCO, but no samples.
        rows = np.flatnonzero(~self.columns.crowd & (self.columns.labelled > 0))
        entry = np.searchsorted(self.images().ids, self.columns.image_of[rows])
        order = np.argsort(entry, kind="stable")
        return entry[order], rows[order]

    @functools.cached_property
    def _people(self) -> PersonAnnotations:
        images, (entry, rows) = self.images(), self._labelled
        if not len(rows):
            why, hint = "; ".join(self.invalid_annotations.lines()), "mend the annotations"
            if not why:
                why, hint = "no annotation has labelled keypoints", "label the keypoints of some people"
                if posed := self.columns.about["posed_others"]:
                    category = shown(self.columns.about["categories"][0].get("name", self.category_id))
                    why = f"no annotation of category {category} has labelled keypoints"
                    hint = f"take those of another with --data.category {shlex.quote(str(posed[0]))}"
            raise DataError(f"{self.path} has no usable person ({why})", hint)
        first_with_file: dict[str, int] = {}
        file = [first_with_file.setdefault(uri, i) for i, uri in enumerate(images.uris.tolist())]
        image = np.array(file, np.int64)[entry]  # (P,) the first entry of each person's file
        order = np.argsort(image, kind="stable")
        keypoints = self.columns.keypoints[rows].astype(np.float32)
        if len(first_with_file) < len(images):
            first_with: dict[tuple[int, bytes], int] = {}
            for i in order.tolist():
                first_with.setdefault((int(image[i]), self.columns.keypoints[rows[i]].tobytes()), i)
            order = np.array([*first_with.values()], np.int64)
        used, counts = np.unique(image[order], return_counts=True)
        return PersonAnnotations(
            images.where(used),
            np.concatenate([[0], np.cumsum(counts)]),
            self.columns.ids[rows[order]],
            self._clipped_boxes(rows[order]),
            keypoints[order],
        )

    def _clipped_boxes(self, rows: np.ndarray) -> np.ndarray:
        """(P, 4) float64 x, y, w, h in px of people, clipped to each person's image."""
        sizes = self.columns.sizes_of(self.columns.image_of[rows])
        return clip_box(self.columns.boxes[rows].astype(np.float64), *sizes.T)

    def ground_truth_boxes(self) -> Boxes:
        """The boxes of the persons whom the evaluation measures, each with score 1."""
        entry, rows = self._labelled
        measured = self.columns.num_keypoints[rows] > 0
        boxes = self._clipped_boxes(rows[measured])
        zeros = np.zeros(len(boxes), np.int64)
        return Boxes(self.images(), entry[measured], boxes, np.ones(len(boxes)), zeros)


def coco_index(annotations: dict[str, Any]) -> Any:
    """pycocotools' ``COCO`` over annotations in memory, without what it prints."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = annotations
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
