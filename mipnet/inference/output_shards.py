"""Resumable prediction of any number of images, in shards: an interruption loses unfinished ones only.

A shard holds the predictions of 256 consecutive images. Its file is written atomically, and a shard whose
file exists is not predicted again, so every image is in the output exactly once, also after restarts; unless
one of its image files has changed since (``mipnet.data.fingerprints``), or could not be read and now can.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from mipnet.config import Config, to_dict
from mipnet.data.coco import Boxes
from mipnet.data.crops import read_image
from mipnet.data.fingerprints import (
    READING_THREADS,
    changed_files,
    file_of,
    from_table,
    take_fingerprints,
    to_table,
)
from mipnet.data.parquet import from_parquet, to_parquet
from mipnet.errors import UserError, first_few
from mipnet.storage import Folder, plain_uri

SHARDS_FOLDER, PLAN_FILE, FILES_RECORD = "parts", "plan.json", "images.fingerprints"
OWN_FILE = re.compile(rf"\d{{6}}\.parquet|{re.escape(PLAN_FILE)}|{re.escape(FILES_RECORD)}|.*\.part")
"""The last are those that a kill has left half written."""
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
        anew: whether the shards of another prediction have been removed.
    """

    folder: Folder
    images: int
    size: int
    done: frozenset[int]
    anew: bool = False

    @classmethod
    def open(
        cls,
        out: Folder,
        digest: str,
        uris: Sequence[str],
        size: int = IMAGES_PER_SHARD,
        name: str = SHARDS_FOLDER,
    ) -> OutputShards:
        """Continue the shards in ``out``, or start anew if they are of another prediction.

        Args:
            out: folder of the results.
            digest: of all inputs of the prediction, see ``predictions_digest``.
            uris: of the images to predict.
            size: images per shard of a new prediction.
            name: of the shards' folder in ``out``.

        Raises:
            UserError: that folder has other files, which would be removed.
        """
        folder, images = out.join(name), len(uris)
        plan: dict[str, Any] = {"digest": digest, "images": images, "size": size}
        try:
            found = json.loads(folder.read(PLAN_FILE))
        except (FileNotFoundError, ValueError):
            found = {}
        same = found.get("digest") == digest and found.get("images") == images
        if same:
            plan = found
        else:
            if found:
                logger.info("%s is of another prediction: starting anew", folder.uri)
            if foreign := [each for each in folder.names() if not OWN_FILE.fullmatch(each)]:
                what = f"{folder.uri} has files that are not of a prediction ({first_few(foreign)})"
                raise UserError(what, "give another folder with --out")
            out.remove(name)
            folder.write(PLAN_FILE, json.dumps(plan) + "\n")
        names = folder.names()  # one listing instead of a request per shard
        done = {int(name[:6]) for name in names if name.endswith(".parquet")}
        done -= _outdated(folder, uris, plan["size"])
        written = cls(folder, images, plan["size"], frozenset(done), anew=bool(found) and not same)
        shards = replace(written, done=written.done - _readable_again(written, uris))
        logger.info("%s: %d of %d shards are done", folder.uri, len(shards.done), len(shards))
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


def _readable_again(shards: OutputShards, uris: Sequence[str]) -> set[int]:
    """Numbers of the shards with an image that could not be read, as of a disk that failed, and now can."""
    unreadable: list[int] = []
    for number in sorted(shards.done):
        readable = shards.table(number, ["readable"])["readable"].to_pylist()
        images = shards.image_range(number)
        unreadable += [image for image, read in zip(images, readable, strict=True) if not read]
    with ThreadPoolExecutor(READING_THREADS) as threads:
        images_now = threads.map(lambda image: read_image(uris[image]) is not None, unreadable)
        again = [image for image, read in zip(unreadable, images_now, strict=True) if read]
    if again:
        logger.info("%d images can be read now: their shards are predicted again", len(again))
    return {image // shards.size for image in again}


def predictions_digest(
    boxes: Boxes, model: bytes, config: Config, names: Sequence[str] = (), detector: str = ""
) -> str:
    """SHA-256 of all inputs of a prediction but the pixels: settings, weights, boxes or the digest of the
    detector that finds them, and the images' URIs and names in the output."""
    settings = to_dict(config)
    settings = {key: settings[key] for key in ("model", "input", "data")}
    settings["evaluation"] = repr(config.evaluation)
    del settings["data"]["max_bad_share"]  # raising it continues a prediction that stopped at it
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update("\n".join([*map(str, boxes.images.uris), *names]).encode() + model)
    for table in (boxes.images.ids, boxes.image_index, boxes.boxes, boxes.scores):
        digest.update(table.tobytes())
    digest.update(detector.encode())
    return digest.hexdigest()


def known_corrupt_images(shards: OutputShards) -> list[str]:
    """Names of the images that earlier starts could not decode."""
    names: list[str] = []
    for number in sorted(shards.done):
        table = shards.table(number, ["file_name", "readable"])
        names += [row["file_name"] for row in table.to_pylist() if not row["readable"]]
    return names


def shard_table(
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
    """The table of ``shard_table`` with ``keep`` in each pose."""
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
