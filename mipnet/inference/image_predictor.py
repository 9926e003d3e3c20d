"""Predict the merged poses of one image, in this process. No Ray and no MLflow in here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from mipnet.data.crops import crop_boxes, decode_image
from mipnet.data.geometry import misses_image
from mipnet.data.image_headers import reason_not_to_decode
from mipnet.data.json_values import LARGEST_COORDINATE
from mipnet.evaluation.coco import keypoint_results, with_boxes
from mipnet.evaluation.merging import MergedPoses, merge_instances, pose_scores
from mipnet.evaluation.operating_point import OperatingPoint
from mipnet.inference.crop_predictor import CropPredictor
from mipnet.inference.detector import Detector
from mipnet.skeletons import Skeleton


@dataclass(frozen=True)
class ImagePoses:
    """The P predicted poses of one image, by falling score.

    Attributes:
        keypoints: (P, K, 3) float32: x and y in image px, and the keypoint's score.
        scores: (P,) float64 pose scores.
        instance: (P,) int64: each pose's λ; 0 is the primary, the person whose box it is.
        box: (P, 4) float64 x, y, w, h in px: each pose's box.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    instance: np.ndarray
    box: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def to_coco(self, image_id: int = 0, category_id: int = 1) -> list[dict[str, Any]]:
        """COCO's results: image_id, category_id, keypoints [x, y, score] · K, score, instance, box."""
        ids = np.full(len(self), image_id)
        results = keypoint_results(ids, self.keypoints, self.scores, category_id)
        return with_boxes(results, self.instance, self.box)


class ImagePredictor:
    """Callable: image and boxes to the poses of all people in them.

    Args:
        crops: the network with pre- and postprocessing of its crops.
        detector: finds the people in pictures that are given without boxes.

    Attributes:
        crop_predictor: ``crops``.
        skeleton: names and order of the K keypoints.
        operating_point: scores below which poses are left out and joints are better not drawn; None if the
            model has none, as imported weights do.
    """

    def __init__(self, crops: CropPredictor, detector: Detector | None = None) -> None:
        self.crop_predictor, self.detector = crops, detector
        self.skeleton: Skeleton = crops.config.data.joints
        self.operating_point: OperatingPoint | None = crops.operating_point

    @classmethod
    def load(
        cls, folder: str | Path, device: str | torch.device = "cpu", detector: Detector | None = None
    ) -> Self:
        """Load a model folder; errors as for ``CropPredictor.load``."""
        return cls(CropPredictor.load(folder, device=device), detector)

    def __call__(
        self,
        image: np.ndarray | str | PathLike[str] | bytes,
        boxes: Sequence[Sequence[float]] | np.ndarray | None = None,
        scores: Sequence[float] | np.ndarray | None = None,
        min_score: float | None = None,
    ) -> ImagePoses:
        """Predict the poses of one image: all λ of all boxes, discounted by γ^λ, after OKS-NMS.

        The network runs on ``evaluation.batch_size`` crops at a time.

        Args:
            image: (H, W, 3) uint8 RGB, the path of an image file, or its encoded bytes. A file is
                turned by its EXIF orientation: boxes and poses are in the frame that people see.
            boxes: (P, 4) x, y, w, h in px; None are those of the detector, whose scores then count, and
                without a detector one box around the whole image.
            scores: (P,) confidences of the boxes, which multiply the pose scores; 1 by default.
            min_score: poses with a lower score are left out; by default that of the operating point. 0 keeps
                all, as COCO's AP wants them, and so does a model without an operating point.

        Raises:
            ValueError: the image, boxes, scores or min_score are not usable; the message begins with 'image',
                'boxes', 'scores' or 'min_score'.
            OSError: the file cannot be read.
        """
        pixels = _pixels(image)
        if boxes is None and self.detector:
            data, found = self.crop_predictor.config.data, self.detector(pixels)
            found = found.where(found.kept(data.box_score_threshold, data.box_nms))
            boxes, scores = found.boxes, found.scores
        elif boxes is None:
            boxes = [[0, 0, pixels.shape[1], pixels.shape[0]]]
        bboxes = _boxes(boxes, (pixels.shape[1], pixels.shape[0]))
        confidences = np.ones(len(bboxes)) if scores is None else _scores(scores, len(bboxes))
        least = self._least_score(min_score)
        crop, evaluation = self.crop_predictor.config.input, self.crop_predictor.evaluation
        chunks, areas = [], []
        for begin in range(0, max(len(bboxes), 1), evaluation.batch_size):
            chunk = bboxes[begin : begin + evaluation.batch_size]
            crops, centers, sizes = crop_boxes(pixels, chunk, crop.size, crop.padding)
            chunks.append(self.crop_predictor(crops, centers, sizes))
            areas.append(sizes.prod(axis=-1))
        keypoints = np.concatenate(chunks)  # (P, N, K, 3)
        pose_confidences = pose_scores(confidences, keypoints[..., 2], evaluation.keypoint_threshold)
        kept = merge_instances(
            keypoints, pose_confidences, np.concatenate(areas), self.skeleton.sigmas, evaluation
        )
        shown = MergedPoses(*(column[kept.scores >= least] for column in kept))
        poses = keypoints[shown.boxes, shown.instances]
        return ImagePoses(poses, shown.scores, shown.instances, bboxes[shown.boxes])

    def _least_score(self, min_score: float | None) -> float:
        if min_score is None:
            return self.operating_point.pose_score if self.operating_point else -math.inf
        if isinstance(min_score, bool) or not isinstance(min_score, Real) or math.isnan(min_score):
            raise ValueError(f"'min_score' is not a number: {min_score!r}")
        return float(min_score)


