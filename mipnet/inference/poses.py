"""The poses of many boxes, and what is left of them after merging. No Ray in here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mipnet.config import Config
from mipnet.config.schema import EvaluationConfig
from mipnet.data.records import Boxes
from mipnet.evaluation.coco import pose_results
from mipnet.evaluation.merging import Instances, merge_data_set, pose_scores


@dataclass(frozen=True)
class Poses:
    """What the network says about B boxes.

    Attributes:
        boxes: the boxes, sorted by image.
        keypoints: (B, N, K, 3) float32: x, y in image px and the joint's score; nan where the image could
            not be read.
        areas: (B,) float64 px² of the padded crops, the area that OKS-NMS works with.
        unreadable: the images that could not be read.
    """

    boxes: Boxes
    keypoints: np.ndarray
    areas: np.ndarray
    unreadable: list[str]

    def of_group(self, group: int) -> Poses:
        """Only the boxes of one group, without those that could not be read."""
        return self.where((self.boxes.group == group) & ~np.isnan(self.keypoints[:, 0, 0, 0]))

    def where(self, keep: np.ndarray) -> Poses:
        """Only the boxes for which ``keep``, (B,) bool, holds."""
        b = self.boxes
        boxes = Boxes(b.images, b.image[keep], b.boxes[keep], b.scores[keep], b.group[keep])
        return Poses(boxes, self.keypoints[keep], self.areas[keep], self.unreadable)


def merged_results(
    poses: Poses,
    config: Config,
    evaluation: EvaluationConfig,
    instances: Instances = "merged",
    category_id: int = 1,
) -> list[dict[str, Any]]:
    """The poses that survive merging, in COCO's results format, with the instance and the box of each."""
    boxes = poses.boxes
    scores = pose_scores(boxes.scores, poses.keypoints[..., 2], evaluation.joint_threshold)
    kept = merge_data_set(
        boxes.image,
        poses.keypoints,
        scores,
        poses.areas,
        config.data.joints.sigmas,
        evaluation.discount,
        evaluation.oks_nms,
        instances,
    )
    return pose_results(
        boxes.images.ids[boxes.image[kept.boxes]],
        poses.keypoints[kept.boxes, kept.instances],
        kept.scores,
        kept.instances,
        boxes.boxes[kept.boxes],
        category_id,
    )
