"""Colours the visible pixels of all people at once: cloth patterns, lighting, painted details."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from mipnet.synthetic import rig
from mipnet.synthetic.body import HEAD_HALF, Build
from mipnet.synthetic.crowd_layout import SceneLayout
from mipnet.synthetic.looks import Cloth, Look, shade
from mipnet.synthetic.raster import HEIGHT, SS, WIDTH, Buffers


@dataclass(frozen=True)
class Light:
    """The scene's light.

    Attributes:
        direction: (3,) unit vector toward the light, in screen space.
        sun, sky: (3,) RGB gains of lit and shaded surfaces.
    """

    direction: np.ndarray
    sun: np.ndarray
    sky: np.ndarray


def _cloths(kinds: list[int], ellipsoids: list[bool], look: Look) -> list[Cloth]:
    """One surface per part of a person, in the order of the parts."""
    top, bottom, tone = look.top, look.bottom, look.face.skin
    skin, nose = Cloth(tone, tone), Cloth(shade(tone, 1.04), shade(tone, 1.04))
    by_kind = {
        rig.CHEST: top.shirt, rig.TRAPEZIUS: Cloth(top.shirt.base, top.shirt.base), rig.PELVIS: bottom.pelvis,
        rig.UPPER_ARM: top.upper_arm, rig.FOREARM: top.forearm, rig.SKIRT: bottom.skirt_cloth,
        rig.THIGH: bottom.thigh, rig.SHIN: bottom.shin, rig.FOOT: bottom.shoe, rig.NECK: skin,
        rig.HEAD: skin, rig.HAND: skin, rig.NOSE: nose, rig.EAR: nose,
    }  # fmt: skip
    if look.pack:
        by_kind[rig.PACK] = Cloth(look.pack, shade(look.pack, 0.75), stripes=9.0, duty=0.15)
    out, tufts = [], 0
    for kind, ellipsoid in zip(kinds, ellipsoids, strict=True):
        if kind == rig.HAIR:
            colour = look.hair_colours[min(tufts, len(look.hair_colours) - 1)]
            tufts += 1
            out.append(Cloth(colour, colour))
        elif ellipsoid and kind == rig.SHIN:
            out.append(Cloth(bottom.shin.base, bottom.shin.base))
        else:
            out.append(by_kind[kind])
    return out


def _table(layout: SceneLayout, light: Light) -> tuple[np.ndarray, np.ndarray]:
    """Per-part shading parameters (27, parts + 1) and colours (3, 3 (parts + 1)): base, alt, under.

    Column 0 stands for the background.
    """
    parts = layout.parts
    scale = layout.scales[parts.person]
    inv = 1.0 / (scale * parts.unit)  # local metres per px
    origin = parts.ends[:, 0] * scale[:, None] + layout.anchors[parts.person]
    half, half3 = parts.half / parts.unit[:, None], parts.half3 / parts.unit[:, None]
    d = parts.ends[:, 1] - parts.ends[:, 0]
    length = np.sqrt((d * d).sum(1)) / parts.unit
    weights = np.where(
        parts.ellipsoid[:, None],
        (half3.min(1, keepdims=True) / half3) ** 2,
        1.0 / np.column_stack((np.ones(len(inv)), parts.shape[:, 1], parts.shape[:, 0])) ** 2,
    )
    taper = -(half[:, 1] - half[:, 0]) / np.maximum(length, 0.02) * half.mean(1)
    taper[parts.ellipsoid] = 0.0
    to_light = (parts.frames * light.direction[:, None]).sum(1)
    kinds, ellipsoids = parts.kind.tolist(), parts.ellipsoid.tolist()
    cloths: list[Cloth] = []
    for (_, look), stop in zip(layout.people, np.cumsum(np.bincount(parts.person)).tolist(), strict=True):
        start = len(cloths)
        cloths += _cloths(kinds[start:stop], ellipsoids[start:stop], look)
    axes = parts.frames.swapaxes(1, 2) * inv[:, None, None]  # local metres per px
    table = np.zeros((27, len(inv) + 1), dtype=np.float32)
    table[0:9, 1:], table[9:12, 1:] = axes.reshape(-1, 9).T, -(axes @ origin[:, :, None])[..., 0].T
    table[12, 1:], table[13:16, 1:], table[16, 1:] = length, weights.T, taper
    table[17:20, 1:], table[20:23, 1:] = to_light.T, parts.frames[:, 2, :].T
    table[23:27, 1:] = np.array([(c.stripes, c.columns, c.duty, c.cut) for c in cloths]).T
    colours = np.zeros((3, 3 * len(inv) + 3), dtype=np.float32)
    colours[:, 3:] = np.array([(c.base, c.alt, c.under) for c in cloths]).reshape(-1, 3).T
    return table, colours


def _occlusion(depth: np.ndarray) -> np.ndarray:
    """Soft shadow of nearer limbs, 0 to 1, (HEIGHT, WIDTH): how much nearer the neighbourhood is."""
    coarse = depth[::SS, ::SS]
    mean = cv2.blur(np.maximum(coarse, -400.0), (7, 7), borderType=cv2.BORDER_REPLICATE)
    mean -= coarse
    mean *= 1.0 / 26.0
    occlusion: np.ndarray = np.minimum(np.maximum(mean, 0.0, out=mean), 1.0, out=mean)
    return occlusion


_ROWS, _COLUMNS = (np.ascontiguousarray(g).reshape(-1) for g in np.indices((HEIGHT, WIDTH), dtype=np.float32))
_FINE_ROWS, _FINE_COLUMNS = (g.reshape(-1) for g in np.indices((HEIGHT * SS, WIDTH * SS), dtype=np.float32))
_COARSE = (np.arange(HEIGHT * SS)[:, None] // SS * WIDTH + np.arange(WIDTH * SS) // SS).reshape(-1)


@dataclass(frozen=True)
class _Samples:
    """The n points to shade: first whole image pixels, then single buffer pixels.

    Attributes:
        x, y, z: (n,) px and depth.
        part: (n,) identity of the body part, as in ``Buffers``.
        whole: flat indices of the whole image pixels.
        edge: flat indices of the buffer pixels.
        pixel: (n,) flat index of the image pixel of each.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    part: np.ndarray
    whole: np.ndarray
    edge: np.ndarray
    pixel: np.ndarray


