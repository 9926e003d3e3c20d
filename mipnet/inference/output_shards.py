"""Prediction over any number of images, written part by part, so that an interruption loses one part at most.

A part is the next so many images; its file is there as a whole or not at all, and what is there is not
done again. So every image is in the output exactly once, however often the job is started.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mipnet.config import Config, to_dict
from mipnet.config.schema import ResourcesConfig
from mipnet.data.coco import Boxes
from mipnet.data.parquet import from_parquet, to_parquet
from mipnet.data.validation import check_readable
from mipnet.evaluation.predicted_poses import Poses, merged_results
from mipnet.storage import Folder

PARTS, PLAN = "parts", "plan.json"
IMAGES_PER_PART = 256


@dataclass(frozen=True)
class Parts:
    """The output of a prediction in the making.

    Attributes:
        folder: of the part files.
        images: how many there are to predict in all.
        size: of a part, in images.
        done: the parts that an earlier start has written.
    """

    folder: Folder
    images: int
    size: int
    done: frozenset[int]

    @classmethod
    def open(cls, out: Folder, digest: str, images: int, size: int = IMAGES_PER_PART) -> Parts:
        """Go on with what is in ``out``, or begin anew if that was something else.

        Args:
            out: folder of the results.
            digest: of all that decides the results, see ``digest_of``.
            images: how many.
            size: of a part, where there is none yet.
        """
        folder = out.join(PARTS)
        plan: dict[str, Any] = {"digest": digest, "images": images, "size": size}
        try:
            found = json.loads(folder.read(PLAN))
        except (FileNotFoundError, ValueError):
            found = {}
        if found.get("digest") == digest and found.get("images") == images:
            plan = found
        else:
            out.remove(PARTS)
            folder.write(PLAN, json.dumps(plan) + "\n")
        there = folder.names()  # one listing, not a question for each part
        done = frozenset(int(name[:6]) for name in there if name.endswith(".parquet"))
        return cls(folder, images, plan["size"], done)

    @property
    def resumed(self) -> int:
        """Images that an earlier start has done."""
        return sum(len(self.range(number)) for number in self.done)

    def __len__(self) -> int:
        return -(-self.images // self.size)

    def range(self, number: int) -> range:
        """The images of a part."""
        return range(number * self.size, min((number + 1) * self.size, self.images))

    def name(self, number: int) -> str:
        return f"{number:06d}.parquet"

    def read(self) -> Iterator[Any]:
        """The tables of all parts, in order."""
        for number in range(len(self)):
            yield from_parquet(self.folder.read(self.name(number)))


def digest_of(boxes: Boxes, model: bytes, config: Config) -> str:
    """Of all that decides the results, but for the pixels."""
    settings = to_dict(config)
    settings = {key: settings[key] for key in ("model", "input", "data")}
    settings["evaluation"] = repr(config.evaluation)
    del settings["data"]["max_bad_share"]  # who raises it means to go on
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update("\n".join(map(str, boxes.images.uris)).encode() + model)
    for table in (boxes.images.ids, boxes.image, boxes.boxes, boxes.scores):
        digest.update(table.tobytes())
    return digest.hexdigest()


def predict_parts(
    boxes: Boxes,
    parts: Parts,
    model: Folder,
    config: Config,
    resources: ResourcesConfig,
    progress: Callable[[int, int], None] = lambda done, of: None,
    names: Mapping[int, str] | None = None,
) -> list[str]:
    """Predict what is not done yet, and write each part when its last box is answered.

    Args:
        boxes: of all images; nan for a box that is the whole image.
        parts: where to write.
        model, config, resources: as for ``predict_poses``.
        progress: told how many images of how many are done.
        names: what an image is called in the output, where not by its URI; by index.

    Returns:
        the images that could not be read, of all starts.

    Raises:
        DataError: more of them than ``config.data.max_bad_share`` allows.
    """
    from mipnet.inference.pipeline import answers

    names = names or {}
    part_of = boxes.image // parts.size
    open_parts = [number for number in range(len(parts)) if number not in parts.done]
    wanted = np.flatnonzero(np.isin(part_of, open_parts))
    starts = np.searchsorted(part_of, np.arange(len(parts) + 1))  # boxes are sorted by image
    waiting = {number: int(starts[number + 1] - starts[number]) for number in open_parts}
    n, k = config.model.instances, config.data.joints.num_joints
    keypoints: dict[int, np.ndarray] = {}
    found = boxes.boxes.copy()
    unreadable = known_unreadable(parts)
    bad: set[int] = set()
    done = parts.resumed

    def finish(number: int) -> None:
        nonlocal done
        images, rows = parts.range(number), np.arange(starts[number], starts[number + 1])
        values = keypoints.pop(number, np.zeros((len(rows), n, k, 3), np.float32))
        poses = Poses(replace(boxes, boxes=found).where(rows), values, [])
        results = merged_results(poses.where(~np.isnan(values[:, 0, 0, 0])), config)
        table = as_table(boxes, images, results, bad, names)
        parts.folder.write(parts.name(number), to_parquet(table))
        done += len(images)
        progress(done, parts.images)

    progress(done, parts.images)
    for number in [number for number, boxes_left in waiting.items() if not boxes_left]:
        finish(number)
    for batch in answers(boxes.where(wanted), model, config, resources):
        rows = wanted[batch["box"]]
        found[rows] = batch["bbox"]
        bad.update(boxes.image[rows[batch["corrupt"]]].tolist())
        check_readable([*unreadable, *named(boxes, bad)], parts.images, config.data.max_bad_share)
        for number in np.unique(part_of[rows]).tolist():
            here = part_of[rows] == number
            if number not in keypoints:
                keypoints[number] = np.full((waiting[number], n, k, 3), np.nan, np.float32)
            keypoints[number][rows[here] - starts[number]] = batch["keypoints"][here]
            waiting[number] -= int(here.sum())
            if waiting[number] == 0:
                finish(number)
    return [*unreadable, *named(boxes, bad)]


def named(boxes: Boxes, images: set[int]) -> list[str]:
    return [str(boxes.images.uris[i]) for i in sorted(images)]


def known_unreadable(parts: Parts) -> list[str]:
    """The images that earlier starts could not read."""
    names: list[str] = []
    for number in sorted(parts.done):
        table = from_parquet(parts.folder.read(parts.name(number)), ["file_name", "readable"])
        names += [row["file_name"] for row in table.to_pylist() if not row["readable"]]
    return names


def as_table(
    boxes: Boxes,
    images: range,
    results: list[dict[str, Any]],
    bad: set[int],
    names: Mapping[int, str],
) -> Any:
    """One row per image: image_id, file_name, readable, and its poses, best first."""
    import pyarrow as pa

    pose = pa.struct(
        [
            ("instance", pa.int32()),
            ("score", pa.float64()),
            ("box", pa.list_(pa.float64())),
            ("keypoints", pa.list_(pa.float64())),
        ]
    )
    schema = pa.schema(
        [
            ("image_id", pa.int64()),
            ("file_name", pa.string()),
            ("readable", pa.bool_()),
            ("poses", pa.list_(pose)),
        ]
    )
    by_image: dict[int, list[dict[str, Any]]] = {}
    for result in results:
        by_image.setdefault(result["image_id"], []).append({name: result[name] for name in pose.names})
    ids = boxes.images.ids[images.start : images.stop].tolist()
    rows = [
        {
            "image_id": image_id,
            "file_name": names.get(i, str(boxes.images.uris[i])),
            "readable": i not in bad,
            "poses": by_image.get(image_id, []),
        }
        for i, image_id in zip(images, ids, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def write_outcome(parts: Parts, out: Folder, category_id: int = 1) -> tuple[int, int]:
    """All parts as ``results.parquet`` and, in COCO's format, ``results.json``.

    Returns:
        how many poses, of how many images.
    """
    import pyarrow as pa

    tables = list(parts.read())
    whole = pa.concat_tables(tables)
    results = [
        {
            "image_id": row["image_id"],
            "category_id": category_id,
            **{name: pose[name] for name in ("keypoints", "score", "instance", "box")},
            "file_name": row["file_name"],
        }
        for row in whole.to_pylist()
        for pose in row["poses"]
    ]
    out.write("results.parquet", to_parquet(whole))
    out.write("results.json", json.dumps(results, indent=1))
    return len(results), whole.num_rows
