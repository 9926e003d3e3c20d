"""The plain ways that the benchmarks compare with: the same results by the obvious loops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mipnet.evaluation.decoding import DARK_RADIUS, DARK_SIGMA, FLOOR, DecodeMethod
from mipnet.evaluation.merging import Merged
from mipnet.models.mimb import MIMB
from mipnet.models.network import MIPNet


class Repeated(nn.Module):
    """The definition of the network: the whole of it, once, over the images repeated N times."""

    def __init__(self, model: MIPNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, N, K, h, w)."""
        model, count = self.model, self.model.instances
        features: Tensor | list[Tensor] = images.repeat_interleave(count, 0)
        rows = torch.arange(count, device=images.device).repeat(len(images))
        for index, stage in enumerate(model.backbone.stages):
            features = stage(features)
            for number in model.places:
                if model.backbone.places[number].after == index:
                    features = _modulated(model.mimbs[str(number)], features, rows)
        return model.backbone.head(features).unflatten(0, (len(images), count))


def _modulated(mimbs: nn.Module, features: Tensor | list[Tensor], rows: Tensor) -> Tensor | list[Tensor]:
    branches = [features] if isinstance(features, Tensor) else features
    results = []
    for mimb, branch in zip(mimbs.children(), branches, strict=True):
        assert isinstance(mimb, MIMB)
        results.append(mimb(branch, rows))
    return results[0] if isinstance(features, Tensor) else results


def decode(heatmaps: np.ndarray, method: DecodeMethod) -> tuple[np.ndarray, np.ndarray]:
    """``decode_heatmaps`` joint by joint.

    Args:
        heatmaps: (P, K, h, w) float32.

    Returns:
        cells (P, K, 2) float32 and scores (P, K) float32.
    """
    people, joints = heatmaps.shape[:2]
    cells, scores = np.zeros((people, joints, 2), np.float32), np.zeros((people, joints), np.float32)
    refine = {"argmax": _no_step, "quarter": _quarter, "parabola": _parabola, "dark": _dark}[method]
    for p in range(people):
        for k in range(joints):
            peaked = heatmaps[p, k]
            y, x = divmod(int(peaked.argmax()), peaked.shape[1])
            scores[p, k] = peaked[y, x]
            if scores[p, k] <= 0:
                x = y = 0
            dx, dy = refine(peaked, x, y)
            cells[p, k] = x + dx, y + dy
    return cells, scores


def _no_step(heatmap: np.ndarray, x: int, y: int) -> tuple[float, float]:
    return 0.0, 0.0


def _quarter(heatmap: np.ndarray, x: int, y: int) -> tuple[float, float]:
    height, width = heatmap.shape
    if not (1 < x < width - 1 and 1 < y < height - 1):
        return 0.0, 0.0
    slope = np.array([heatmap[y, x + 1] - heatmap[y, x - 1], heatmap[y + 1, x] - heatmap[y - 1, x]])
    dx, dy = 0.25 * np.sign(slope)
    return float(dx), float(dy)


def _parabola(heatmap: np.ndarray, x: int, y: int) -> tuple[float, float]:
    height, width = heatmap.shape

    def vertex(before: float, middle: float, after: float) -> float:
        a, b, c = (math.log(max(float(v), FLOOR)) for v in (before, middle, after))
        return min(max(0.5 * (a - c) / min(a - 2 * b + c, -FLOOR), -0.5), 0.5)

    middle = heatmap[y, x]
    dx = vertex(heatmap[y, x - 1], middle, heatmap[y, x + 1]) if 1 <= x <= width - 2 else 0.0
    dy = vertex(heatmap[y - 1, x], middle, heatmap[y + 1, x]) if 1 <= y <= height - 2 else 0.0
    return dx, dy


def _dark(heatmap: np.ndarray, x: int, y: int) -> tuple[float, float]:
    import cv2

    height, width = heatmap.shape
    side, r = 2 * DARK_RADIUS + 1, DARK_RADIUS
    bordered = np.zeros((height + 2 * r, width + 2 * r), np.float32)
    bordered[r:-r, r:-r] = heatmap
    blurred = cv2.GaussianBlur(bordered, (side, side), DARK_SIGMA)[r:-r, r:-r]
    if not (1 < x < width - 2 and 1 < y < height - 2):
        return 0.0, 0.0
    if blurred.max() > 0:
        blurred = blurred * (heatmap.max() / blurred.max())
    v = np.log(np.maximum(blurred[y - 2 : y + 3, x - 2 : x + 3], FLOOR).astype(np.float64))
    gradient = 0.5 * np.array([v[2, 3] - v[2, 1], v[3, 2] - v[1, 2]])
    dxx, dyy = 0.25 * (v[2, 4] - 2 * v[2, 2] + v[2, 0]), 0.25 * (v[4, 2] - 2 * v[2, 2] + v[0, 2])
    dxy = 0.25 * (v[3, 3] - v[1, 3] - v[3, 1] + v[1, 1])
    hessian = np.array([[dxx, dxy], [dxy, dyy]])
    if dxx * dyy - dxy**2 == 0:
        return 0.0, 0.0
    dx, dy = -np.linalg.inv(hessian) @ gradient
    return float(dx), float(dy)


def merge(
    poses: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    sigmas: Sequence[float],
    discount: float,
    threshold: float,
) -> Merged:
    """``merge_instances`` pair by pair: every pose against each one that is still there.

    Args:
        poses: (P, N, K, 3); scores: (P, N); areas: (P,).
    """
    people, count = scores.shape
    flat = [(p, i, scores[p, i] * discount**i) for i in range(count) for p in range(people)]
    waiting = sorted(flat, key=lambda pose: -pose[2])
    kept = []
    while waiting:
        best, *rest = waiting
        kept.append(best)
        p, i, _ = best
        waiting = [
            (q, j, score)
            for q, j, score in rest
            if _oks(poses[p, i], areas[p], poses[q, j], areas[q], sigmas) <= threshold
        ]
    boxes, instances, final = zip(*kept, strict=True) if kept else ((), (), ())
    return Merged(np.array(boxes, np.int64), np.array(instances, np.int64), np.array(final, np.float64))


def _oks(a: np.ndarray, area_a: float, b: np.ndarray, area_b: float, sigmas: Sequence[float]) -> float:
    variances = (2 * np.array(sigmas)) ** 2
    dx, dy = a[:, 0] - b[:, 0], a[:, 1] - b[:, 1]
    exponent = (dx**2 + dy**2) / (2 * variances * max((area_a + area_b) / 2, np.spacing(1.0)))
    return float(np.exp(-exponent).mean())