def _samples(buffers: Buffers, fine: np.ndarray) -> _Samples:
    """Image pixels whose four buffer pixels show one part get one sample, at the centre; all others get four.

    Args:
        buffers: of the rasteriser.
        fine: (256,) uint8, not 0 for parts that always get four samples.
    """
    ids, depth = buffers.identity, buffers.depth
    one = np.ascontiguousarray(ids[::2, ::2])
    same = cv2.LUT(one, fine) == 0
    for other in (ids[1::2, ::2], ids[::2, 1::2], ids[1::2, 1::2]):
        same &= one == other
    spread = cv2.resize(same.view(np.uint8), (WIDTH * SS, HEIGHT * SS), interpolation=cv2.INTER_NEAREST)
    edge = np.flatnonzero((ids > 0) & (spread == 0))
    same &= one > 0
    whole = np.flatnonzero(same)
    mean = cv2.resize(depth, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return _Samples(
        x=np.concatenate((_COLUMNS[whole] + 0.5, (_FINE_COLUMNS[edge] + 0.5) * (1 / SS)), dtype=np.float32),
        y=np.concatenate((_ROWS[whole] + 0.5, (_FINE_ROWS[edge] + 0.5) * (1 / SS)), dtype=np.float32),
        z=np.concatenate((mean.take(whole), depth.take(edge))),
        part=np.concatenate((one.ravel().take(whole), ids.take(edge))),
        whole=whole,
        edge=edge,
        pixel=np.concatenate((whole, _COARSE[edge])),
    )


def shade_people(buffers: Buffers, layout: SceneLayout, light: Light, grain: np.ndarray) -> np.ndarray:
    """Colour the people's pixels.

    Args:
        buffers: which body part each buffer pixel shows, and its depth.
        layout: the body parts, looks and places of the people.
        light: of the scene.
        grain: (HEIGHT, WIDTH) float32, smooth noise around 1 for the folds of cloth.

    Returns:
        (HEIGHT, WIDTH, 4) uint8, RGB premultiplied by the alpha in channel 3.
    """
    table, palette = _table(layout, light)
    fine = np.zeros(256, dtype=np.uint8)
    fine[1 : 1 + len(layout.parts.kind)] = layout.parts.kind == rig.HEAD
    samples = _samples(buffers, fine)
    part = samples.part.astype(np.intp)
    g = table.take(part, axis=1)  # (27, n)
    local = tuple(
        g[i] * samples.x + g[i + 1] * samples.y + g[i + 2] * samples.z + g[9 + i // 3] for i in (0, 3, 6)
    )
    lit, gain = _lighting(g, local, _occlusion(buffers.depth).take(samples.pixel))
    gain *= grain.ravel().take(samples.pixel)
    colour = _cloth_colours(g, local, part, palette)
    _paint_details(colour, local, samples.part, layout)
    colour *= gain
    colour *= light.sky[:, None] + lit * (light.sun - light.sky)[:, None]
    return _downsample(samples, colour)


def _lighting(
    g: np.ndarray, local: tuple[np.ndarray, ...], shadow: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Share of sunlight and brightness gain of each sample, (n,) each.

    Uses the normal of an ellipse-swept segment in the part's coordinates, and the light in the same frame.
    """
    lx, ly, lz = local
    nx = lx * g[13]
    ny = (ly - np.minimum(np.maximum(ly, 0.0), g[12])) * g[14] + g[16]
    nz = lz * g[15]
    norm = 1.0 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-9)
    lit = (nx * g[17] + ny * g[18] + nz * g[19]) * norm
    facing = (nx * g[20] + ny * g[21] + nz * g[22]) * norm
    lit = np.maximum(0.5 + 0.5 * lit, 0.0)
    lit *= lit
    lit *= 1.0 - 0.55 * shadow
    gain = (0.7 + 0.3 * np.minimum(1.6 * np.maximum(facing, 0.0), 1.0)) * (1.0 - 0.4 * shadow)
    return lit, gain


def _cloth_colours(
    g: np.ndarray, local: tuple[np.ndarray, ...], part: np.ndarray, palette: np.ndarray
) -> np.ndarray:
    """(3, n): base or alternate colour by the pattern, or the colour under the hem below the cut."""
    lx, ly, _ = local
    hidden = ly < g[26]
    colour: np.ndarray = palette.take(3 * part + 2 * hidden, axis=1)
    patterned = np.flatnonzero((g[25] > 0) & ~hidden)
    if patterned.size:
        stripes, columns, duty = g[23:26, patterned]
        across, along = ly[patterned] * stripes, lx[patterned] * columns
        amount = ((across - np.floor(across)) < duty) * (stripes > 0) + 1.0 * (
            ((along - np.floor(along)) < duty) & (columns > 0)
        )
        amount *= np.where((stripes > 0) & (columns > 0), 0.5, 1.0)
        alt = palette.take(3 * part[patterned] + 1, axis=1)
        base = colour.take(patterned, axis=1)
        colour[:, patterned] = base + (alt - base) * amount.astype(np.float32)
    return colour


def _paint_details(
    colour: np.ndarray, local: tuple[np.ndarray, ...], part: np.ndarray, layout: SceneLayout
) -> None:
    """Paint faces, necklines and shoes into ``colour`` (3, n)."""
    parts = layout.parts
    for i, (kind, person) in enumerate(zip(parts.kind.tolist(), parts.person.tolist(), strict=True)):
        if kind in _DETAIL:
            own = (part == i + 1).nonzero()[0]
            if own.size:
                surface = _Surface(colour, own, *(axis[own] for axis in local))
                _DETAIL[kind](surface, *layout.people[person])


def _downsample(samples: _Samples, colour: np.ndarray) -> np.ndarray:
    """Write the colours (3, n) of the samples into an image, averaging those of buffer pixels."""
    rgba = np.empty((len(samples.part), 4), dtype=np.uint8)
    rgba[:, :3] = np.minimum(colour, 255.0, out=colour).T
    rgba[:, 3] = 255
    packed = rgba.view(np.uint32)[:, 0]  # four channels move as one
    n = len(samples.whole)
    canvas = np.zeros((HEIGHT * SS, WIDTH * SS, 4), dtype=np.uint8)
    canvas.view(np.uint32).reshape(-1)[samples.edge] = packed[n:]
    result: np.ndarray = cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    result.view(np.uint32).reshape(-1)[samples.whole] = packed[:n]
    return result


# --- painted details ------------------------------------------------------------------------------------


class _Surface(NamedTuple):
    """The visible samples of one part: their columns ``own`` (n,) of ``colour`` (3, …), and their coordinates
    x, y, z (n,) in the part's frame, in metres."""

    colour: np.ndarray
    own: np.ndarray
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray

    def paint(self, where: np.ndarray, rgb: tuple[float, float, float]) -> None:
        self.colour[:, self.own[where]] = np.array(rgb, dtype=np.float32)[:, None]


def _head(at: _Surface, build: Build, look: Look) -> None:
    face = look.face
    size = 1.0 / build.head
    ux, uy, uz = at.x * (size / HEAD_HALF[0]), at.y * (size / HEAD_HALF[1]), at.z * (size / HEAD_HALF[2])
    side = np.abs(ux)
    front = uz > 0.1
    brow_hair = shade(face.hair, 0.85)
    if face.beard:
        at.paint((uy < -0.34 - 0.25 * (side < 0.34) * (uy > -0.62)) & (uz > -0.35), brow_hair)
    elif face.moustache:
        at.paint(front & (side < 0.36) & (np.abs(uy + 0.36) < 0.07), brow_hair)
    mouth = -0.55 + face.smile * 0.9 * ux * ux
    at.paint(front & (side < 0.3) & (np.abs(uy - mouth) < 0.062), face.lips)
    eye_x = (side - 0.385) * (1 / 0.2)
    eye_y = (uy - 0.11) * (1 / 0.135)
    at.paint(front & (eye_x * eye_x + eye_y * eye_y < 1), (244.0, 242.0, 238.0))
    at.paint(front & (eye_x * eye_x * 3.2 + eye_y * eye_y < 0.95), face.iris)
    at.paint(front & (np.abs(side - 0.39) < 0.25) & (np.abs(uy - 0.345 + 0.1 * side) < 0.055), brow_hair)
    if face.glasses:
        ring = ((side - 0.4) * (1 / 0.3)) ** 2 + ((uy - 0.1) * (1 / 0.24)) ** 2
        bridge = (side < 0.1) & (np.abs(uy - 0.16) < 0.05)
        at.paint(front & ((np.abs(ring - 1) < 0.32) | bridge), (30.0, 28.0, 30.0))
    line = face.hairline + 0.16 * face.fringe * ux - 0.22 * side * side
    back = uz < -0.05 - 0.5 * (uy + 0.1)
    at.paint((uy > line) | (back & (uy > -0.62) & (line < 2)), look.hair_colours[0])


def _chest(at: _Surface, build: Build, look: Look) -> None:
    top = 0.36 * build.torso
    front = at.z > 0
    side = np.abs(at.x)
    if look.top.jacket:
        at.paint(front & (side < 0.035 + 0.05 * at.y), look.top.jacket)
    elif look.zip_line:
        at.paint(front & (side < 0.007), shade(look.top.shirt.base, 0.55))
    if look.emblem and not look.top.jacket:
        at.paint(front & (at.x * at.x + (at.y - 0.2) ** 2 < 0.055**2), look.emblem)
    at.paint(front & (at.y > top - look.neckline + 1.1 * side - 0.02), look.face.skin)
    if look.pack:
        at.paint(front & (np.abs(side - 0.1) < 0.017), shade(look.pack, 0.7))


def _shoulder(at: _Surface, build: Build, look: Look) -> None:
    at.paint(at.y < 0.012 + 0.2 * look.neckline, look.face.skin)


def _foot(at: _Surface, build: Build, look: Look) -> None:
    at.paint(at.z > 0.019, look.bottom.shoe.alt)


_DETAIL = {rig.HEAD: _head, rig.CHEST: _chest, rig.TRAPEZIUS: _shoulder, rig.FOOT: _foot}
