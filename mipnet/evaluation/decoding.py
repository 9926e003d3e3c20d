"""From heatmaps to joints in the image: pure tensor functions for any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn.functional import pad

DecodeMethod = Literal["argmax", "quarter", "dark", "parabola"]

FLOOR = 1e-10  # heatmap values below it are raised to it before a logarithm
DARK_SIGMA, DARK_RADIUS = 2.0, 5  # the blur in front of DARK's Taylor step: an 11 x 11 Gaussian


def decode_heatmaps(
    heatmaps: torch.Tensor, method: DecodeMethod = "quarter"
) -> tuple[torch.Tensor, torch.Tensor]:
    """The peak of every map, refined below one cell.

    All methods start at the largest cell (the first one if several tie); a map whose maximum is not above 0
    gives cell (0, 0). ``quarter``: 0.25 cells toward the larger neighbour, per axis, if 1 < x < w - 1 and
    1 < y < h - 1. ``dark``: DARK's Newton step on the logarithm of the blurred map, if 1 < x < w - 2 and
    1 < y < h - 2. ``parabola``: the vertex of the parabola through the logarithms of the peak and its two
    neighbours, per axis, at most half a cell; exact for a Gaussian and cheap, but without a blur it passes on
    the map's noise, which DARK's does not.

    Args:
        heatmaps: (..., K, h, w), any float dtype; computed in float32.
        method: "argmax", "quarter", "dark" or "parabola".

    Returns:
        cells (..., K, 2) float32 (x, y) in heatmap px, and scores (..., K) float32, the maxima.

    Raises:
        ValueError: unknown ``method``.
    """
    lead, (height, width) = heatmaps.shape[:-2], heatmaps.shape[-2:]
    maps = heatmaps.detach().reshape(-1, height, width).float()
    scores, index = maps.flatten(1).max(dim=1)
    index = torch.where(scores > 0, index, torch.zeros_like(index))
    peak = torch.stack([index % width, torch.div(index, width, rounding_mode="floor")], dim=-1)
    cells = peak.float()
    if method == "quarter":
        cells = cells + _quarter_shift(maps, peak)
    elif method == "dark":
        cells = cells + _dark_step(_blurred(maps), peak)
    elif method == "parabola":
        cells = cells + _parabola_vertex(maps, peak)
    elif method != "argmax":
        raise ValueError(f"unknown decoding method {method!r}")
    return cells.reshape(*lead, 2), scores.reshape(lead)


def cells_to_image(
    cells: torch.Tensor, center: torch.Tensor, size: torch.Tensor, heatmap_size: tuple[int, int]
) -> torch.Tensor:
    """Heatmap points in the image: the inverse of the crop's affine (rotation 0), the heatmap as its input.

    Args:
        cells: (P, ..., K, 2) (x, y) in heatmap px.
        center: (P, 2) the crops' centres in image px.
        size: (P, 2) the crops' (w, h) in image px; as in ``crop_affine`` only the width is used.
        heatmap_size: (w, h) in cells.

    Returns:
        (P, ..., K, 2) in image px; float32, or float64 if one of the arguments is.
    """
    lead = (len(cells),) + (1,) * (cells.dim() - 2)
    middle = cells.new_tensor(heatmap_size) / 2
    pixels_per_cell = (size[:, :1] / heatmap_size[0]).reshape(*lead, 1)
    return (cells - middle) * pixels_per_cell + center.reshape(*lead, 2)


def flip_back(heatmaps: torch.Tensor, flip_permutation: Sequence[int], shift: bool = True) -> torch.Tensor:
    """Maps of the mirrored crop as maps of the crop, ready to be averaged with those of the crop itself.

    Args:
        heatmaps: (..., K, h, w) of the mirrored crop.
        flip_permutation: (K,) as ``Skeleton.flip_permutation``.
        shift: move one cell to the right (the first column stays), because cell (column) c of a mirrored
            crop is c' = w - c of the crop, while mirroring the array gives w - 1 - c.

    Returns:
        (..., K, h, w): mirrored, left and right joints changed over, shifted.
    """
    permutation = torch.as_tensor(flip_permutation, device=heatmaps.device)
    flipped = heatmaps.index_select(-3, permutation).flip(-1)
    return torch.cat([flipped[..., :1], flipped[..., :-1]], dim=-1) if shift else flipped


def _around(maps: torch.Tensor, peak: torch.Tensor, dx: int, dy: int) -> torch.Tensor:
    """Values (M,) of ``maps`` (M, h, w) at ``peak`` (M, 2) + (dx, dy), clamped to the map."""
    x = (peak[:, 0] + dx).clamp(0, maps.shape[2] - 1)
    y = (peak[:, 1] + dy).clamp(0, maps.shape[1] - 1)
    return maps[torch.arange(len(maps), device=maps.device), y, x]


def _interior(maps: torch.Tensor, peak: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Per axis (M, 2): low <= peak <= length - high."""
    lengths = peak.new_tensor([maps.shape[2], maps.shape[1]])
    return (peak >= low) & (peak <= lengths - high)


