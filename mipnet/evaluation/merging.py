"""Merge the poses of all instances λ of all boxes of an image: pose score, discount γ^λ, OKS-NMS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from mipnet.config.schema import EvaluationConfig
from mipnet.evaluation.oks import Sigmas, oks_nms

InstanceMode = Literal["merged"] | int
"""All λ merged, or one λ alone."""


class MergedPoses(NamedTuple):
    """The poses that NMS keeps: ``poses[boxes, instances]``, with their discounted scores.

    Attributes:
        boxes: (M,) int64 indices into P.
        instances: (M,) int64 λ, indices into N.
        scores: (M,) float64.
    """

    boxes: np.ndarray
    instances: np.ndarray
    scores: np.ndarray


def pose_scores(box_scores: np.ndarray, keypoint_scores: np.ndarray, threshold: float) -> np.ndarray:
    """Box score times the mean of the keypoint scores above ``threshold``; 0 where none is above.

    Args:
        box_scores: (P,).
        keypoint_scores: (P, N, K), the peaks of the heatmaps.
        threshold: a keypoint score counts if it is larger.

    Returns:
        (P, N) float64.
    """
    keypoint_scores = np.asarray(keypoint_scores, np.float64)
    counts = keypoint_scores > threshold
    means = np.where(counts, keypoint_scores, 0).sum(axis=-1) / np.maximum(counts.sum(axis=-1), 1)
    scores: np.ndarray = np.asarray(box_scores, np.float64)[:, None] * means
    return scores


def merge_instances(
    poses: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    sigmas: Sigmas,
    evaluation: EvaluationConfig,
    *,
    instance_mode: InstanceMode = "merged",
) -> MergedPoses:
    """Merge the poses of one image, over all boxes and instances.

    The score of instance i is multiplied by discount^i, then OKS-NMS runs over all poses. Of equal scores the
    lower instance ranks higher, so the primary wins ties.

    Args:
        poses: (P, N, K, 3) x, y in image px and keypoint score (not used).
        scores: (P, N) as from ``pose_scores``.
        areas: (P,) of the boxes in px².
        sigmas: (K,) OKS constants.
        evaluation: ``discount`` is γ; of two poses with an OKS above ``oks_nms`` the lower scored one is
            dropped.
        instance_mode: "merged", or the one λ to use alone.

    Returns:
        the kept poses in score order.
    """
    count = np.shape(poses)[1]
    chosen = np.arange(count) if instance_mode == "merged" else np.array([instance_mode])
    # Instance-major order: all primaries come first, and the sort is stable.
    box_index = np.tile(np.arange(len(poses)), len(chosen))
    instance_index = np.repeat(chosen, len(poses))
    discounted = np.asarray(scores, np.float64)[box_index, instance_index]
    discounted = discounted * evaluation.discount**instance_index
    flat_poses, flat_areas = np.asarray(poses)[box_index, instance_index], np.asarray(areas)[box_index]
    kept = oks_nms(flat_poses, discounted, flat_areas, sigmas, evaluation.oks_nms)
    return MergedPoses(box_index[kept], instance_index[kept], discounted[kept])


def merge_data_set(
    image_ids: Sequence[int | str] | np.ndarray,
    poses: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    sigmas: Sigmas,
    *,
    evaluation: EvaluationConfig,
    instance_mode: InstanceMode = "merged",
) -> MergedPoses:
    """``merge_instances`` for each image of a data set.

    Args:
        image_ids: (P,) the image of each box, in any order.
        poses, scores, areas: (P, N, K, 3), (P, N) and (P,) of all boxes.
        sigmas, evaluation, instance_mode: as for ``merge_instances``.

    Returns:
        the kept poses, ``boxes`` indexing the whole data set: images by id, each image's poses in score
        order.
    """
    poses, scores, areas = np.asarray(poses), np.asarray(scores), np.asarray(areas)
    _, image_index = np.unique(np.asarray(image_ids), return_inverse=True)
    order = np.argsort(image_index, kind="stable")
    borders = np.flatnonzero(np.diff(image_index[order])) + 1
    per_image = []
    for members in np.split(order, borders) if len(order) else []:
        of_image = poses[members], scores[members], areas[members]
        merged = merge_instances(*of_image, sigmas, evaluation, instance_mode=instance_mode)
        per_image.append(merged._replace(boxes=members[merged.boxes]))
    if not per_image:
        return MergedPoses(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    return MergedPoses(*(np.concatenate(column) for column in zip(*per_image, strict=True)))
