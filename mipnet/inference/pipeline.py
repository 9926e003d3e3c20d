"""Prediction: decode each image once, crop all boxes, run the network; in this process or on Ray Data.

Validation, ``mipnet evaluate`` and ``mipnet predict`` all use it. No box is dropped: ``predict_poses`` fails
unless every box is predicted or its image is known to be corrupt.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import ray
from ray.data import ActorPoolStrategy

from mipnet.config import Config
from mipnet.config.schema import EvaluationConfig, ResourcesConfig
from mipnet.data.coco import Boxes, CocoKeypointFile
from mipnet.data.crops import crop_boxes, labelled_images
from mipnet.data.dataset_formats import load_boxes
from mipnet.data.read_ahead import map_ahead
from mipnet.data.stream import apply_execution_options
from mipnet.data.validation import check_readable
from mipnet.evaluation.predicted_poses import Predictions, PredictionsBySplit
from mipnet.host import cores, tune_malloc
from mipnet.inference.crop_predictor import CropPredictor
from mipnet.storage import Folder

Block = dict[str, np.ndarray]

logger = logging.getLogger(__name__)


def predict_poses(
    boxes: Boxes,
    model: Folder,
    config: Config,
    resources: ResourcesConfig,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Predictions:
    """Poses for every box.

    Args:
        boxes: the boxes, sorted by image.
        model: folder of the network, visible from every node.
        config: the training configuration, and how to decode heatmaps.
        resources: number of processes, threads and GPUs.
        progress: called with the number of boxes that are done and of all boxes.

    Raises:
        DataError: more images are corrupt than ``config.data.max_bad_share`` allows.
        RuntimeError: a box has no prediction (a bug).
    """
    return collect_poses(boxes, iter_predictions(boxes, model, config, resources), config, progress)


def collect_poses(
    boxes: Boxes,
    blocks: Iterable[Block],
    config: Config,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Predictions:
    """Put the blocks of ``iter_predictions`` or ``predict_batches`` together.

    Args:
        boxes: the boxes.
        blocks: together they have every box once, in any order.
        config, progress: see ``predict_poses``.

    Raises:
        DataError, RuntimeError: see ``predict_poses``.
    """
    n, k = config.model.instances, config.data.joints.num_joints
    keypoints = np.full((len(boxes), n, k, 3), np.nan, np.float32)
    corrupt: set[int] = set()
    uris: list[str] = []
    used = len(np.unique(boxes.image_index))
    predicted = np.zeros(len(boxes), bool)
    for batch in blocks:
        index = batch["box"]
        keypoints[index] = batch["keypoints"]
        predicted[index] = True
        corrupt.update(boxes.image_index[index[batch["corrupt"]]].tolist())
        uris = [str(boxes.images.uris[i]) for i in sorted(corrupt)]
        check_readable(uris, used, config.data.max_bad_share)
        progress(int(predicted.sum()), len(boxes))
    if not predicted.all():
        raise RuntimeError(f"{(~predicted).sum()} of {len(boxes)} boxes got no answer")
    return Predictions(boxes, keypoints, uris)


def predict_splits(
    model: Folder,
    config: Config,
    data: Folder,
    files: Mapping[str, CocoKeypointFile],
    *,
    sources: Sequence[str],
    resources: ResourcesConfig,
    progress: Callable[[int, int], None] = lambda done, of: None,
    on_corrupt_images: Callable[[list[str]], object] = lambda names: None,
) -> PredictionsBySplit:
    """Predict all boxes of all splits in one pass.

    Args:
        model: folder of the network.
        config: the training configuration, and how to decode heatmaps.
        data: folder of the data set.
        files: split -> its annotations.
        sources: box sources as in ``DataConfig.boxes``.
        resources: for the prediction.
        progress: called with the number of boxes that are done and of all boxes.
        on_corrupt_images: called with the URIs of the images that were left out, if any.

    Raises:
        DataError: annotations, boxes or images that cannot be used.
    """
    boxes = boxes_of_splits(config, data, files, sources)
    poses = predict_poses(boxes, model, config, resources, progress)
    if poses.corrupt_images:
        on_corrupt_images(poses.corrupt_images)
    return poses_by_split(poses, files, sources)


def boxes_of_splits(
    config: Config, data: Folder, files: Mapping[str, CocoKeypointFile], sources: Sequence[str]
) -> Boxes:
    """The boxes of all splits in all box sources; arguments as for ``predict_splits``.

    Raises:
        DataError: boxes do not exist or cannot be used.
    """
    boxes = [
        load_boxes(file, data, split, source, config) for split, file in files.items() for source in sources
    ]
    return Boxes.concatenate(boxes)


def poses_by_split(
    poses: Predictions, files: Mapping[str, CocoKeypointFile], sources: Sequence[str]
) -> PredictionsBySplit:
    """Divide the poses in the boxes of ``boxes_of_splits`` by split and box source."""
    names = [(split, source.partition("=")[0]) for split in files for source in sources]
    return {name: poses.of_source(index) for index, name in enumerate(names)}


def iter_predictions(
    boxes: Boxes, model: Folder, config: Config, resources: ResourcesConfig
) -> Iterator[Block]:
    """Predict boxes, in no particular order; arguments as for ``predict_poses``.

    Yields:
        box (B,) int64 index; keypoints (B, N, K, 3) float32, nan where the image is corrupt; corrupt (B,)
        bool; bbox (B, 4) float64 x, y, w, h in px, the whole image where the box was nan.
    """
    if not len(boxes):
        return
    crop_arguments = crop_arguments_of(boxes, config)
    images = crop_arguments[-1]
    evaluation = config.evaluation
    network = model, evaluation, resources.gpu is True, resources.cpus_per_worker
    resources = replace(resources, predict_workers=prediction_workers(resources, ray.nodes()))
    if should_run_inline(resources, ray.nodes()):
        logger.debug("predicting %d boxes of %d images in this process", len(boxes), len(images))
        yield from predict_batches(PosePredictor(*network).predictor, boxes, config)
        return
    # About 64 boxes per block: enough blocks for all cores, and each worth the cost of a task.
    blocks = max(1, min(len(images), math.ceil(len(boxes) / 64)))
    logger.debug("predicting %d boxes of %d images in %d blocks", len(boxes), len(images), blocks)
    shared = {"crop_arguments": ray.put(crop_arguments)}
    dataset = (
        ray.data.range(len(images), override_num_blocks=blocks)
        .map_batches(load_crops_task, batch_size=None, fn_kwargs=shared, num_cpus=1)
        .map_batches(
            PosePredictor,
            fn_constructor_args=network,
            batch_size=evaluation.batch_size,
            compute=ActorPoolStrategy(min_size=1, max_size=resources.predict_workers),
            num_cpus=1,
            num_gpus=1 if resources.gpu is True else 0,
        )
    )
    dataset = apply_execution_options(dataset, preserve_order=False)
    yield from dataset.iter_batches(batch_size=None, batch_format="numpy")


def predict_batches(
    predictor: CropPredictor,
    boxes: Boxes,
    config: Config,
    *,
    part: slice = slice(None),
    decoding_threads: int = 0,
) -> Iterator[Block]:
    """Predict boxes in this process; a batch has the same images whatever part of them is asked for.

    Args:
        predictor: the network.
        boxes: the boxes, sorted by image.
        config: see ``predict_poses``.
        part: of the batches; ``slice(r, None, n)`` is the part of rank r of n.
        decoding_threads: threads that make the crops of the next batches meanwhile; 0: none, because on a CPU
            they would take cores from the network.

    Yields:
        as ``iter_predictions``.
    """
    if not len(boxes):
        return
    crop_arguments = crop_arguments_of(boxes, config)
    images = len(crop_arguments[-1])
    batches = min(images, math.ceil(len(boxes) / config.evaluation.batch_size))
    for block in _load_ahead(
        np.array_split(np.arange(images), batches)[part], crop_arguments, decoding_threads
    ):
        yield predict_block(predictor, block)


def _load_ahead(batches: Sequence[np.ndarray], crop_arguments: Any, threads: int) -> Iterator[Block]:
    """``load_crops`` of every batch in turn, by ``threads`` threads as many batches ahead; 0: when asked."""

    def load(ids: np.ndarray) -> Block:
        return load_crops(ids, *crop_arguments)

    if not threads:
        return map(load, batches)
    cv2.setNumThreads(1)  # each thread uses one core
    return map_ahead(load, batches, threads, ahead=threads)


def crop_arguments_of(boxes: Boxes, config: Config) -> tuple[Boxes, tuple[int, int], float, np.ndarray]:
    """The arguments of ``load_crops`` but the first."""
    return boxes, config.input.size, config.input.padding, np.unique(boxes.image_index)


def prediction_workers(resources: ResourcesConfig, nodes: Sequence[Mapping[str, Any]]) -> int:
    """How many processes run the network: as configured, else one for each GPU, or one on CPUs.

    Args:
        resources: for the prediction, ``gpu`` resolved.
        nodes: as from ``ray.nodes()``.
    """
    gpus = sum(int(node["Resources"].get("GPU", 0)) for node in nodes if node["Alive"])
    return resources.predict_workers or (max(gpus, 1) if resources.gpu is True else 1)


def should_run_inline(resources: ResourcesConfig, nodes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether to predict in this process instead of starting others: one worker, one node, no GPU.

    Beside the network on a CPU the cost of decoding is negligible, while each new process takes seconds of a
    core to start, also from a training that runs beside.

    Args:
        resources: for the prediction, ``predict_workers`` resolved.
        nodes: as from ``ray.nodes()``.
    """
    single_node = sum(node["Alive"] for node in nodes) == 1
    return single_node and resources.predict_workers == 1 and resources.gpu is not True


