"""Renders the generated benchmark with Ray Data, in COCO's layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
import ray

from mipnet.config.schema import ScenesConfig
from mipnet.skeletons import COCO17
from mipnet.storage import Folder
from mipnet.synthetic import DIFFICULTIES, ScenePerson, detector_boxes, render_scene

BoxSource = Literal["det5", "union"]
BOX_SOURCES: tuple[BoxSource, ...] = get_args(BoxSource)
MANIFEST = "manifest.json"
SCENES_PER_TASK = 100
JPEG_QUALITY = 95
RENDERER_VERSION = 2
"""Increase it with any change of ``mipnet.synthetic`` that changes a pixel: cached benchmarks are redone."""
FILE_NAMES_VERSION = 2
"""Increase it whenever files of a benchmark are renamed: they are then rendered into another folder.

2: the split ``tune`` is called ``val``; its pixels are the same.
"""


@dataclass(frozen=True)
class Scenes:
    """``count`` scenes of a difficulty in a split; ``start`` keeps the splits' scenes apart."""

    split: str
    difficulty: str
    start: int
    count: int


def plan_scenes(config: ScenesConfig) -> list[Scenes]:
    """What each split holds: train mixes the difficulties as configured, val evenly, the others are one."""
    per_split = 10_000_000  # more scenes than a split can have
    train = dict(zip(DIFFICULTIES, (config.easy, config.medium, config.hard), strict=True))
    third = [config.validation // 3 + (i < config.validation % 3) for i in (2, 1, 0)]
    val = dict(zip(DIFFICULTIES, third, strict=True))
    parts = [Scenes("train", d, 0, n) for d, n in train.items()]
    parts += [Scenes("val", d, per_split, n) for d, n in val.items()]
    parts += [Scenes(d, d, 2 * per_split, config.validation) for d in DIFFICULTIES]
    return [part for part in parts if part.count]


def benchmark_name(config: ScenesConfig) -> str:
    """Folder name of a rendered benchmark: a hash of the settings and the renderer's version."""
    content = json.dumps([RENDERER_VERSION, JPEG_QUALITY, FILE_NAMES_VERSION, asdict(config)], sort_keys=True)
    return f"generated-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def generate(
    config: ScenesConfig, folder: Folder, progress: Callable[[int, int], None] = lambda done, of: None
) -> None:
    """Render the benchmark in COCO's layout.

    Args:
        config: number of scenes and seed.
        folder: receives the benchmark; the manifest is written last and marks it as complete.
        progress: called with (scenes done, scenes in total).
    """
    parts = plan_scenes(config)
    tasks = [
        (number, begin, min(begin + SCENES_PER_TASK, part.count))
        for number, part in enumerate(parts)
        for begin in range(0, part.count, SCENES_PER_TASK)
    ]
    rows = ray.data.range(len(tasks), override_num_blocks=len(tasks)).map_batches(
        render_task,
        batch_size=1,
        fn_kwargs={"tasks": tasks, "config": config, "folder": folder},
        num_cpus=1,
    )
    records: dict[str, list[dict[str, Any]]] = {}
    done, total = 0, sum(part.count for part in parts)
    for batch in rows.iter_batches(batch_size=None, batch_format="numpy"):  # as tasks end
        for part, at, record in zip(batch["part"], batch["at"].tolist(), batch["record"], strict=True):
            records.setdefault(parts[part].split, []).append({"at": at, **json.loads(record)})
        done += len(batch["at"])
        progress(done, total)
    for split, found in records.items():
        _write_split(folder, split, sorted(found, key=lambda record: record["at"]))
    counts = {split: len(found) for split, found in records.items()}
    manifest = {"version": RENDERER_VERSION, "scenes": asdict(config), "images": counts}
    folder.write(MANIFEST, json.dumps(manifest, indent=2) + "\n")


def render_task(
    batch: dict[str, np.ndarray], tasks: list[tuple[int, int, int]], config: ScenesConfig, folder: Folder
) -> dict[str, np.ndarray]:
    """Render and write the scenes of one task.

    Returns:
        per scene: index of its ``Scenes`` in the plan, sort key, and record as JSON.
    """
    cv2.setNumThreads(1)  # tasks are the parallelism
    number, begin, end = tasks[int(batch["id"][0])]
    part, seed, records = plan_scenes(config)[number], config.seed, []
    for i in range(begin, end):
        index = part.start + i
        scene = render_scene(part.difficulty, seed, index)
        name = f"{part.difficulty}_{i:06d}.jpg"
        bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
        _, content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        folder.write(f"{part.split}/{name}", content.tobytes(), durable=False)
        boxes = {kind: _box_records(*detector_boxes(scene, kind, seed, index)) for kind in BOX_SOURCES}
        people = [_person_record(person) for person in scene.people]
        records.append({"name": name, "size": scene.image.shape[1::-1], "people": people, "boxes": boxes})
    return {
        "part": np.full(end - begin, number),
        "at": number * 10_000_000 + np.arange(begin, end),
        "record": np.array([json.dumps(record) for record in records]),
    }


def _person_record(person: ScenePerson) -> dict[str, Any]:
    return {
        "bbox": np.round(person.box.astype(float), 2).tolist(),
        "area": round(float(person.area), 2),
        "keypoints": np.round(person.keypoints.astype(float), 2).ravel().tolist(),
        "num_keypoints": int((person.keypoints[:, 2] > 0).sum()),
        "segmentation": person.segmentation,
        "visible_fraction": round(float(person.visible_fraction), 4),
    }


def _box_records(boxes: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    return [
        {"bbox": np.round(box.astype(float), 2).tolist(), "score": round(float(score), 4)}
        for box, score in zip(boxes, scores, strict=True)
    ]


def _write_split(folder: Folder, split: str, records: list[dict[str, Any]]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    boxes: dict[BoxSource, list[dict[str, Any]]] = {kind: [] for kind in BOX_SOURCES}
    for image_id, record in enumerate(records, start=1):
        width, height = record["size"]
        images.append({"id": image_id, "file_name": record["name"], "width": width, "height": height})
        for person in record["people"]:
            common = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0}
            annotations.append(common | person)
        for kind in BOX_SOURCES:
            boxes[kind] += [{"image_id": image_id, "category_id": 1, **box} for box in record["boxes"][kind]]
    limbs = [[a + 1, b + 1] for a, b in COCO17.limbs]
    category = {"id": 1, "name": "person", "keypoints": list(COCO17.joints), "skeleton": limbs}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    folder.write(f"annotations/person_keypoints_{split}.json", json.dumps(content))
    for kind, found in boxes.items():
        folder.write(f"boxes/{kind}_{split}.json", json.dumps(found))
