"""The poses of many boxes, and what is left of them after merging. No Ray in here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mipnet.config import Config
from mipnet.data.coco import Boxes
from mipnet.data.geometry import box_to_crop
from mipnet.evaluation.coco import pose_results
from mipnet.evaluation.merging import Instances, merge_data_set, pose_scores


@dataclass(frozen=True)
class Poses:
    """What the network says about B boxes.

    Attributes:
        boxes: the boxes, sorted by image.
        keypoints: (B, N, K, 3) float32: x, y in image px and the joint's score; nan where the image could
            not be read.
        unreadable: the images that could not be read.
    """

    boxes: Boxes
    keypoints: np.ndarray
    unreadable: list[str]

    def of_group(self, group: int) -> Poses:
        """Only the boxes of one group, without those that could not be read."""
        return self.where((self.boxes.group == group) & ~np.isnan(self.keypoints[:, 0, 0, 0]))

    def where(self, keep: np.ndarray) -> Poses:
        """Only the boxes for which ``keep``, (B,) bool, holds."""
        return Poses(self.boxes.where(keep), self.keypoints[keep], self.unreadable)


PredictionsBySplit = dict[tuple[str, str], Poses]
"""(split, box source) -> the poses there, not merged yet."""


def merged_results(
    poses: Poses, config: Config, instances: Instances = "merged", category_id: int = 1
) -> list[dict[str, Any]]:
    """The poses that survive merging, in COCO's results format, with the instance and the box of each."""
    boxes, evaluation = poses.boxes, config.evaluation
    _, sizes = box_to_crop(boxes.boxes, config.input.size, config.input.padding)
    scores = pose_scores(boxes.scores, poses.keypoints[..., 2], evaluation.joint_threshold)
    kept = merge_data_set(
        boxes.image,
        poses.keypoints,
        scores,
        sizes.prod(axis=-1),  # of the padded crops: the areas that OKS-NMS works with
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
