"""From depth and identity buffers to annotations: visibility, boxes, areas, polygons."""

from __future__ import annotations

import cv2
import numpy as np

from mipnet.skeletons import COCO17
from mipnet.synthetic import rig
from mipnet.synthetic.crowd_layout import SceneLayout
from mipnet.synthetic.raster import HEIGHT, SS, WIDTH, Buffers
from mipnet.synthetic.rig import BodyParts
from mipnet.synthetic.schema import ScenePerson

# Per pair of keypoints: kinds of body parts that contain it, largest depth below their surface (metres).
_CARRIERS = (
    ((0,), (rig.NOSE, rig.HEAD), 0.04),
    ((1, 2), (rig.HEAD, rig.NOSE), 0.028),
    ((3, 4), (rig.EAR, rig.HEAD, rig.HAIR), 0.05),
    ((5, 6), (rig.UPPER_ARM, rig.TRAPEZIUS, rig.CHEST, rig.PACK), 0.12),
    ((7, 8), (rig.UPPER_ARM, rig.FOREARM), 0.09),
    ((9, 10), (rig.FOREARM, rig.HAND), 0.08),
    ((11, 12), (rig.PELVIS, rig.THIGH, rig.CHEST, rig.SKIRT), 0.16),
    ((13, 14), (rig.THIGH, rig.SHIN, rig.SKIRT), 0.11),
    ((15, 16), (rig.SHIN, rig.FOOT), 0.09),
)
_CARRIES = np.zeros((17, 16), dtype=bool)
_MAX_DEPTH = np.zeros(17)
for _joints, _kinds, _depth in _CARRIERS:
    for _j in _joints:
        _CARRIES[_j, list(_kinds)] = True
        _MAX_DEPTH[_j] = _depth
_KEYPOINT_SIDE = np.array([-1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1])

# An occluded keypoint is labelled if one of these is visible, because annotators can then guess its position.
_NEIGHBOURS = np.zeros((17, 17), dtype=bool)
for _a, _b in (limb for limb in COCO17.limbs if not {3, 4} & {*limb}):  # all but those to the ears
    _NEIGHBOURS[_a, _b] = _NEIGHBOURS[_b, _a] = True
for _a, _b in ((3, 1), (4, 2), (3, 0), (4, 0)):  # the face locates the ear, but not the reverse
    _NEIGHBOURS[_a, _b] = True


def visible_fractions(buffers: Buffers, parts: BodyParts) -> list[float]:
    """Per person, the visible fraction of the silhouette inside the image; 0 for persons outside."""
    out = []
    first = 1
    for n, mask, area in zip(np.bincount(parts.person).tolist(), buffers.masks, buffers.areas, strict=True):
        # unsigned: what is below first wraps around
        shown = np.count_nonzero((buffers.identity[area] - np.uint8(first)) < n)
        out.append(int(shown) / max(int(np.count_nonzero(mask)), 1))
        first += n
    return out


def silhouette_boxes(buffers: Buffers) -> np.ndarray:
    """Boxes (people, 4) x, y, w, h in px of the silhouettes inside the image; 0 for persons outside."""
    out = np.zeros((len(buffers.masks), 4))
    for box, mask, (rows, columns) in zip(out, buffers.masks, buffers.areas, strict=True):
        if mask.size:
            x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
            box[:] = columns.start + x, rows.start + y, w, h
    return out / SS


def label_keypoints(buffers: Buffers, layout: SceneLayout) -> np.ndarray:
    """(people, 17, 3) float32 as ``ScenePerson.keypoints``."""
    parts, scales = layout.parts, layout.scales
    points = parts.keypoints * scales[:, None, None] + layout.anchors[:, None]
    x, y, z = np.moveaxis(points, 2, 0)
    inside = (x >= 0.5) & (x <= WIDTH - 0.5) & (y >= 0.5) & (y <= HEIGHT - 0.5)
    column = np.clip(x * SS, 0, WIDTH * SS - 1).astype(np.intp)
    row = np.clip(y * SS, 0, HEIGHT * SS - 1).astype(np.intp)
    top = buffers.identity[row, column].astype(np.intp) - 1  # -1: background, nothing in front
    person = np.arange(len(points))[:, None]
    side = parts.side[top]
    own = (
        (parts.person[top] == person)
        & _CARRIES[np.arange(17), parts.kind[top]]
        & ((side < 0) | (_KEYPOINT_SIDE < 0) | (side == _KEYPOINT_SIDE))
        & (buffers.depth[row, column] - z < _MAX_DEPTH * scales[:, None])
    )
    behind = buffers.depth[row, column] <= z  # a keypoint at the edge of its limb, in front of another person
    visible = inside & (own | behind)
    guessable = (visible[:, None, :] & _NEIGHBOURS).any(2)
    value = np.where(visible, 2, np.where(inside & guessable, 1, 0))
    labelled = value > 0
    shown = np.where(labelled[:, :, None], points[:, :, :2] - 0.5, 0.0)
    return np.concatenate((shown, value[:, :, None]), axis=2, dtype=np.float32)


def _open_hole(corners: np.ndarray, hole: np.ndarray) -> None:
    """Cut the shortest straight slit, one pixel wide, from a hole's rim (n, 2: x, y) to the outside."""
    best: np.ndarray | None = None
    for axis in (0, 1):
        for x, y in (hole[hole[:, axis].argmin()], hole[hole[:, axis].argmax()]):
            line, at = (corners[y], x) if axis == 0 else (corners[:, x], y)
            outward = line[at:] if hole[:, axis].max() == at else line[at::-1]
            length = int(outward.argmin()) if not outward.all() else len(outward)
            if best is None or length < len(best):
                best = outward[:length]
    if best is not None:
        best[:] = 0


def polygons(mask: np.ndarray, x: int, y: int) -> list[list[float]]:
    """COCO polygons, px, of a mask at twice the resolution whose corner is at (x, y) buffer px.

    COCO's polygons have no holes, so holes are opened by a thin slit.
    """
    # With all four corners of each pixel marked, contours run along pixel edges instead of pixel centres.
    corners = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.uint8)
    m = mask.view(np.uint8)
    corners[:-1, :-1] = m
    corners[1:, :-1] |= m
    corners[:, 1:] |= corners[:, :-1]
    found, levels = cv2.findContours(corners, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    holes = [c for c, level in zip(found, levels[0], strict=True) if level[3] >= 0 and len(c) > 3]
    if holes:
        for hole in holes:
            _open_hole(corners, hole[:, 0])
        found, _ = cv2.findContours(corners, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    else:
        found = [c for c, level in zip(found, levels[0], strict=True) if level[3] < 0]
    out = []
    for contour in found:
        smooth = cv2.approxPolyDP(contour, 0.8, True)
        if len(smooth) >= 3 and cv2.contourArea(smooth) >= SS * SS:
            out.append(((smooth.reshape(-1, 2) + np.array((x, y))) * (1.0 / SS)).reshape(-1).tolist())
    return out


def annotate(buffers: Buffers, layout: SceneLayout, visible: list[float]) -> tuple[ScenePerson, ...]:
    """The annotations of all people, given their ``visible_fractions``."""
    keypoints = label_keypoints(buffers, layout)
    boxes = silhouette_boxes(buffers).astype(np.float32)
    return tuple(
        ScenePerson(
            keypoints=keypoints[i],
            box=boxes[i],
            area=int(np.count_nonzero(mask)) / SS**2,
            segmentation=polygons(mask, area[1].start, area[0].start),
            visible_fraction=visible[i],
        )
        for i, (mask, area) in enumerate(zip(buffers.masks, buffers.areas, strict=True))
    )
