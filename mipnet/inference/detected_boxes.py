"""The boxes that a detector has found, kept in shards of their own and as a COCO file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mipnet.config.schema import DataConfig
from mipnet.data.coco import Boxes
from mipnet.data.image_index import ImageIndex
from mipnet.inference.detector import DetectorFile, Found
from mipnet.inference.detector_layouts import Letterbox
from mipnet.inference.output_shards import IMAGES_PER_SHARD, OutputShards
from mipnet.storage import Folder

BOXES_FILE, DETECTIONS_FOLDER = "boxes.json", "detections"


@dataclass(frozen=True)
class Detection:
    """A detector in front of a prediction.

    Attributes:
        file: the detector.
        frame: how a picture is fitted into its input.
        shards: of the boxes that it has found, by the same images as those of the poses. They go on to be
            valid where another network, or other settings, predict in the same boxes.
    """

    file: DetectorFile
    frame: Letterbox
    shards: OutputShards

    @classmethod
    def open(cls, file: DetectorFile, frame: Letterbox, out: Folder, images: Sequence[str]) -> Detection:
        """With the boxes of an earlier start in ``out`` that are of the same detector and image URIs."""
        digest = hashlib.sha256("\n".join([file.digest, *images]).encode()).hexdigest()
        return cls(
            file, frame, OutputShards.open(out, digest, images, IMAGES_PER_SHARD, name=DETECTIONS_FOLDER)
        )


def boxes_table(rows: dict[str, np.ndarray], images: range) -> Any:
    """Arrow table of a shard, a row per image: readable, and the boxes and scores of the people found.

    Args:
        rows: of ``iter_found_predictions``, by image and order.
        images: indices of the images.
    """
    import pyarrow as pa

    numbers = pa.list_(pa.float64())
    schema = pa.schema({"readable": pa.bool_(), "boxes": pa.list_(numbers), "scores": numbers})
    table = []
    for image in images:
        here = slice(*np.searchsorted(rows["image"], [image, image + 1]))
        count = int(rows["count"][here][0])
        boxes, scores = rows["bbox"][here][:count].tolist(), rows["score"][here][:count].tolist()
        table.append({"readable": not rows["corrupt"][here].any(), "boxes": boxes, "scores": scores})
    return pa.Table.from_pylist(table, schema=schema)


def boxes_found(shards: OutputShards, images: ImageIndex, data: DataConfig) -> Boxes:
    """The boxes of the shards that are done, without those that the thresholds leave out.

    An image that could not be read has one box, nan: it is a row of the output without poses.
    """
    rows: list[tuple[int, list[float], float]] = []
    for number in sorted(shards.done):
        for image, row in zip(shards.image_range(number), shards.table(number).to_pylist(), strict=True):
            boxes, scores = np.array(row["boxes"], np.float64).reshape(-1, 4), np.array(row["scores"])
            found = Found(boxes, scores)
            found = found.where(found.kept(data.box_score_threshold, data.box_nms))
            rows += [(image, *pair) for pair in zip(found.boxes.tolist(), found.scores.tolist(), strict=True)]
            rows += [] if row["readable"] else [(image, [np.nan] * 4, 1.0)]
    return Boxes(
        images,
        np.array([image for image, _, _ in rows], np.int64),
        np.array([box for _, box, _ in rows], np.float64).reshape(-1, 4),
        np.array([score for _, _, score in rows], np.float64),
        np.zeros(len(rows), np.int64),
    )


def write_boxes(
    shards: OutputShards, out: Folder, names: Sequence[str], ids: Sequence[Any], category_id: Any
) -> int:
    """Write all boxes as COCO detections with ``file_name``, as ``--boxes`` reads them.

    Args:
        shards: all done.
        out: folder of the file.
        names: of the images.
        ids: of the images, as people wrote them.
        category_id: of persons.

    Returns:
        number of boxes.
    """
    entries = []
    for number in range(len(shards)):
        for image, row in zip(shards.image_range(number), shards.table(number).to_pylist(), strict=True):
            where = {"image_id": ids[image], "file_name": names[image], "category_id": category_id}
            pairs = zip(row["boxes"], row["scores"], strict=True)
            entries += [{**where, "bbox": box, "score": score} for box, score in pairs]
    out.write(BOXES_FILE, json.dumps(entries, indent=1))
    return len(entries)
