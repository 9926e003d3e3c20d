"""The heatmap loss over all instances of a step."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn.functional import mse_loss

LossKind = Literal["mse", "peak"]

PEAK_GAIN = 10.0  # a target's peak weighs 1 + 10 times as much as its background


def heatmap_loss(
    predictions: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, kind: LossKind = "mse"
) -> tuple[torch.Tensor, torch.Tensor]:
    """L = mean over instances and batch of ½ · mean over keypoints and heatmap cells of w² · error.

    ``mse``: the paper's error (p - t)². ``peak``: (p - t)² · (1 + 10 t), which learns small maps, almost all
    background, much faster.

    Args:
        predictions: (B, N, K, h, w), any float dtype; the loss is computed in float32, or in float64.
        targets: (B, N, K, h, w) float32.
        weights: (B, N, K) float32; keypoints with weight 0 do not count, though they stay in the mean.
        kind: "mse" or "peak".

    Returns:
        the loss () to differentiate, and the loss of each instance (N,), detached, for logging; the
        first is the mean of the second.

    Raises:
        ValueError: shapes that do not fit, or unknown ``kind``.
    """
    if predictions.shape != targets.shape or predictions.shape[:3] != weights.shape:
        p, t, w = (tuple(tensor.shape) for tensor in (predictions, targets, weights))
        raise ValueError(f"predictions {p}, targets {t} and weights {w} do not fit")
    if kind not in ("mse", "peak"):
        raise ValueError(f"unknown kind of loss {kind!r}")
    # Weights are per keypoint, so they are applied after the mean over cells: one tensor of the maps' size.
    dtype = torch.promote_types(predictions.dtype, torch.float32)
    error = mse_loss(predictions.to(dtype), targets.to(dtype), reduction="none")  # (B, N, K, h, w)
    if kind == "peak":
        error = torch.addcmul(error, error, targets, value=PEAK_GAIN)
    per_keypoint = error.mean(dim=(-2, -1)) * weights.square()  # (B, N, K)
    per_instance = 0.5 * per_keypoint.mean(dim=(0, 2))  # (N,)
    return per_instance.mean(), per_instance.detach()
