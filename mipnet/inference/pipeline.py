"""Prediction: decode once per image, cut every box, run the network; on Ray Data where that is worth it.

Validation, ``mipnet evaluate`` and ``mipnet predict`` all come through ``predict_poses``. Rows are never
split evenly between consumers, so none is dropped; every box asked for is answered or named as unreadable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import ray
from ray.data import ActorPoolStrategy

from mipnet.config import Config
from mipnet.config.schema import EvaluationConfig, ResourcesConfig
from mipnet.data.coco import Boxes
from mipnet.data.crops import crop_boxes, read_image
from mipnet.data.stream import settle
from mipnet.data.validation import check_readable
from mipnet.evaluation.predicted_poses import Poses
from mipnet.host import cores, keep_memory
from mipnet.inference.crop_predictor import CropPredictor
from mipnet.storage import Folder

Block = dict[str, np.ndarray]


def predict_poses(
    boxes: Boxes,
    model: Folder,
    config: Config,
    resources: ResourcesConfig,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Poses:
    """Poses for every box.

    Args:
        boxes: where to look.
        model: folder of the network, visible from every node.
        config: what the network was trained with, and how to read its heatmaps.
        resources: how many processes, on GPUs or not.
        progress: told how many boxes of how many are done.

    Raises:
        DataError: more images are unreadable than ``config.data.max_bad_share`` allows.
    """
    n, k = config.model.instances, config.data.joints.num_joints
    keypoints = np.full((len(boxes), n, k, 3), np.nan, np.float32)
    unreadable: set[int] = set()
    names: list[str] = []
    used = len(np.unique(boxes.image))
    answered = np.zeros(len(boxes), bool)
    for batch in answers(boxes, model, config, resources):
        index = batch["box"]
        keypoints[index] = batch["keypoints"]
        answered[index] = True
        unreadable.update(boxes.image[index[batch["corrupt"]]].tolist())
        names = [str(boxes.images.uris[i]) for i in sorted(unreadable)]
        check_readable(names, used, config.data.max_bad_share)
        progress(int(answered.sum()), len(boxes))
    if not answered.all():
        raise RuntimeError(f"{(~answered).sum()} of {len(boxes)} boxes got no answer")
    return Poses(boxes, keypoints, names)


def answers(boxes: Boxes, model: Folder, config: Config, resources: ResourcesConfig) -> Iterator[Block]:
    """The poses in boxes as they come, in no particular order; arguments as for ``predict_poses``.

    Yields:
        box (B,) int64 index; keypoints (B, N, K, 3) float32, nan where the image could not be read; corrupt
        (B,) bool, whether that is so; bbox (B, 4) float64, the box: of one that was nan, the whole image.
    """
    if not len(boxes):
        return
    images = np.unique(boxes.image)
    cutting = boxes, config.input.size, config.input.padding, images
    evaluation = config.evaluation
    network = model, evaluation, resources.gpu is True, resources.cpus_per_worker
    if here_is_best(resources, ray.nodes()):
        actor = PoseActor(*network)
        parts = min(len(images), math.ceil(len(boxes) / evaluation.batch_size))
        for ids in np.array_split(np.arange(len(images)), parts):
            yield actor(cut_boxes(ids, *cutting))
        return
    # Enough blocks to keep all cores busy, few enough that a block is worth a task.
    blocks = max(1, min(len(images), math.ceil(len(boxes) / 64)))
    ready = (
        ray.data.range(len(images), override_num_blocks=blocks)
        .map_batches(cut_batch, batch_size=None, fn_kwargs={"cutting": ray.put(cutting)}, num_cpus=1)
        .map_batches(
            PoseActor,
            fn_constructor_args=network,
            batch_size=evaluation.batch_size,
            compute=ActorPoolStrategy(min_size=1, max_size=resources.predict_workers),
            num_cpus=1,
            num_gpus=1 if resources.gpu is True else 0,
        )
    )
    yield from settle(ready, preserve_order=False).iter_batches(batch_size=None, batch_format="numpy")


def here_is_best(resources: ResourcesConfig, nodes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether this process does a prediction sooner than others that have to be started for it.

    One process of the only node is asked for, without a GPU: beside the network on a CPU, decoding is next to
    nothing, and each process takes seconds of a core to start, which a training beside it pays for.

    Args:
        resources: for the prediction.
        nodes: as ``ray.nodes()`` tells them.
    """
    alone = sum(node["Alive"] for node in nodes) == 1
    return alone and resources.predict_workers == 1 and resources.gpu is not True


def cut_batch(batch: Block, cutting: Any) -> Block:
    """``cut_boxes`` as a task; its other arguments come as a reference."""
    cv2.setNumThreads(1)  # tasks are the parallelism
    return cut_boxes(batch["id"], *ray.get(cutting))


def cut_boxes(
    ids: np.ndarray, boxes: Boxes, input_size: tuple[int, int], padding: float, images: np.ndarray
) -> Block:
    """The crops of all boxes of some images; a black crop stands for an image that cannot be read.

    Args:
        ids: (n,) int64, which of ``images``.
        boxes: all boxes.
        input_size: (w, h) of a crop in px.
        padding: as ``InputConfig.padding``.
        images: (I,) int64, those images of ``boxes`` that have any.

    Returns:
        crop (B, h, w, 3) uint8 RGB; box (B,) int64 index; bbox (B, 4) float64 x, y, w, h, the whole image
        where it was nan; center, size (B, 2) float32 in image px; corrupt (B,) bool.
    """
    chosen = images[ids].tolist()
    rows = np.concatenate([np.arange(*np.searchsorted(boxes.image, [i, i + 1])) for i in chosen])
    width, height = input_size
    crops = np.zeros((len(rows), height, width, 3), np.uint8)
    corrupt = np.zeros(len(rows), bool)
    wanted = boxes.boxes[rows]
    centers, sizes = np.zeros((len(rows), 2)), np.ones((len(rows), 2))
    for image in chosen:
        here = boxes.image[rows] == image
        pixels = read_image(str(boxes.images.uris[image]))
        if pixels is None:
            corrupt[here] = True
            continue
        wanted[here & np.isnan(wanted[:, 0])] = 0, 0, pixels.shape[1], pixels.shape[0]
        crops[here], centers[here], sizes[here] = crop_boxes(pixels, wanted[here], input_size, padding)
    return {
        "crop": crops,
        "box": rows,
        "bbox": wanted,
        "center": centers.astype(np.float32),
        "size": sizes.astype(np.float32),
        "corrupt": corrupt,
    }


class PoseActor:
    """Holds the network: in each process of the pool, or in this one."""

    def __init__(self, model: Folder, evaluation: EvaluationConfig, gpu: bool, threads: int) -> None:
        import torch

        keep_memory()
        if not gpu:
            torch.set_num_threads(threads or cores())
        with TemporaryDirectory() as scratch:
            folder = model.download(Path(scratch))
            self.predictor = CropPredictor.load(folder, evaluation, "cuda" if gpu else "cpu")

    def __call__(self, batch: Block) -> Block:
        keypoints = self.predictor(batch["crop"], batch["center"], batch["size"])
        keypoints[batch["corrupt"]] = np.nan
        return {"keypoints": keypoints, **{name: batch[name] for name in ("box", "bbox", "corrupt")}}