def load_crops_task(batch: Block, crop_arguments: Any) -> Block:
    """``load_crops`` as a Ray Data task; ``crop_arguments`` is an object reference to the other arguments."""
    cv2.setNumThreads(1)  # Ray runs one task per core
    return load_crops(batch["id"], *ray.get(crop_arguments))


def load_crops(
    ids: np.ndarray, boxes: Boxes, input_size: tuple[int, int], padding: float, images: np.ndarray
) -> Block:
    """Decode images and crop all their boxes; a corrupt image gives black crops.

    Args:
        ids: (n,) int64 indices into ``images``.
        boxes: all boxes.
        input_size: (w, h) of a crop in px.
        padding: as ``InputConfig.padding``.
        images: (I,) int64 indices of the images that have boxes.

    Returns:
        crop (B, h, w, 3) uint8 RGB; box (B,) int64 index; bbox (B, 4) float64 x, y, w, h, the whole image
        where it was nan; center, size (B, 2) float32 in image px; corrupt (B,) bool.
    """
    selected = images[ids].tolist()
    rows = np.concatenate([np.arange(*np.searchsorted(boxes.image_index, [i, i + 1])) for i in selected])
    width, height = input_size
    crops = np.zeros((len(rows), height, width, 3), np.uint8)
    corrupt = np.zeros(len(rows), bool)
    bbox = boxes.boxes[rows]  # (B, 4), a copy
    centers, sizes = np.zeros((len(rows), 2)), np.ones((len(rows), 2))
    for image, pixels in zip(selected, labelled_images(boxes.images, selected), strict=True):
        here = boxes.image_index[rows] == image
        if pixels is None:
            corrupt[here] = True
            logger.info("cannot decode %s", boxes.images.uris[image])
            continue
        bbox[here & np.isnan(bbox[:, 0])] = 0, 0, pixels.shape[1], pixels.shape[0]
        crops[here], centers[here], sizes[here] = crop_boxes(pixels, bbox[here], input_size, padding)
    placed = {"center": centers.astype(np.float32), "size": sizes.astype(np.float32)}
    return {"crop": crops, "box": rows, "bbox": bbox, "corrupt": corrupt, **placed}


class PosePredictor:
    """The network of a Ray Data actor, or of this process, on its device and with its number of threads."""

    def __init__(self, model: Folder, evaluation: EvaluationConfig, gpu: bool, threads: int) -> None:
        import torch

        if not gpu:
            tune_malloc()
            torch.set_num_threads(threads or cores())
        with TemporaryDirectory() as scratch:
            folder = model.download(Path(scratch))
            self.predictor = CropPredictor.load(folder, evaluation, "cuda" if gpu else "cpu")

    def __call__(self, batch: Block) -> Block:
        return predict_block(self.predictor, batch)


def predict_block(predictor: CropPredictor, batch: Block) -> Block:
    """From a block of ``load_crops`` to one of ``iter_predictions``; of rows that are ``used``."""
    shape = len(batch["crop"]), predictor.model.instances, predictor.config.data.joints.num_joints, 3
    keypoints = np.full(shape, np.nan, np.float32)
    there = ~batch["corrupt"] & batch.get("used", True)
    keypoints[there] = predictor(*(batch[name][there] for name in ("crop", "center", "size")))
    others = {name: column for name, column in batch.items() if name not in ("crop", "center", "size")}
    return {"keypoints": keypoints, **others}
