"""Predicted poses of many boxes, and their merging into COCO results. No Ray in here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mipnet.config import Config
from mipnet.data.coco import Boxes
from mipnet.data.geometry import box_to_crop
from mipnet.evaluation.coco import pose_results
from mipnet.evaluation.merging import InstanceMode, merge_data_set, pose_scores


@dataclass(frozen=True)
class Predictions:
    """The network's poses for B boxes.

    Attributes:
        boxes: the boxes, sorted by image.
        keypoints: (B, N, K, 3) float32: x, y in image px and the keypoint's score; nan where the image is
            corrupt.
        corrupt_images: URIs of the images that could not be decoded.
    """

    boxes: Boxes
    keypoints: np.ndarray
    corrupt_images: list[str]

    def of_source(self, index: int) -> Predictions:
        """The boxes of one source, without those of corrupt images."""
        return self.where((self.boxes.source_index == index) & ~np.isnan(self.keypoints[:, 0, 0, 0]))

    def where(self, keep: np.ndarray) -> Predictions:
        """The boxes for which ``keep``, (B,) bool, holds."""
        return Predictions(self.boxes.where(keep), self.keypoints[keep], self.corrupt_images)


PredictionsBySplit = dict[tuple[str, str], Predictions]
"""(split, box source) -> its poses, not merged yet."""


def merged_results(
    poses: Predictions, config: Config, instance_mode: InstanceMode = "merged", category_id: int = 1
) -> list[dict[str, Any]]:
    """The merged poses in COCO's results format, each with its instance and box."""
    boxes, evaluation = poses.boxes, config.evaluation
    _, sizes = box_to_crop(boxes.boxes, config.input.size, config.input.padding)
    scores = pose_scores(boxes.scores, poses.keypoints[..., 2], evaluation.keypoint_threshold)
    kept = merge_data_set(
        boxes.image_index,
        poses.keypoints,
        scores,
        sizes.prod(axis=-1),  # OKS-NMS takes the areas of the padded crops
        config.data.joints.sigmas,
        discount=evaluation.discount,
        oks_threshold=evaluation.oks_nms,
        instance_mode=instance_mode,
    )
    return pose_results(
        boxes.images.ids[boxes.image_index[kept.boxes]],
        poses.keypoints[kept.boxes, kept.instances],
        kept.scores,
        instances=kept.instances,
        boxes=boxes.boxes[kept.boxes],
        category_id=category_id,
    )
