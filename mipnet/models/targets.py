"""Target heatmaps, computed on the device for all persons and keypoints at once.

Coordinates: cell (column, row) of a heatmap is the heatmap point (column, row), and a heatmap point times
the stride is an input point, for both kinds of target. So ``decode_heatmaps`` and ``cells_to_image`` map a
peak at ``xy / stride`` back to ``xy``, without a half-cell offset.
"""

from __future__ import annotations

from typing import Literal

import torch

TargetKind = Literal["rounded", "subpixel"]


def heatmap_targets(
    keypoints: torch.Tensor,
    input_size: tuple[int, int],
    heatmap_size: tuple[int, int],
    sigma: float,
    kind: TargetKind = "rounded",
) -> tuple[torch.Tensor, torch.Tensor]:
    """One Gaussian with peak 1 per labelled keypoint.

    ``rounded``, as in the reference implementation: the center is the nearest cell, floor(xy / stride + 0.5),
    and the Gaussian is zero outside the (6 sigma + 1)² window around it. ``subpixel``: the center is
    xy / stride and there is no window, because one around an off-grid center would be asymmetric and bias the
    decoders that fit a parabola to the logarithm.

    Args:
        keypoints: (B, N, K, 3) x, y in input px and visibility v; v = 0 for unlabelled or outside.
        input_size: (w, h) of the network's input in px.
        heatmap_size: (w, h) of the heatmaps in cells.
        sigma: standard deviation in heatmap cells.
        kind: "rounded" or "subpixel".

    Returns:
        targets (B, N, K, h, w) float32 in [0, 1] and weights (B, N, K) float32, 1 or 0. The weight is 0, and
        the map all zero, for a keypoint with v = 0 or with its whole window (3 sigma) outside the map.

    Raises:
        ValueError: unknown ``kind``.
    """
    if kind not in ("rounded", "subpixel"):
        raise ValueError(f"unknown kind of target {kind!r}")
    width, height = heatmap_size
    keypoints = keypoints.float()
    x = keypoints[..., 0] * (width / input_size[0])  # (B, N, K), in cells
    y = keypoints[..., 1] * (height / input_size[1])
    if kind == "rounded":
        x, y = torch.floor(x + 0.5), torch.floor(y + 0.5)

    reach = 3 * sigma
    inside = (x + reach >= 0) & (x - reach <= width - 1) & (y + reach >= 0) & (y - reach <= height - 1)
    weights = ((keypoints[..., 2] > 0) & inside).float()  # (B, N, K)

    def profile(center: torch.Tensor, cells: int) -> torch.Tensor:
        """1D Gaussians: (B, N, K) → (B, N, K, cells)."""
        distance = torch.arange(cells, device=keypoints.device, dtype=torch.float32) - center[..., None]
        gaussian = torch.exp(distance.square() * (-0.5 / sigma**2))
        return gaussian * (distance.abs() <= reach) if kind == "rounded" else gaussian

    # A Gaussian is the product of its rows and columns: only the product is as large as the maps. Where the
    # weight is 0 the center may be anything, even not finite, so the profile is replaced, not multiplied.
    rows = torch.where(weights[..., None] > 0, profile(y, height), 0.0)  # (B, N, K, h)
    columns = torch.where(weights[..., None] > 0, profile(x, width), 0.0)  # (B, N, K, w)
    return rows[..., :, None] * columns[..., None, :], weights  # (B, N, K, h, w), (B, N, K)
