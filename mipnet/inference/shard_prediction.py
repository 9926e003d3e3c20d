"""Predict the shards of an output that are not done yet, in boxes that are known or found by a detector."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from mipnet.config import Config
from mipnet.config.schema import ResourcesConfig
from mipnet.data.coco import Boxes
from mipnet.data.parquet import to_parquet
from mipnet.data.validation import check_readable
from mipnet.evaluation.predicted_poses import Predictions, merged_results
from mipnet.inference.detected_boxes import Detection, boxes_found, boxes_table
from mipnet.inference.output_shards import OutputShards, known_corrupt_images, shard_table
from mipnet.storage import Folder

logger = logging.getLogger(__name__)

Block = dict[str, np.ndarray]


def predict_shards(
    boxes: Boxes,
    shards: OutputShards,
    model: Folder,
    config: Config,
    resources: ResourcesConfig,
    *,
    progress: Callable[[int, int], None] = lambda done, of: None,
    names: Mapping[int, str] | None = None,
    detection: Detection | None = None,
) -> list[str]:
    """Predict the shards that are not done yet, and write each when its last box is predicted.

    Args:
        boxes: of all images; nan for a box that is the whole image.
        shards: the output.
        model, config, resources: as for ``predict_poses``.
        progress: called with the number of images that are done and of all images.
        names: image index -> its name in the output; by default its URI.
        detection: finds the people instead of ``boxes``, of which only the images then count, where an
            earlier start has not; what it finds is kept in its shards.

    Returns:
        URIs (names, if an earlier start has met them) of the images that cannot be decoded.

    Raises:
        DataError: they are more than ``config.data.max_bad_share`` allows.
    """
    if detection:
        boxes = boxes_found(detection.shards, boxes.images, config.data)
    searched = set(range(len(shards))) - detection.shards.done if detection else set()
    pending = _PendingShards(boxes, shards, config, searched, detected=detection is not None)
    known_corrupt = known_corrupt_images(shards)
    done = shards.resumed
    progress(done, shards.images)
    for number in _completed(pending, model, config, resources, detection):
        check_readable([*known_corrupt, *pending.corrupt_uris], shards.images, config.data.max_bad_share)
        if number is None:
            continue
        rows = pending.pop(number)
        if detection and number in searched:
            found = boxes_table(rows, shards.image_range(number))
            detection.shards.folder.write(detection.shards.file_name(number), to_parquet(found))
        table = pending.table(number, rows, names or {})
        shards.folder.write(shards.file_name(number), to_parquet(table))
        done += len(shards.image_range(number))
        logger.debug("shard %d is written, %d of %d images are done", number, done, shards.images)
        progress(done, shards.images)
    return [*known_corrupt, *pending.corrupt_uris]


def _completed(
    pending: _PendingShards,
    model: Folder,
    config: Config,
    resources: ResourcesConfig,
    detection: Detection | None,
) -> Iterator[int | None]:
    """Numbers of shards as they are completed; None after a batch that completes none."""
    from mipnet.inference.detection_stage import iter_found_predictions
    from mipnet.inference.pipeline import iter_predictions

    nothing: list[int | None] = [None]
    yield from pending.empty
    for batch in iter_predictions(pending.known, model, config, resources):
        yield from pending.add(pending.as_found(batch)) or nothing
    if detection and len(pending.searched):
        images = pending.known.images
        for batch in iter_found_predictions(
            images, pending.searched, detection, model=model, config=config, resources=resources
        ):
            yield from pending.add(batch) or nothing


class _PendingShards:
    """Collects predictions, which come in any order, until their shards are complete.

    Attributes:
        known: the boxes to predict that are known.
        searched: (I,) int64 indices of the images in which people have to be found.
        empty: numbers of the shards without anything to predict.
    """

    def __init__(
        self, boxes: Boxes, shards: OutputShards, config: Config, searched: set[int], detected: bool
    ) -> None:
        self._shards, self._config, self._detected = shards, config, detected
        todo = [number for number in range(len(shards)) if number not in shards.done]
        listed = [shards.image_range(number) for number in todo if number in searched]
        self.searched = np.array([i for images in listed for i in images], np.int64)
        unsearched = [number for number in todo if number not in searched]
        self.known = boxes.where(np.flatnonzero(np.isin(boxes.image_index // shards.size, unsearched)))
        self._counts = np.bincount(self.known.image_index, minlength=len(boxes.images))
        awaited = np.union1d(np.unique(self.known.image_index), self.searched)
        self._missing = {number: int((awaited // shards.size == number).sum()) for number in todo}
        self.empty = [number for number, missing in self._missing.items() if not missing]
        self._seen: dict[int, int] = {}  # image -> its rows
        self._rows: dict[int, list[Block]] = {}
        self._corrupt: set[int] = set()

    @property
    def corrupt_uris(self) -> list[str]:
        """URIs of the images that this start could not decode."""
        return [str(self.known.images.uris[i]) for i in sorted(self._corrupt)]

    def as_found(self, batch: Mapping[str, np.ndarray]) -> Block:
        """A batch of ``iter_predictions`` as one of ``iter_found_predictions``."""
        image, order = self.known.image_index[batch["box"]], batch["box"]
        score, corrupt = self.known.scores[order], batch["corrupt"]
        if self._detected:  # a picture that the detector could not read, even if it can be read now
            corrupt = corrupt | np.isnan(self.known.boxes[order]).any(axis=1)
        of_image = {"image": image, "order": order, "count": self._counts[image]}
        return {**of_image, "score": score, "used": ~corrupt, **batch, "corrupt": corrupt}

    def add(self, batch: Block) -> list[int]:
        """Take a batch of ``iter_found_predictions``; returns the shards that it completes."""
        self._corrupt.update(batch["image"][batch["corrupt"]].tolist())
        number_of = batch["image"] // self._shards.size
        completed = []
        for number in np.unique(number_of).tolist():
            here = number_of == number
            self._rows.setdefault(number, []).append({name: column[here] for name, column in batch.items()})
            images, first, rows = np.unique(batch["image"][here], return_index=True, return_counts=True)
            counts = batch["count"][here][first]
            for image, count, seen in zip(images.tolist(), counts.tolist(), rows.tolist(), strict=True):
                self._seen[image] = self._seen.get(image, 0) + seen
                self._missing[number] -= self._seen[image] == max(count, 1)
            if not self._missing[number]:
                completed.append(number)
        return completed

    def pop(self, number: int) -> Block:
        """The rows of a complete shard, by image and order, which are released."""
        blocks = self._rows.pop(number, [])
        if not blocks:
            return {}
        rows = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        order = np.lexsort((rows["order"], rows["image"]))
        return {name: column[order] for name, column in rows.items()}

    def table(self, number: int, rows: Block, names: Mapping[int, str]) -> Any:
        """The Arrow table of the poses of a complete shard."""
        results: list[dict[str, Any]] = []
        if rows:
            there = rows["used"] & ~np.isnan(rows["keypoints"][:, 0, 0, 0])
            image, bbox, score = (rows[name][there] for name in ("image", "bbox", "score"))
            boxes = Boxes(self.known.images, image, bbox, score, np.zeros(len(image), np.int64))
            results = merged_results(Predictions(boxes, rows["keypoints"][there], []), self._config)
        return shard_table(self.known, self._shards.image_range(number), results, self._corrupt, names)
