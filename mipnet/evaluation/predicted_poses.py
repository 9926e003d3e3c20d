"""Predicted poses of many boxes, their merging into COCO results, and their metrics. No Ray in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mipnet.config import Config
from mipnet.data.coco import Boxes, CocoKeypointFile
from mipnet.data.geometry import box_to_crop
from mipnet.evaluation.coco import keypoint_results, with_boxes
from mipnet.evaluation.merging import InstanceMode, merge_data_set, pose_scores
from mipnet.evaluation.protocols import evaluate_poses, nothing_measured
from mipnet.evaluation.result_rows import ResultRow


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
        boxes.image_ids,
        poses.keypoints,
        scores,
        sizes.prod(axis=-1),  # OKS-NMS takes the areas of the padded crops
        config.data.joints.sigmas,
        evaluation=evaluation,
        instance_mode=instance_mode,
    )
    image_ids = boxes.image_ids[kept.boxes]
    kept_poses = poses.keypoints[kept.boxes, kept.instances]
    results = keypoint_results(image_ids, kept_poses, kept.scores, category_id)
    return with_boxes(results, kept.instances, boxes.boxes[kept.boxes])


def instance_modes(instances: int) -> dict[str, InstanceMode]:
    """Name -> instance mode of a network with N = ``instances``: merged and, if N > 1, each λ alone."""
    alone = range(instances if instances > 1 else 0)
    return {"merged": "merged", **{f"lambda{i}": i for i in alone}}


def score_splits(
    poses: PredictionsBySplit, config: Config, files: Mapping[str, CocoKeypointFile]
) -> list[ResultRow]:
    """A row of metrics for each split, box source and instance mode.

    Args:
        poses: (split, box source) -> predictions, as from ``predict_splits``.
        config: skeleton, protocol and merging parameters.
        files: split -> its annotations.
    """
    return [
        ResultRow(split, source, name, *score_predictions(predictions, config, files[split], mode))
        for (split, source), predictions in poses.items()
        for name, mode in instance_modes(config.model.instances).items()
    ]


def score_predictions(
    poses: Predictions, config: Config, file: CocoKeypointFile, instance_mode: InstanceMode
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Merge the poses; returns (metrics by name, the merged poses in COCO's results format).

    Without a box nothing was measured: all metrics are nan.
    """
    if not len(poses.boxes):
        return nothing_measured(config.data), []
    results = merged_results(poses, config, instance_mode, file.category_id)
    return evaluate_poses(config.data, file.annotations, results), results