def _quarter_shift(maps: torch.Tensor, peak: torch.Tensor) -> torch.Tensor:
    right_left = _around(maps, peak, 1, 0) - _around(maps, peak, -1, 0)
    lower_upper = _around(maps, peak, 0, 1) - _around(maps, peak, 0, -1)
    shift = 0.25 * torch.stack([right_left, lower_upper], dim=-1).sign()
    return shift * _interior(maps, peak, 2, 2).all(dim=-1, keepdim=True)


def _parabola_vertex(maps: torch.Tensor, peak: torch.Tensor) -> torch.Tensor:
    def log_at(dx: int, dy: int) -> torch.Tensor:
        return _around(maps, peak, dx, dy).clamp(min=FLOOR).log()

    middle = log_at(0, 0)[:, None]
    before = torch.stack([log_at(-1, 0), log_at(0, -1)], dim=-1)
    after = torch.stack([log_at(1, 0), log_at(0, 1)], dim=-1)
    curvature = before - 2 * middle + after  # <= 0, the peak being the largest; 0 on a plateau
    shift = 0.5 * (before - after) / curvature.clamp(max=-FLOOR)
    return torch.where(_interior(maps, peak, 1, 2), shift.clamp(-0.5, 0.5), 0.0)


def _blurred(maps: torch.Tensor) -> torch.Tensor:
    """DARK's modulation: an 11 x 11 Gaussian blur, zeros outside, each map back at its old maximum.

    Sums of shifted maps rather than a convolution: those may run in TF32 or under autocast, and the
    differences of logarithms that follow cannot spare the digits.
    """
    offsets = torch.arange(-DARK_RADIUS, DARK_RADIUS + 1, dtype=torch.float64)
    kernel = torch.exp(-offsets.square() / (2 * DARK_SIGMA**2))
    taps = (kernel / kernel.sum()).tolist()
    blurred = maps
    for axis, border in ((2, (DARK_RADIUS, DARK_RADIUS)), (1, (0, 0, DARK_RADIUS, DARK_RADIUS))):
        padded, length = pad(blurred, border), maps.shape[axis]
        blurred = padded.narrow(axis, 0, length) * taps[0]
        for start, tap in enumerate(taps[1:], start=1):
            blurred.add_(padded.narrow(axis, start, length), alpha=tap)
    old, new = maps.amax(dim=(1, 2), keepdim=True), blurred.amax(dim=(1, 2), keepdim=True)
    return blurred * torch.where(new > 0, old / new, 1.0)


def _dark_step(blurred: torch.Tensor, peak: torch.Tensor) -> torch.Tensor:
    def log_at(dx: int, dy: int) -> torch.Tensor:
        return _around(blurred, peak, dx, dy).clamp(min=FLOOR).log()

    middle = log_at(0, 0)
    dx = 0.5 * (log_at(1, 0) - log_at(-1, 0))
    dy = 0.5 * (log_at(0, 1) - log_at(0, -1))
    dxx = 0.25 * (log_at(2, 0) - 2 * middle + log_at(-2, 0))
    dyy = 0.25 * (log_at(0, 2) - 2 * middle + log_at(0, -2))
    dxy = 0.25 * (log_at(1, 1) - log_at(1, -1) - log_at(-1, 1) + log_at(-1, -1))
    determinant = dxx * dyy - dxy.square()
    # -inverse(Hessian) @ gradient, written out for 2 x 2
    step = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], dim=-1) / determinant[:, None]
    usable = _interior(blurred, peak, 2, 3).all(dim=-1) & (determinant != 0)
    return torch.where(usable[:, None], step, 0.0)
