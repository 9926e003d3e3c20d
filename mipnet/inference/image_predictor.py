"""From a picture and boxes to merged poses, in one process. No Ray and no MLflow in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from mipnet.data.crops import crop_boxes, decode_image
from mipnet.evaluation.coco import pose_results
from mipnet.evaluation.merging import merge_instances, pose_scores
from mipnet.inference.crop_predictor import CropPredictor
from mipnet.skeletons import Skeleton


@dataclass(frozen=True)
class ImagePoses:
    """The P poses that were found in one picture, best first.

    Attributes:
        keypoints: (P, K, 3) float32: x and y in image px, and the joint's score.
        scores: (P,) float64, of the whole poses.
        instance: (P,) int64: the λ that each pose was predicted for; 0 is the person whom the box was drawn
            for.
        box: (P, 4) float64 x, y, w, h in px: the box that each pose was found in.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    instance: np.ndarray
    box: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def to_coco(self, image_id: int = 0, category_id: int = 1) -> list[dict[str, Any]]:
        """COCO's results: image_id, category_id, keypoints [x, y, score] · K, score; and instance and box."""
        ids = np.full(len(self), image_id)
        return pose_results(ids, self.keypoints, self.scores, self.instance, self.box, category_id)


class ImagePredictor:
    """Called with a picture and boxes, returns the poses of all people in them.

    Args:
        crops: the network, with how its crops are cut and its heatmaps are read.

    Attributes:
        crops: as given.
        skeleton: names and order of the K joints.
    """

    def __init__(self, crops: CropPredictor) -> None:
        self.crops = crops
        self.skeleton: Skeleton = crops.config.data.joints

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> Self:
        """The predictor for a model folder; errors as for ``CropPredictor.load``."""
        return cls(CropPredictor.load(folder, device=device))

    def __call__(
        self,
        image: np.ndarray | str | PathLike[str] | bytes,
        boxes: Sequence[Sequence[float]] | np.ndarray | None = None,
        scores: Sequence[float] | np.ndarray | None = None,
    ) -> ImagePoses:
        """The poses of one picture: all λ of all boxes, discounted and after OKS-NMS.

        Crops are cut and predicted ``evaluation.batch_size`` at a time.

        Args:
            image: (H, W, 3) uint8 RGB, the path of a picture, or its encoded bytes. The EXIF orientation of a
                file is not applied: boxes and poses are in the frame of the stored pixels.
            boxes: (P, 4) x, y, w, h in px; None is one box around the whole picture.
            scores: (P,) confidences of the boxes, factors of the poses' scores; 1 by default.

        Raises:
            ValueError: what is given is no picture, or no boxes; the message begins with 'image', 'boxes' or
                'scores'.
            OSError: the file cannot be read.
        """
        pixels = _pixels(image)
        if boxes is None:
            boxes = [[0, 0, pixels.shape[1], pixels.shape[0]]]
        table = _boxes(boxes)
        confidences = np.ones(len(table)) if scores is None else np.asarray(scores, np.float64)
        if confidences.shape != (len(table),):
            raise ValueError(f"'scores' is not one number for each of {len(table)} boxes")
        crop, evaluation = self.crops.config.input, self.crops.evaluation
        keypoints, areas = [], []
        for begin in range(0, max(len(table), 1), evaluation.batch_size):
            part = table[begin : begin + evaluation.batch_size]
            crops, centers, sizes = crop_boxes(pixels, part, crop.size, crop.padding)
            keypoints.append(self.crops(crops, centers, sizes))
            areas.append(sizes.prod(axis=-1))
        found = np.concatenate(keypoints)
        kept = merge_instances(
            found,
            pose_scores(confidences, found[..., 2], evaluation.joint_threshold),
            np.concatenate(areas),
            self.skeleton.sigmas,
            evaluation.discount,
            evaluation.oks_nms,
        )
        return ImagePoses(found[kept.boxes, kept.instances], kept.scores, kept.instances, table[kept.boxes])


def _pixels(image: np.ndarray | str | PathLike[str] | bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"'image' is {image.dtype} {image.shape}, not (H, W, 3) uint8 RGB")
        return image
    where = "" if isinstance(image, bytes) else f" ({image})"
    pixels = decode_image(image if isinstance(image, bytes) else Path(image).read_bytes())
    if pixels is None:
        raise ValueError(f"'image' is not a picture that can be decoded{where}")
    return pixels


def _boxes(boxes: Any) -> np.ndarray:
    """(P, 4) float64, finite, with sides above 0."""
    try:
        table = np.array([[x, y, w, h] for x, y, w, h in boxes], np.float64).reshape(-1, 4)
    except (TypeError, ValueError):
        table = np.full((1, 4), np.nan)
    if not (np.isfinite(table).all() and (table[:, 2:] > 0).all()):
        raise ValueError("'boxes' is not a list of [x, y, width, height]")
    return table
