"""Decode heatmaps to keypoints in the image: pure tensor functions for any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn.functional import pad

DecodeMethod = Literal["argmax", "quarter", "dark", "parabola"]

LOG_FLOOR = 1e-10  # least heatmap value under a logarithm
DARK_SIGMA, DARK_RADIUS = 2.0, 5  # heatmap px; DARK blurs with an 11 x 11 Gaussian before its Taylor step


def decode_heatmaps(
    heatmaps: torch.Tensor, method: DecodeMethod = "quarter"
) -> tuple[torch.Tensor, torch.Tensor]:
    """The peak of every map, refined below one cell.

    All methods start at the largest cell (the first one if several tie); a map whose maximum is not above 0
    gives cell (0, 0). ``quarter``: 0.25 cells toward the larger neighbour, per axis, if 1 < x < w - 1 and
    1 < y < h - 1. ``dark``: DARK's Newton step on the logarithm of the blurred map, if 1 < x < w - 2 and
    1 < y < h - 2. ``parabola``: the vertex of the parabola through the logarithms of the peak and its two
    neighbours, per axis, at most half a cell; exact for a Gaussian and cheap, but more sensitive to noise
    than DARK, because it does not blur the map.

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
    scores, index = _largest(maps.flatten(1))
    index = torch.where(scores > 0, index, torch.zeros_like(index))
    peak = torch.stack([index % width, torch.div(index, width, rounding_mode="floor")], dim=-1)
    cells = peak.float()
    if method == "quarter":
        cells = cells + _quarter_shift(maps, peak)
    elif method == "dark":
        cells = cells + _dark_step(maps, peak)
    elif method == "parabola":
        cells = cells + _parabola_vertex(maps, peak)
    elif method != "argmax":
        raise ValueError(f"unknown decoding method {method!r}")
    return cells.reshape(*lead, 2), scores.reshape(lead)


def cells_to_image(
    cells: torch.Tensor, center: torch.Tensor, size: torch.Tensor, heatmap_size: tuple[int, int]
) -> torch.Tensor:
    """Heatmap px -> image px: the inverse of the crop's affine transform (rotation 0).

    Args:
        cells: (P, ..., K, 2) (x, y) in heatmap px.
        center: (P, 2) the crops' centres in image px.
        size: (P, 2) the crops' (w, h) in image px; as in ``crop_affine`` only the width is used.
        heatmap_size: (w, h) in heatmap px.

    Returns:
        (P, ..., K, 2) in image px; float32, or float64 if one of the arguments is.
    """
    lead = (len(cells),) + (1,) * (cells.dim() - 2)
    middle = cells.new_tensor(heatmap_size) / 2
    pixels_per_cell = (size[:, :1] / heatmap_size[0]).reshape(*lead, 1)
    return (cells - middle) * pixels_per_cell + center.reshape(*lead, 2)


def flip_back(heatmaps: torch.Tensor, flip_permutation: Sequence[int]) -> torch.Tensor:
    """Undo the mirroring of the flip test, so that the maps can be averaged with those of the crop itself.

    Args:
        heatmaps: (..., K, h, w) of the mirrored crop.
        flip_permutation: (K,) as ``Skeleton.flip_permutation``.

    Returns:
        (..., K, h, w): mirrored, left and right keypoints swapped, moved one cell to the right (the first
        column stays), because cell (column) c of a mirrored crop is c' = w - c of the crop, while mirroring
        the array gives w - 1 - c.
    """
    permutation = torch.as_tensor(flip_permutation, device=heatmaps.device)
    flipped = heatmaps.index_select(-3, permutation).flip(-1)
    return torch.cat([flipped[..., :1], flipped[..., :-1]], dim=-1)


