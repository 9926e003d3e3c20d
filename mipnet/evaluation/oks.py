"""Object keypoint similarity (OKS) between poses, and non-maximum suppression by it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mipnet.errors import ConfigError

Sigmas = Sequence[float] | np.ndarray
NMS_ROWS = 128  # poses compared with all others at a time, so that memory grows with their number only
SOFT_NMS_MAX_KEPT = 20  # COCO's evaluation reads at most so many poses of an image


def oks_matrix(
    poses_a: np.ndarray, areas_a: np.ndarray, poses_b: np.ndarray, areas_b: np.ndarray, sigmas: Sigmas
) -> np.ndarray:
    """OKS of every pose of A with every pose of B.

    The mean over all keypoints, whatever their score, of exp(-d² / (2 · (2 sigma)² · a)), where a is the mean
    of the two areas.

    Args:
        poses_a, poses_b: (A, K, 3) and (B, K, 3) x, y in px and score or visibility (not used).
        areas_a, areas_b: (A,) and (B,) in px².
        sigmas: (K,) OKS constants.

    Returns:
        (A, B) float64 in [0, 1].

    Raises:
        ConfigError: the number of sigmas differs from that of keypoints (NumPy would broadcast a single one).
    """
    a, b = np.asarray(poses_a, np.float64), np.asarray(poses_b, np.float64)
    if not len(sigmas) == a.shape[1] == b.shape[1]:
        raise ConfigError(f"{len(sigmas)} sigmas for poses of {a.shape[1]} and {b.shape[1]} joints")
    areas = (np.asarray(areas_a, np.float64)[:, None] + np.asarray(areas_b, np.float64)[None]) / 2
    # Distances in units of each keypoint's 2 sigma · √2; in place, because (A, B, K) arrays are large.
    unit = math.sqrt(8) * np.asarray(sigmas, np.float64)
    exponent, dy = (np.subtract(a[:, None, :, i] / unit, b[None, :, :, i] / unit) for i in (0, 1))
    exponent *= exponent
    dy *= dy
    exponent += dy
    exponent /= -np.maximum(areas, np.spacing(1.0))[..., None]
    similarity: np.ndarray = np.exp(exponent, out=exponent).mean(axis=-1)
    return similarity


def oks_nms(
    poses: np.ndarray, scores: np.ndarray, areas: np.ndarray, sigmas: Sigmas, threshold: float
) -> np.ndarray:
    """Non-maximum suppression: in score order keep a pose and drop those with OKS > ``threshold`` to it.

    Args:
        poses: (P, K, 3) x, y in px and score (not used) of one image.
        scores: (P,) pose scores; of equal scores the first ranks higher.
        areas: (P,) in px².
        sigmas: (K,) OKS constants.
        threshold: in [0, 1]; 1 keeps all.

    Returns:
        indices (M,) int64 of the kept poses in score order.
    """
    poses, areas = np.asarray(poses), np.asarray(areas)
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    alive = np.ones(len(order), bool)
    kept = []
    for begin in range(0, len(order), NMS_ROWS):
        rows = order[begin : begin + NMS_ROWS]
        similar = oks_matrix(poses[rows], areas[rows], poses, areas, sigmas) > threshold
        for index, row in zip(rows, similar, strict=True):
            if alive[index]:
                kept.append(index)
                alive &= ~row
    return np.asarray(kept, np.int64)


def soft_oks_nms(
    poses: np.ndarray, scores: np.ndarray, areas: np.ndarray, sigmas: Sigmas, threshold: float
) -> np.ndarray:
    """Soft NMS: after each kept pose the others' scores are multiplied by exp(-OKS² / threshold).

    Args:
        poses, scores, areas, sigmas: as for ``oks_nms``.
        threshold: above 0; the smaller, the stronger the suppression.

    Returns:
        indices (M,) int64, M = min(P, 20), in the order of their selection.
    """
    scores = np.array(scores, np.float64)
    decay = np.exp(-np.square(oks_matrix(poses, areas, poses, areas, sigmas)) / threshold)
    remaining = np.ones(len(scores), bool)
    kept = []
    for _ in range(min(len(scores), SOFT_NMS_MAX_KEPT)):
        index = int(np.argmax(np.where(remaining, scores, -np.inf)))
        kept.append(index)
        remaining[index] = False
        scores *= decay[index]
    return np.asarray(kept, np.int64)
