"""Prediction with a detector in front: pictures to people to crops to poses, in one pass.

On Ray Data its stages are tasks that decode pictures, actors with the detector, tasks that cut crops, and
actors with the pose network; in this process the same functions run one after the other. A picture is decoded
twice, for the detector and for its crops, because whole pictures would fill the object store.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import ray
from ray.data import ActorPoolStrategy

from mipnet.config import Config
from mipnet.config.schema import DataConfig, ResourcesConfig
from mipnet.data.coco import Boxes
from mipnet.data.crops import labelled_image
from mipnet.data.image_index import ImageIndex
from mipnet.data.stream import apply_execution_options
from mipnet.host import cores
from mipnet.inference.detected_boxes import Detection
from mipnet.inference.detector import Detector, DetectorFile, Found, cuda_is_available
from mipnet.inference.detector_layouts import Letterbox
from mipnet.inference.pipeline import (
    Block,
    PosePredictor,
    load_crops,
    prediction_workers,
    should_run_inline,
)
from mipnet.storage import Folder

PICTURES_PER_BATCH = 16
"""Of the detector: its inputs take about 1 MB each."""
GPU_SHARE = 0.5
"""Of each actor, where both networks compute on the same GPUs."""


def iter_found_predictions(
    images: ImageIndex,
    index: np.ndarray,
    detection: Detection,
    *,
    model: Folder,
    config: Config,
    resources: ResourcesConfig,
) -> Iterator[Block]:
    """Find the people in images and predict their poses, in no particular order.

    Args:
        images: of which some are looked at.
        index: (I,) int64 their indices.
        detection: the detector.
        model, config, resources: as for ``predict_poses``.

    Yields:
        blocks of R rows, one for each box; a picture without a person has one row, too. image (R,) int64
        index; order (R,) int64 of the box among those of the image, whose number is count (R,); bbox (R, 4)
        float64 x, y, w, h in px, score (R,); used (R,) bool: a person whose pose is predicted, neither
        nobody nor left out by the thresholds of ``config.data``; keypoints (R, N, K, 3) float32, nan where
        not used; corrupt (R,) bool.
    """
    resources = replace(resources, predict_workers=prediction_workers(resources, ray.nodes()))
    gpu = resources.gpu is True
    network = model, config.evaluation, gpu, resources.cpus_per_worker
    crop_arguments = images, config.input.size, config.input.padding
    if should_run_inline(resources, ray.nodes()):
        predictor = PosePredictor(*network)
        for people in find_people(images, index, detection, config.data, resources):
            for begin in range(0, len(people["image"]), config.evaluation.batch_size):
                rows = slice(begin, begin + config.evaluation.batch_size)
                batch = {name: column[rows] for name, column in people.items()}
                yield predictor(crop_people(batch, *crop_arguments))
        return
    dataset = (
        people_dataset(images, index, detection, config.data, resources)
        .map_batches(
            crop_people_task, batch_size=None, fn_kwargs={"shared": ray.put(crop_arguments)}, num_cpus=1
        )
        .map_batches(
            PosePredictor,
            fn_constructor_args=network,
            batch_size=config.evaluation.batch_size,
            num_gpus=(GPU_SHARE if cuda_is_available() else 1) if gpu else 0,
            **_actors(resources),
        )
    )
    dataset = apply_execution_options(dataset, preserve_order=False)
    yield from dataset.iter_batches(batch_size=None, batch_format="numpy")


def find_people(
    images: ImageIndex, index: np.ndarray, detection: Detection, data: DataConfig, resources: ResourcesConfig
) -> Iterator[Block]:
    """The blocks of ``PeopleFinder`` for images (I,), computed in this process."""
    finder = PeopleFinder(detection.file, data, resources.gpu is True, _threads(resources))
    for start in range(0, len(index), PICTURES_PER_BATCH):
        yield finder(fit_pictures(index[start : start + PICTURES_PER_BATCH], images, detection.frame))


def people_dataset(
    images: ImageIndex, index: np.ndarray, detection: Detection, data: DataConfig, resources: ResourcesConfig
) -> ray.data.Dataset:
    """What ``find_people`` yields, in another order, computed by ``resources.predict_workers`` actors."""
    on_gpu = resources.gpu is True and cuda_is_available()
    pictures = ray.put((index, images, detection.frame))
    return (
        ray.data.range(len(index), override_num_blocks=math.ceil(len(index) / PICTURES_PER_BATCH))
        .map_batches(fit_pictures_task, batch_size=None, fn_kwargs={"shared": pictures}, num_cpus=1)
        .map_batches(
            PeopleFinder,
            fn_constructor_args=(ray.put(detection.file), data, on_gpu, _threads(resources)),
            batch_size=PICTURES_PER_BATCH,
            num_gpus=GPU_SHARE if on_gpu else 0,
            **_actors(resources),
        )
    )


def _threads(resources: ResourcesConfig) -> int:
    return resources.cpus_per_worker or cores()


def _actors(resources: ResourcesConfig) -> dict[str, Any]:
    """Half a CPU for each actor, so that the smallest cluster, of two, has one left for the tasks."""
    pool = ActorPoolStrategy(min_size=1, max_size=resources.predict_workers)
    return {"compute": pool, "num_cpus": 0.5}


def fit_pictures_task(batch: Block, shared: Any) -> Block:
    """``fit_pictures`` as a Ray Data task; ``shared`` refers to all indices and its other arguments."""
    cv2.setNumThreads(1)  # Ray runs one task per core
    index, *others = ray.get(shared)
    return fit_pictures(index[batch["id"]], *others)


def fit_pictures(index: np.ndarray, images: ImageIndex, frame: Letterbox) -> Block:
    """Decode images (n,) and fit them into the detector's input; a corrupt one is black.

    Returns:
        input (n, h, w, 3) uint8 RGB; size (n, 2) int64 width and height in px; image (n,); corrupt (n,) bool.
    """
    inputs = np.zeros((len(index), frame.size[1], frame.size[0], 3), np.uint8)
    sizes, corrupt = np.ones((len(index), 2), np.int64), np.zeros(len(index), bool)
    for row, image in enumerate(index.tolist()):
        pixels = labelled_image(images, image)
        if pixels is None:
            corrupt[row] = True
            continue
        inputs[row], sizes[row] = frame.fit(pixels), pixels.shape[1::-1]
    return {"input": inputs, "size": sizes, "image": index, "corrupt": corrupt}


class PeopleFinder:
    """The detector of a Ray Data actor, or of this process: maps blocks of pictures to blocks of people.

    Args:
        file: the detector, or a reference to it.
        data: thresholds that leave people out.
        gpu, threads: as for ``Detector``.
    """

    def __init__(self, file: DetectorFile | ray.ObjectRef, data: DataConfig, gpu: bool, threads: int) -> None:
        self._detector = Detector(file if isinstance(file, DetectorFile) else ray.get(file), gpu, threads)
        self._data = data

    def __call__(self, batch: Block) -> Block:
        sizes = [(int(width), int(height)) for width, height in batch["size"]]
        found = self._detector.find(batch["input"], sizes)
        parts = []
        for image, corrupt, each in zip(batch["image"], batch["corrupt"], found, strict=True):
            people = Found.nobody() if corrupt else each
            count = len(people.scores)
            used = np.isin(np.arange(count), people.kept(self._data.box_score_threshold, self._data.box_nms))
            part = {"order": np.arange(count), "bbox": people.boxes, "score": people.scores, "used": used}
            if not count:
                nowhere = {"bbox": np.full((1, 4), np.nan), "score": np.zeros(1), "used": np.zeros(1, bool)}
                part = {"order": np.zeros(1, np.int64), **nowhere}
            same = {"image": image, "count": count, "corrupt": corrupt}
            parts.append(part | {name: np.full(max(count, 1), value) for name, value in same.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def crop_people_task(batch: Block, shared: Any) -> Block:
    """``crop_people`` as a Ray Data task; ``shared`` is a reference to its other arguments."""
    cv2.setNumThreads(1)
    return crop_people(batch, *ray.get(shared))


def crop_people(people: Block, images: ImageIndex, input_size: tuple[int, int], padding: float) -> Block:
    """The crops of people, black where their poses are not predicted; adds crop, center, size as
    ``load_crops`` returns them."""
    width, height = input_size
    rows, used = len(people["image"]), np.flatnonzero(people["used"])
    block: Block = {
        "crop": np.zeros((rows, height, width, 3), np.uint8),
        "center": np.zeros((rows, 2), np.float32),
        "size": np.ones((rows, 2), np.float32),
    }
    used = used[np.argsort(people["image"][used], kind="stable")]
    image_index, boxes = people["image"][used], people["bbox"][used]
    if len(used):
        zeros = np.zeros(len(used), np.int64)
        known = Boxes(images, image_index, boxes, people["score"][used], zeros)
        there = np.unique(image_index)
        crops = load_crops(np.arange(len(there)), known, input_size, padding, there)
        for name, column in block.items():
            column[used[crops["box"]]] = crops[name]
    return {**people, **block}
