"""Resumable prediction of any number of images, in shards: an interruption loses unfinished ones only.

A shard holds the predictions of 256 consecutive images. Its file is written atomically, and a shard whose
file exists is not predicted again, so every image is in the output exactly once, also after restarts; unless
one of its image files has changed since (``mipnet.data.fingerprints``).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mipnet.config import Config, to_dict
from mipnet.config.schema import ResourcesConfig
from mipnet.data.coco import Boxes
from mipnet.data.fingerprints import changed_files, file_of, from_table, take_fingerprints, to_table
from mipnet.data.parquet import from_parquet, to_parquet
from mipnet.data.validation import check_readable
from mipnet.evaluation.predicted_poses import Predictions, merged_results
from mipnet.storage import Folder, plain_uri

SHARDS_FOLDER, PLAN_FILE, FILES_RECORD = "parts", "plan.json", "images.fingerprints"
IMAGES_PER_SHARD = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutputShards:
    """The output of a prediction that may have been interrupted.

    Attributes:
        folder: of the shard files.
        images: number of images to predict.
        size: images per shard.
        done: numbers of the shards that an earlier start has written.
    """

    folder: Folder
    images: int
    size: int
    done: frozenset[int]

    @classmethod
    def open(
        cls, out: Folder, digest: str, uris: Sequence[str], size: int = IMAGES_PER_SHARD
    ) -> OutputShards:
        """Continue the shards in ``out``, or start anew if they are of another prediction.

        Args:
            out: folder of the results.
            digest: of all inputs of the prediction, see ``predictions_digest``.
            uris: of the images to predict.
            size: images per shard of a new prediction.
        """
        folder, images = out.join(SHARDS_FOLDER), len(uris)
        plan: dict[str, Any] = {"digest": digest, "images": images, "size": size}
        try:
            found = json.loads(folder.read(PLAN_FILE))
        except (FileNotFoundError, ValueError):
            found = {}
        if found.get("digest") == digest and found.get("images") == images:
            plan = found
        else:
            if found:
                logger.info("%s is of another prediction: starting anew", folder.uri)
            out.remove(SHARDS_FOLDER)
            folder.write(PLAN_FILE, json.dumps(plan) + "\n")
        names = folder.names()  # one listing instead of a request per shard
        done = {int(name[:6]) for name in names if name.endswith(".parquet")}
        shards = cls(folder, images, plan["size"], frozenset(done - _outdated(folder, uris, plan["size"])))
        logger.info("%s: %d of %d shards are done", folder.uri, len(done), len(shards))
        return shards

    @property
    def resumed(self) -> int:
        """Images in the shards that an earlier start has written."""
        return sum(len(self.image_range(number)) for number in self.done)

    def __len__(self) -> int:
        return -(-self.images // self.size)

    def image_range(self, number: int) -> range:
        """Indices of the images of a shard."""
        return range(number * self.size, min((number + 1) * self.size, self.images))

    def file_name(self, number: int) -> str:
        return f"{number:06d}.parquet"

    def table(self, number: int, columns: list[str] | None = None) -> Any:
        """The Arrow table of a shard that is done; by default with all columns."""
        return from_parquet(self.folder.read(self.file_name(number)), columns)


def _outdated(folder: Folder, uris: Sequence[str], size: int) -> set[int]:
    """Remove the shards with an image whose file has changed since it was predicted; returns their numbers.

    Keeps the files' fingerprints for the next start; shards of versions that kept none stay.
    """
    files = {plain_uri(file): file for file in map(file_of, uris)}
    outdated: set[int] = set()
    if folder.exists(FILES_RECORD):
        try:
            changed = set(changed_files(from_table(folder.read(FILES_RECORD)), files))
        except (ValueError, KeyError):  # damaged, or of a version to come
            changed = set(files)
        if not changed:
            return outdated
        outdated = {i // size for i, uri in enumerate(uris) if plain_uri(file_of(uri)) in changed}
        logger.info("%d image files have changed: %d shards are predicted again", len(changed), len(outdated))
        for number in outdated:
            folder.remove(f"{number:06d}.parquet")
    folder.write(FILES_RECORD, to_table(take_fingerprints(files)))
    return outdated


def predictions_digest(boxes: Boxes, model: bytes, config: Config, names: Sequence[str] = ()) -> str:
    """SHA-256 of all inputs of a prediction but the pixels: settings, weights, boxes, and the images' URIs
    and names in the output."""
    settings = to_dict(config)
    settings = {key: settings[key] for key in ("model", "input", "data")}
    settings["evaluation"] = repr(config.evaluation)
    del settings["data"]["max_bad_share"]  # raising it continues a prediction that stopped at it
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update("\n".join([*map(str, boxes.images.uris), *names]).encode() + model)
    for table in (boxes.images.ids, boxes.image_index, boxes.boxes, boxes.scores):
        digest.update(table.tobytes())
    return digest.hexdigest()


def predict_shards(
    boxes: Boxes,
    shards: OutputShards,
    model: Folder,
    config: Config,
    resources: ResourcesConfig,
    *,
    progress: Callable[[int, int], None] = lambda done, of: None,
    names: Mapping[int, str] | None = None,
) -> list[str]:
    """Predict the shards that are not done yet, and write each when its last box is predicted.

    Args:
        boxes: of all images; nan for a box that is the whole image.
        shards: the output.
        model, config, resources: as for ``predict_poses``.
        progress: called with the number of images that are done and of all images.
        names: image index -> its name in the output; by default its URI.

    Returns:
        URIs (names, if an earlier start has met them) of the images that cannot be decoded.

    Raises:
        DataError: they are more than ``config.data.max_bad_share`` allows.
    """
    from mipnet.inference.pipeline import iter_predictions

    pending = _PendingShards(boxes, shards, config)
    known_corrupt = known_corrupt_images(shards)
    done = shards.resumed

    def completed() -> Iterator[int]:
        yield from [number for number, missing in pending.missing.items() if not missing]
        for batch in iter_predictions(boxes.where(pending.rows), model, config, resources):
            numbers = pending.add(batch)
            corrupt = [*known_corrupt, *pending.corrupt_uris]
            check_readable(corrupt, shards.images, config.data.max_bad_share)
            yield from numbers

    progress(done, shards.images)
    for number in completed():
        table = pending.pop_table(number, names or {})
        shards.folder.write(shards.file_name(number), to_parquet(table))
        done += len(shards.image_range(number))
        logger.debug("shard %d is written, %d of %d images are done", number, done, shards.images)
        progress(done, shards.images)
    return [*known_corrupt, *pending.corrupt_uris]


class _PendingShards:
    """Collects predictions, which come in any order, until their shards are complete.

    Attributes:
        rows: (R,) int64 indices of the boxes to predict.
        missing: shard number -> its boxes that are not predicted yet.
    """

    def __init__(self, boxes: Boxes, shards: OutputShards, config: Config) -> None:
        self._boxes, self._shards, self._config = boxes, shards, config
        self._shard_of = boxes.image_index // shards.size  # (B,)
        todo = [number for number in range(len(shards)) if number not in shards.done]
        self.rows = np.flatnonzero(np.isin(self._shard_of, todo))
        # Boxes are sorted by image, so those of shard i are starts[i] to starts[i + 1].
        self._starts = np.searchsorted(self._shard_of, np.arange(len(shards) + 1))
        self.missing = {number: int(self._starts[number + 1] - self._starts[number]) for number in todo}
        self._keypoints: dict[int, np.ndarray] = {}
        self._bbox = boxes.boxes.copy()
        self._corrupt: set[int] = set()

    @property
    def corrupt_uris(self) -> list[str]:
        """URIs of the images that this start could not decode."""
        return [str(self._boxes.images.uris[i]) for i in sorted(self._corrupt)]

    def add(self, batch: Mapping[str, np.ndarray]) -> list[int]:
        """Take a batch of ``iter_predictions``; returns the shards that it completes."""
        rows = self.rows[batch["box"]]
        self._bbox[rows] = batch["bbox"]
        self._corrupt.update(self._boxes.image_index[rows[batch["corrupt"]]].tolist())
        numbers = np.unique(self._shard_of[rows]).tolist()
        for number in numbers:
            here = self._shard_of[rows] == number
            if number not in self._keypoints:
                self._keypoints[number] = self._empty(self.missing[number], np.nan)
            self._keypoints[number][rows[here] - self._starts[number]] = batch["keypoints"][here]
            self.missing[number] -= int(here.sum())
        return [number for number in numbers if not self.missing[number]]

    def pop_table(self, number: int, names: Mapping[int, str]) -> Any:
        """The Arrow table of a complete shard, whose keypoints are released."""
        rows = np.arange(self._starts[number], self._starts[number + 1])
        keypoints = self._keypoints.pop(number, self._empty(len(rows), 0))
        poses = Predictions(replace(self._boxes, boxes=self._bbox).where(rows), keypoints, [])
        results = merged_results(poses.where(~np.isnan(keypoints[:, 0, 0, 0])), self._config)
        return _shard_table(self._boxes, self._shards.image_range(number), results, self._corrupt, names)

    def _empty(self, boxes: int, value: float) -> np.ndarray:
        n, k = self._config.model.instances, self._config.data.joints.num_joints
        return np.full((boxes, n, k, 3), value, np.float32)


def known_corrupt_images(shards: OutputShards) -> list[str]:
    """Names of the images that earlier starts could not decode."""
    names: list[str] = []
    for number in sorted(shards.done):
        table = shards.table(number, ["file_name", "readable"])
        names += [row["file_name"] for row in table.to_pylist() if not row["readable"]]
    return names


def _shard_table(
    boxes: Boxes, images: range, results: list[dict[str, Any]], corrupt: set[int], names: Mapping[int, str]
) -> Any:
    """Arrow table, a row per image: image_id, file_name, readable, and its poses, best first."""
    import pyarrow as pa

    numbers = pa.list_(pa.float64())
    pose = pa.struct({"instance": pa.int32(), "score": pa.float64(), "box": numbers, "keypoints": numbers})
    image = {"image_id": pa.int64(), "file_name": pa.string(), "readable": pa.bool_()}
    schema = pa.schema({**image, "poses": pa.list_(pose)})
    by_image: dict[int, list[dict[str, Any]]] = {}
    for result in results:
        by_image.setdefault(result["image_id"], []).append({name: result[name] for name in pose.names})
    ids = boxes.images.ids[images.start : images.stop].tolist()
    rows = []
    for i, image_id in zip(images, ids, strict=True):
        name, poses = names.get(i, str(boxes.images.uris[i])), by_image.get(image_id, [])
        rows.append({"image_id": image_id, "file_name": name, "readable": i not in corrupt, "poses": poses})
    return pa.Table.from_pylist(rows, schema=schema)


@dataclass(frozen=True)
class Written:
    """How much ``write_predictions`` wrote: the number of poses, of those that are kept, and of images."""

    poses: int
    kept: int
    images: int


def write_predictions(
    shards: OutputShards,
    out: Folder,
    own_id: Callable[[int], Any] = lambda image_id: image_id,
    category_id: Any = 1,
    min_score: float = -math.inf,
) -> Written:
    """Write all shards as ``results.parquet`` and, in COCO's format, ``results.json``.

    Both have all poses, each with ``keep``: whether its score is ``min_score`` or more.

    Args:
        shards: all done.
        out: folder of the results.
        own_id: an image id of the shards -> as people wrote it; if one is another, all are text in the table.
        category_id: of the results.
        min_score: least score of a pose that is kept.
    """
    import pyarrow as pa

    tables = (shards.table(number) for number in range(len(shards)))
    whole = _with_keep(pa.concat_tables(tables), min_score)
    numbers = whole["image_id"].to_pylist()
    ids = [own_id(number) for number in numbers]
    results = []
    for image_id, row in zip(ids, whole.to_pylist(), strict=True):
        both = {"image_id": image_id, "category_id": category_id}
        for pose in row["poses"]:
            values = {name: pose[name] for name in ("keypoints", "score", "instance", "box", "keep")}
            results.append({**both, **values, "file_name": row["file_name"]})
    if ids != numbers:
        whole = whole.set_column(0, "image_id", pa.array([str(image_id) for image_id in ids]))
    out.write("results.parquet", to_parquet(whole))
    out.write("results.json", json.dumps(results, indent=1))
    return Written(len(results), sum(result["keep"] for result in results), whole.num_rows)


def _with_keep(table: Any, min_score: float) -> Any:
    """The table of ``_shard_table`` with ``keep`` in each pose."""
    import pyarrow as pa
    import pyarrow.compute as pc

    place = table.schema.get_field_index("poses")
    lists = pa.concat_arrays(table.column(place).chunks)
    poses = lists.flatten()
    fields = {field.name: poses.field(i) for i, field in enumerate(poses.type)}
    fields["keep"] = pc.greater_equal(fields["score"], min_score)
    offsets = pc.subtract(lists.offsets, lists.offsets[0])
    column = pa.ListArray.from_arrays(
        offsets, pa.StructArray.from_arrays(list(fields.values()), list(fields))
    )
    return table.set_column(place, "poses", column)
