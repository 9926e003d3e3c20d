"""From every instance of every box to the poses of an image: score, discount, OKS-NMS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from mipnet.evaluation.oks import oks_nms

JOINT_THRESHOLD = 0.2  # joints scored at or below it do not count in a pose's score
DISCOUNT = 0.9  # the paper's gamma
OKS_THRESHOLD = 0.9

Instances = Literal["merged"] | int


class Merged(NamedTuple):
    """The poses that were kept: ``poses[boxes, instances]``, with their discounted scores.

    Attributes:
        boxes: (M,) int64 indices into P.
        instances: (M,) int64 lambda indices into N.
        scores: (M,) float64.
    """

    boxes: np.ndarray
    instances: np.ndarray
    scores: np.ndarray


def pose_scores(
    box_scores: np.ndarray, joint_scores: np.ndarray, threshold: float = JOINT_THRESHOLD
) -> np.ndarray:
    """Box score times the mean of the joint scores above ``threshold``, 0 where no joint is.

    Args:
        box_scores: (P,).
        joint_scores: (P, N, K), the peaks of the heatmaps.
        threshold: a joint score has to be larger to count.

    Returns:
        (P, N) float64.
    """
    joint_scores = np.asarray(joint_scores, np.float64)
    counts = joint_scores > threshold
    means = np.where(counts, joint_scores, 0).sum(axis=-1) / np.maximum(counts.sum(axis=-1), 1)
    return np.asarray(box_scores, np.float64)[:, None] * means


def merge_instances(
    poses: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    sigmas: Sequence[float] | np.ndarray,
    discount: float = DISCOUNT,
    oks_threshold: float = OKS_THRESHOLD,
    instances: Instances = "merged",
) -> Merged:
    """The poses of one image, all boxes and instances together.

    The score of instance i is multiplied by discount^i, then OKS-NMS runs over all poses. Of equal scores the
    lower instance counts as the higher, so the primary wins a tie.

    Args:
        poses: (P, N, K, 3) x, y in image px and joint score (not used).
        scores: (P, N) as from ``pose_scores``.
        areas: (P,) of the boxes in px².
        sigmas: (K,) OKS constants.
        discount: gamma.
        oks_threshold: of two poses with a larger OKS the lower scored one goes.
        instances: "merged", or the one instance to use alone.

    Returns:
        the kept poses in score order.
    """
    count = np.shape(poses)[1]
    chosen = np.arange(count) if instances == "merged" else np.array([instances])
    # Instance-major order: all primaries come first, and ties keep the order.
    box_index = np.tile(np.arange(len(poses)), len(chosen))
    instance_index = np.repeat(chosen, len(poses))
    discounted = np.asarray(scores, np.float64)[box_index, instance_index] * discount**instance_index
    flat_poses, flat_areas = np.asarray(poses)[box_index, instance_index], np.asarray(areas)[box_index]
    kept = oks_nms(flat_poses, discounted, flat_areas, sigmas, oks_threshold)
    return Merged(box_index[kept], instance_index[kept], discounted[kept])


def merge_data_set(
    image_ids: Sequence[int | str] | np.ndarray,
    poses: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    sigmas: Sequence[float] | np.ndarray,
    discount: float = DISCOUNT,
    oks_threshold: float = OKS_THRESHOLD,
    instances: Instances = "merged",
) -> Merged:
    """``merge_instances`` for each image of a data set.

    Args:
        image_ids: (P,) the image of each box, in any order.
        poses, scores, areas: (P, N, K, 3), (P, N) and (P,) of all boxes.
        sigmas, discount, oks_threshold, instances: as for ``merge_instances``.

    Returns:
        the kept poses, ``boxes`` counting over the whole data set: images in the order of their ids, each
        image's poses in score order.
    """
    poses, scores, areas = np.asarray(poses), np.asarray(scores), np.asarray(areas)
    _, group = np.unique(np.asarray(image_ids), return_inverse=True)
    order = np.argsort(group, kind="stable")
    borders = np.flatnonzero(np.diff(group[order])) + 1
    parts = []
    for members in np.split(order, borders) if len(order) else []:
        merged = merge_instances(
            poses[members], scores[members], areas[members], sigmas, discount, oks_threshold, instances
        )
        parts.append(merged._replace(boxes=members[merged.boxes]))
    if not parts:
        return Merged(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    return Merged(*(np.concatenate(column) for column in zip(*parts, strict=True)))