def _largest(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Maximum (M,) of every row (M, L), and its first index (M,)."""
    if rows.device.type != "cpu":
        maxima, index = rows.max(dim=1)
        return maxima, index
    index = torch.from_numpy(rows.numpy().argmax(axis=1))  # on a CPU several times as fast as torch's
    return rows.gather(1, index[:, None])[:, 0], index


def _cross(maps: torch.Tensor, peak: torch.Tensor) -> torch.Tensor:
    """Values (M, 5) of ``maps`` (M, h, w): peak (M, 2), left, right, above, below; clamped to the map."""
    height, width = maps.shape[1:]
    x, y = peak[:, 0], peak[:, 1]
    row = y * width
    left, right = (x - 1).clamp(min=0), (x + 1).clamp(max=width - 1)
    above, below = (y - 1).clamp(min=0) * width, (y + 1).clamp(max=height - 1) * width
    cells = torch.stack([row + x, row + left, row + right, above + x, below + x], dim=1)
    return maps.flatten(1).gather(1, cells)


def _interior(maps: torch.Tensor, peak: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Per axis (M, 2): low <= peak <= length - high."""
    lengths = peak.new_tensor([maps.shape[2], maps.shape[1]])
    return (peak >= low) & (peak <= lengths - high)


def _quarter_shift(maps: torch.Tensor, peak: torch.Tensor) -> torch.Tensor:
    _, left, right, above, below = _cross(maps, peak).unbind(dim=1)
    shift = 0.25 * torch.stack([right - left, below - above], dim=-1).sign()
    return shift * _interior(maps, peak, 2, 2).all(dim=-1, keepdim=True)


def _parabola_vertex(maps: torch.Tensor, peak: torch.Tensor) -> torch.Tensor:
    logs = _cross(maps, peak).clamp(min=LOG_FLOOR).log()
    middle, before, after = logs[:, :1], logs[:, 1::2], logs[:, 2::2]
    curvature = before - 2 * middle + after  # <= 0, the peak being the largest; 0 on a plateau
    shift = 0.5 * (before - after) / curvature.clamp(max=-LOG_FLOOR)
    return torch.where(_interior(maps, peak, 1, 2), shift.clamp(-0.5, 0.5), 0.0)


def _dark_step(maps: torch.Tensor, peak: torch.Tensor) -> torch.Tensor:
    """Newton's step on the logarithm of the blurred maps, from the 5 x 5 cells around each peak.

    In float64 on a CPU; in float32 on a GPU, where float64 can be 64 times as slow.
    DARK rescales a blurred map to its old maximum. Under the logarithm that factor is a constant, which
    cancels in all differences, so it is computed only for maps with a value below ``LOG_FLOOR``.
    """
    values = _blurred_patches(maps, peak, dark_dtype(maps.device))
    low = (values <= LOG_FLOOR).flatten(1).any(dim=1).nonzero()[:, 0]
    if len(low):
        values[low] *= _lost_in_blur(maps[low])[:, None, None]
    v = values.clamp(min=LOG_FLOOR).log()
    dx = 0.5 * (v[:, 2, 3] - v[:, 2, 1])
    dy = 0.5 * (v[:, 3, 2] - v[:, 1, 2])
    dxx = 0.25 * (v[:, 2, 4] - 2 * v[:, 2, 2] + v[:, 2, 0])
    dyy = 0.25 * (v[:, 4, 2] - 2 * v[:, 2, 2] + v[:, 0, 2])
    dxy = 0.25 * (v[:, 3, 3] - v[:, 1, 3] - v[:, 3, 1] + v[:, 1, 1])
    determinant = dxx * dyy - dxy.square()
    # -inverse(Hessian) @ gradient, written out for 2 x 2
    step = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], dim=-1) / determinant[:, None]
    usable = _interior(maps, peak, 2, 3).all(dim=-1) & (determinant != 0)
    return torch.where(usable[:, None], step, 0.0).float()


def dark_dtype(device: torch.device) -> torch.dtype:
    """In which DARK computes on a device."""
    return torch.float64 if device.type == "cpu" else torch.float32


def _taps() -> torch.Tensor:
    """(11,) float64: DARK's Gaussian along one axis."""
    offsets = torch.arange(-DARK_RADIUS, DARK_RADIUS + 1, dtype=torch.float64)
    kernel = torch.exp(-offsets.square() / (2 * DARK_SIGMA**2))
    return kernel / kernel.sum()


def _blurred_patches(maps: torch.Tensor, peak: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(M, 5, 5) of ``dtype``: the blurred maps around each peak; 0 outside of a map.

    By products and sums of elements, because a matrix product may run in TF32 or under autocast, whose digits
    do not suffice for differences of logarithms.
    """
    height, width = maps.shape[1:]
    reach = 2 + DARK_RADIUS
    offsets = torch.arange(-reach, reach + 1, device=maps.device)
    x, y = peak[:, :1] + offsets, peak[:, 1:] + offsets
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None]
    cells = y.clamp(0, height - 1)[:, :, None] * width + x.clamp(0, width - 1)[:, None]
    windows = maps.flatten(1).gather(1, cells.flatten(1)).view_as(cells).to(dtype) * inside
    taps = _taps()
    blur = torch.stack([torch.cat([taps.new_zeros(i), taps, taps.new_zeros(4 - i)]) for i in range(5)])
    blur = blur.to(maps.device, dtype)
    rows = (blur[:, :, None] * windows[:, None]).sum(dim=2)  # (M, 5, 15)
    return (rows[:, :, None] * blur).sum(dim=3)  # (M, 5, 5)


def _lost_in_blur(maps: torch.Tensor) -> torch.Tensor:
    """Maximum of the map over that of the blurred map, (M,); 1 where the latter is not above 0.

    Blurs by sums of shifted maps, because a convolution may run in TF32.
    """
    maps = maps.to(dark_dtype(maps.device))
    blurred = maps
    for axis, border in ((2, (DARK_RADIUS, DARK_RADIUS)), (1, (0, 0, DARK_RADIUS, DARK_RADIUS))):
        padded, length = pad(blurred, border), maps.shape[axis]
        shifted = [padded.narrow(axis, i, length) * tap for i, tap in enumerate(_taps().tolist())]
        blurred = torch.stack(shifted).sum(dim=0)
    old, new = maps.amax(dim=(1, 2)), blurred.amax(dim=(1, 2))
    return torch.where(new > 0, old / new, 1.0)
