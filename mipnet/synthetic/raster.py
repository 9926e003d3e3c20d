"""The rasteriser: depth and identity buffers of the body parts at twice the image's resolution.

Each part is a height field over the image plane, depth-tested per pixel, so parts of different people
interleave correctly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mipnet.synthetic.rig import BodyParts, PartTable

WIDTH, HEIGHT = 192, 160
SS = 2  # supersampling: buffer pixels per image pixel
_W2, _H2 = WIDTH * SS, HEIGHT * SS
_FAR = np.float32(-1e4)
_GRID = ((np.arange(max(_W2, _H2), dtype=np.float32) + 0.5) / SS).astype(np.float32)


# Exponent of the scale for each coefficient of ``Outline.rows``, of sweeps and of ellipsoids.
_POWERS = np.array(
    [
        [1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, -2, -2, -2, 0, 0, 1, 1, 1, 1, 1],
    ],
    dtype=np.float64,
)


_Part = tuple[bool, list[float], list[int]]  # is it an ellipsoid, coefficients of its surface, box


@dataclass(frozen=True)
class Outline(PartTable):
    """Screen geometry of the n body parts at 1 px per metre from the anchors.

    Attributes:
        rows: (n, 17), x0, y0, x1, y1 of the part, first end and depth, then the coefficients of its surface.
        boxes: (people, 4) x0, y0, x1, y1 of the silhouettes.
    """

    rows: np.ndarray
    boxes: np.ndarray


def outline(p: BodyParts) -> Outline:
    """The coefficients of the parts and the boxes of the silhouettes, without drawing."""
    axes2 = p.frames[:, :2, :]
    ends2, depth = p.ends[:, :, :2], p.ends[:, :, 2]

    # Sweeps: along u on the screen, n across it; z = slope t + shear s + bulge sqrt(w² - s² - cap²).
    d = ends2[:, 1] - ends2[:, 0]
    length = np.sqrt((d * d).sum(1))
    flat = length < 1e-3
    length = np.where(flat, 1e-3, length)
    u = np.where(flat[:, None], (0.0, 1.0), d / length[:, None])
    n = np.stack((-u[:, 1], u[:, 0]), axis=1)
    q, dz = p.shape[:, 0], p.frames[:, 2, :]
    on_n = (axes2 * n[:, :, None]).sum(1)  # (n, 3): the part's axes along n
    on_u = (axes2 * u[:, :, None]).sum(1)
    wide2 = on_n[:, 0] ** 2 + (q * on_n[:, 2]) ** 2 + 1e-6
    wide = np.sqrt(wide2)
    shear = (on_n[:, 0] * dz[:, 0] + q * q * on_n[:, 2] * dz[:, 2]) / wide2
    bulge = q * np.abs(on_n[:, 0] * dz[:, 2] - on_n[:, 2] * dz[:, 0]) / wide2
    bulge = np.maximum(bulge, 0.7 * np.abs(dz[:, 1]))  # a foreshortened sweep shows its cap
    caps = np.sqrt(on_u[:, :1] ** 2 + (p.shape[:, 1:3] * on_u[:, 1:2]) ** 2 + (q[:, None] * on_u[:, 2:]) ** 2)
    caps = np.maximum(caps / wide[:, None], 0.05)
    half = p.half * wide[:, None]

    # Ellipsoids: z = zx x + zy y + up sqrt(1 - i11 x² - i12 xy - i22 y²).
    e = p.frames * p.half3[:, None, :]
    gram = e @ e.swapaxes(1, 2)
    g11, g22, g12 = gram[:, 0, 0], gram[:, 1, 1], gram[:, 0, 1]
    det = np.maximum(g11 * g22 - g12 * g12, 1e-15)
    i11, i22, i12 = g22 / det, g11 / det, -g12 / det
    zx, zy = i11 * gram[:, 0, 2] + i12 * gram[:, 1, 2], i12 * gram[:, 0, 2] + i22 * gram[:, 1, 2]
    up = p.half3.prod(1) / np.sqrt(det)

    reach = half[:, :, None] * np.sqrt((caps[:, :, None] * u[:, None, :]) ** 2 + n[:, None, :] ** 2)
    round_reach = np.sqrt(np.stack((g11, g22), axis=1))[:, None, :]
    reach = np.where(p.ellipsoid[:, None, None], round_reach, reach)
    low, high = (ends2 - reach).min(1), (ends2 + reach).max(1)
    rows = np.empty((len(length), 17))
    rows[:, 0:2], rows[:, 2:4], rows[:, 4:6], rows[:, 6] = low, high, ends2[:, 0], depth[:, 0]
    sweep = (u[:, 0], u[:, 1], length, (depth[:, 1] - depth[:, 0]) / length, half[:, 0],
             (half[:, 1] - half[:, 0]) / length, 1 / caps[:, 0], 1 / caps[:, 1], shear, bulge)  # fmt: skip
    ellipsoid = (i11, 2 * i12, i22, zx, zy, up, up, up, up, up)
    rows[:, 7:] = np.where(p.ellipsoid, ellipsoid, sweep).T
    first = np.flatnonzero(np.diff(p.person, prepend=-1))
    boxes = np.hstack((np.minimum.reduceat(low, first), np.maximum.reduceat(high, first)))
    return Outline(p.person, p.ellipsoid, rows, boxes)


class Buffers:
    """The rasterised scene at twice the image's resolution.

    Attributes:
        depth: (2 HEIGHT, 2 WIDTH) float32.
        identity: (2 HEIGHT, 2 WIDTH) uint8, 0 is background, else 1 + index of the body part.
        areas: per person, the slices (rows, columns) that contain the silhouette.
        masks: per person, bool, the full silhouette within its area, occluded or not.
    """

    def __init__(self, shape: Outline, anchors: np.ndarray, scales: np.ndarray) -> None:
        """Draw all people.

        Args:
            shape: of their body parts.
            anchors: (people, 3) x, y and depth in px.
            scales: (people,) px per metre.
        """
        self.depth = np.full((_H2, _W2), _FAR, dtype=np.float32)
        self.identity = np.zeros((_H2, _W2), dtype=np.uint8)
        self.areas: list[tuple[slice, slice]] = []
        self.masks: list[np.ndarray] = []
        rows = shape.rows * scales[shape.person][:, None] ** _POWERS[shape.ellipsoid.astype(np.intp)]
        offset = anchors[shape.person]
        rows[:, 0:2] += offset[:, :2]
        rows[:, 2:4] += offset[:, :2]
        rows[:, 4:7] += offset
        low = np.clip(np.floor(rows[:, 0:2] * SS), 0, (_W2, _H2)).astype(np.intp)
        high = np.clip(np.floor(rows[:, 2:4] * SS) + 1, 0, (_W2, _H2)).astype(np.intp)
        parts = list(
            zip(shape.ellipsoid.tolist(), rows[:, 4:].tolist(), np.hstack((low, high)).tolist(), strict=True)
        )
        start = 0
        with np.errstate(invalid="ignore"):
            for stop in np.cumsum(np.bincount(shape.person)).tolist():
                (x0, y0), (x1, y1) = low[start:stop].min(0).tolist(), high[start:stop].max(0).tolist()
                self._person(start, parts[start:stop], np.s_[y0:y1, x0:x1])
                start = stop

    def _person(self, start: int, parts: list[_Part], area: tuple[slice, slice]) -> None:
        """Draw one person into separate buffers, for the full silhouette, and merge them by depth."""
        y0, x0 = area[0].start, area[1].start
        shape = (area[0].stop - y0, area[1].stop - x0)
        depth = np.full(shape, _FAR, dtype=np.float32)
        identity = np.zeros(shape, dtype=np.uint8)
        for number, (ball, row, (bx0, by0, bx1, by1)) in enumerate(parts, start + 1):
            if bx0 < bx1 and by0 < by1:
                inner = np.s_[by0 - y0 : by1 - y0, bx0 - x0 : bx1 - x0]
                h = (_ellipsoid if ball else _sweep)(_GRID[bx0:bx1], _GRID[by0:by1, None], *row)
                behind = depth[inner]
                np.copyto(identity[inner], number, where=h > behind)
                np.fmax(behind, h, out=behind)  # NaN, outside the part, never wins
        self.areas.append(area)
        self.masks.append(identity > 0)
        behind = self.depth[area]
        wins = depth > behind
        np.copyto(behind, depth, where=wins)
        np.copyto(self.identity[area], identity, where=wins)


def _ellipsoid(
    x: np.ndarray, y: np.ndarray, px: float, py: float, pz: float, i11: float, i12: float, i22: float,
    zx: float, zy: float, up: float, *_: float,
) -> np.ndarray:  # fmt: skip
    """The depth of an ellipsoid over columns ``x`` (w,) and rows ``y`` (h, 1); NaN outside."""
    gx = x - px
    gy = y - py
    h = (1.0 - i11 * gx * gx) - gy * i22 * gy
    h -= gx * (i12 * gy)
    np.sqrt(h, out=h)
    h *= up
    h += zx * gx + (zy * gy + pz)
    return h


def _sweep(
    x: np.ndarray, y: np.ndarray, px: float, py: float, pz: float, ux: float, uy: float, length: float,
    slope: float, half: float, taper: float, cap0: float, cap1: float, shear: float, bulge: float,
) -> np.ndarray:  # fmt: skip
    """The depth of a tapered sweep over columns ``x`` (w,) and rows ``y`` (h, 1); NaN outside."""
    gx = x - px
    gy = y - py
    t = ux * gx + uy * gy
    z = np.maximum(t, 0.0)
    np.minimum(z, length, out=z)  # the nearest point of the segment
    t -= z
    if abs(cap0 - cap1) < 0.02:
        t *= cap0
    else:
        t *= np.where(t < 0, np.float32(cap0), np.float32(cap1))
    h = z * taper
    h += half
    h *= h
    t *= t
    h -= t
    s = ux * gy - uy * gx
    z *= slope
    z += pz
    if abs(shear) > 1e-3:
        np.multiply(s, shear, out=t)
        z += t
    s *= s
    h -= s
    np.sqrt(h, out=h)
    h *= bulge
    h += z
    return h