def _pixels(image: np.ndarray | str | PathLike[str] | bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"'image' is {image.dtype} {image.shape}, not (H, W, 3) uint8 RGB")
        return image
    if not isinstance(image, str | PathLike | bytes):
        what = "neither an (H, W, 3) uint8 array nor a path nor bytes"
        raise ValueError(f"'image' is a {type(image).__name__}, {what}")
    where = "" if isinstance(image, bytes) else f" ({image})"
    content = image if isinstance(image, bytes) else Path(image).read_bytes()
    pixels = decode_image(content)
    if pixels is None:
        why = reason_not_to_decode(content) or "its data are damaged"
        raise ValueError(f"'image' is not a picture that can be decoded{where}: {why}")
    return pixels


def _boxes(boxes: Any, picture: tuple[int, int]) -> np.ndarray:
    """(P, 4) float64, finite, with sides above 0, each partly within a picture of a width and height."""
    try:
        table = np.array([[x, y, w, h] for x, y, w, h in boxes], np.float64).reshape(-1, 4)
    except (TypeError, ValueError):
        table = np.full((1, 4), np.nan)
    if not ((np.abs(table) <= LARGEST_COORDINATE).all() and (table[:, 2:] > 0).all()):  # nan is not below
        raise ValueError(f"'boxes' is not a list of [x, y, width, height], at most {LARGEST_COORDINATE:g} px")
    outside = misses_image(table, np.array(picture))
    if outside.any():
        box = table[outside.argmax()].tolist()
        what = f"{box}, which lies outside of the picture of {picture[0]}x{picture[1]} px"
        raise ValueError(f"'boxes' has at place {outside.argmax()} {what}")
    return table


def _scores(scores: Any, count: int) -> np.ndarray:
    """(count,) float64, finite, 0 or above."""
    try:
        confidences = np.asarray(scores, np.float64)
    except (TypeError, ValueError):
        confidences = np.array(np.nan)
    usable = confidences.shape == (count,) and np.isfinite(confidences).all() and (confidences >= 0).all()
    if not usable:
        raise ValueError(f"'scores' is not one number for each of {count} boxes, finite and not below 0")
    return confidences
