"""Pictures of poses: skeletons over their image, and contact sheets of several pictures side by side.

All shapes are antialiased with sub-pixel positions and widths: coverage is computed from the distance to a
segment and blended over the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from mipnet.skeletons import Skeleton

# One colour per person. Any two differ by at least 18 CIELAB units, the first six by 22, in normal colour
# vision as well as in simulated protanopia and deuteranopia.
PALETTE = np.array([
    [255, 127, 42], [47, 155, 255], [255, 233, 74], [255, 138, 216], [0, 181, 138],
    [122, 69, 255], [200, 255, 240], [179, 48, 95], [138, 90, 43], [0, 96, 168],
], np.float32)  # fmt: skip
INK = np.array([18, 18, 24], np.float32)  # outlines and dark text
PAPER = np.array([255, 255, 255], np.float32)  # hollow keypoints, light text, a contact sheet's background
MIN_JOINT_SCORE = 0.2
MARGIN = 12  # px around and between the pictures of a contact sheet

_Pose = tuple[int, np.ndarray, dict[str, Any]]  # λ, colour, COCO result


def draw_poses(
    image: np.ndarray,
    results: Sequence[dict[str, Any]],
    skeleton: Skeleton,
    *,
    longer_side: int = 512,
    colours: Sequence[int] | None = None,
    min_joint_score: float = MIN_JOINT_SCORE,
) -> np.ndarray:
    """Draw poses over their image: one colour per pose, left limbs lighter, right limbs darker.

    Poses of instance λ > 0 have dashed limbs, hollow keypoints and a tag with their λ. Keypoints fade and
    shrink with their score. Boxes are thin; a box of several poses is drawn once.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        results: this image's poses as COCO results: ``keypoints`` (x, y, score) · K in px of ``image``, and
            where known ``instance`` (0 if absent) and ``box`` (x, y, w, h).
        skeleton: of the K keypoints.
        longer_side: a smaller image is enlarged by the integer factor that gives it at least so many px.
        colours: (len(results),) palette index of each pose, so that a person can keep its colour in several
            pictures; by default 0, 1, 2, …. Indices wrap around after ten colours.
        min_joint_score: keypoints with a lower score are not drawn, nor their limbs.

    Returns:
        (H·s, W·s, 3) uint8 RGB, s >= 1 an integer.

    Raises:
        ValueError: an image, keypoints or colours of another shape.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"image must be (H, W, 3) uint8 RGB, not {image.shape} {image.dtype}")
    scale = max(1, -(-longer_side // max(image.shape[:2])))
    height, width = image.shape[0] * scale, image.shape[1] * scale
    enlarged = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC) if scale > 1 else image
    canvas = np.array(enlarged, order="C")
    numbers = range(len(results)) if colours is None else colours
    poses = [
        (int(result.get("instance", 0)), PALETTE[number % len(PALETTE)], result)
        for result, number in zip(results, numbers, strict=True)
    ]
    _draw_boxes(canvas, poses, scale)
    _draw_skeletons(canvas, poses, scale, skeleton, min_joint_score)
    return canvas


def _draw_boxes(canvas: np.ndarray, poses: Sequence[_Pose], scale: int) -> None:
    boxes: dict[tuple[float, ...], np.ndarray] = {}
    radius = max(0.6, max(canvas.shape[:2]) / 800)
    for _, tint, result in sorted(poses, key=lambda pose: pose[0]):  # a shared box has the colour of λ = 0
        if result.get("box") is not None:
            boxes.setdefault(tuple(result["box"]), tint)
    for (x, y, w, h), tint in boxes.items():
        corners = _enlarged(np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]]), scale)
        for outline, colour, alpha in ((0.7, INK, 0.4), (0, tint, 0.9)):
            for k in range(4):
                _stroke(canvas, corners[k : k + 2], radius + outline, colour, np.full(2, alpha))


def _draw_skeletons(
    canvas: np.ndarray, poses: Sequence[_Pose], scale: int, skeleton: Skeleton, min_joint_score: float
) -> None:
    """Draw the skeletons, then the tags of those with λ > 0."""
    tags: list[tuple[str, np.ndarray, np.ndarray]] = []
    for instance, tint, result in reversed(poses):  # the first, usually the most confident, is on top
        pose = np.array(result["keypoints"], np.float64).reshape(skeleton.num_joints, 3)
        pose[:, :2] = _enlarged(pose[:, :2], scale)
        kept = np.isfinite(pose).all(axis=1) & (pose[:, 2] >= min_joint_score)
        if kept.any():
            _draw_pose(canvas, pose, kept, skeleton, tint, hollow=instance > 0)
            if instance > 0:
                top = np.where(kept, pose[:, 1], np.inf).argmin()
                tags.append((f"λ{instance}", pose[top, :2], tint))
    taken: list[np.ndarray] = []
    for text, point, tint in reversed(tags):
        taken.append(_draw_tag(canvas, text, point, tint, taken))


def picture_grid(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], captions: Sequence[str] = (), cell: int = 480
) -> np.ndarray:
    """A contact sheet: pictures in cells of one size, a title over each column, a caption over each row.

    Args:
        rows: (h, w, 3) uint8 RGB pictures of any size; a row may have fewer than there are titles.
        titles: one per column.
        captions: one per row, or none at all.
        cell: longer side of a picture in the sheet, in px.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ValueError: no pictures, a row with more pictures than titles, or too few or many captions.
    """
    columns, most = len(titles), max((len(row) for row in rows), default=0)
    if not 0 < most <= columns or len(captions) not in (0, len(rows)):
        raise ValueError(f"rows of {most} pictures for {columns} titles, {len(captions)} captions")
    fitted = [[fit(picture, cell) for picture in row] for row in rows]
    height, width = np.max([p.shape[:2] for row in fitted for p in row], axis=0).tolist()
    large, small = max(15, cell // 24), max(13, cell // 30)
    head, above = 2 * large, 2 * small if captions else 0
    size = head + len(rows) * (above + height + MARGIN), MARGIN + columns * (width + MARGIN)
    sheet = np.full((*size, 3), PAPER, np.uint8)
    lefts = [MARGIN + column * (width + MARGIN) for column in range(columns)]
    for left, title in zip(lefts, titles, strict=True):
        _write(sheet, title, (left, round(1.4 * large)), width, large, 600)
    for number, row in enumerate(fitted):
        top = head + number * (above + height + MARGIN) + above
        if captions:
            across = lefts[-1] + width - MARGIN
            _write(sheet, captions[number], (MARGIN, top - small // 2), across, small, 400)
        for left, picture in zip(lefts, row, strict=False):
            h, w = picture.shape[:2]
            y, x = top + (height - h) // 2, left + (width - w) // 2
            sheet[top : top + height, left : left + width] = 232
            sheet[y : y + h, x : x + w] = picture
    return sheet


def encode_jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    """An (H, W, 3) uint8 RGB picture as the bytes of a JPEG file."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def _enlarged(points: np.ndarray, scale: int) -> np.ndarray:
    """Points (..., 2) after ``cv2.resize``, which keeps the pixels' corners in place, not their centres."""
    return (points + 0.5) * scale - 0.5


def _draw_pose(
    canvas: np.ndarray, pose: np.ndarray, kept: np.ndarray, skeleton: Skeleton, tint: np.ndarray, hollow: bool
) -> None:
    side = np.zeros(len(pose))
    for left, right in skeleton.flip_pairs:
        side[left], side[right] = 1, -1
    scores, points = pose[:, 2].clip(0, 1), pose[:, :2]
    alpha = 0.45 + 0.55 * scores
    # Thin limbs for small persons, because thick ones would cover them.
    extent, longer_side = np.ptp(points[kept], axis=0).max(), max(canvas.shape[:2])
    radius = float(np.clip(extent / 80, longer_side / 560, longer_side / 230))
    dash = 7 * radius if hollow else 0
    limbs = [list(limb) for limb in skeleton.limbs if kept[list(limb)].all()]
    for limb in limbs:
        _stroke(canvas, points[limb], radius + 0.8, INK, alpha[limb] / 2, dash)
    for limb in limbs:
        _stroke(canvas, points[limb], radius, _tone(tint, side[limb].sum()), alpha[limb], dash)
    for k in np.flatnonzero(kept):
        size = radius * (1.2 + 0.7 * scores[k]) + 0.6
        dots = [(size + 0.9, INK, 0.6), (size, _tone(tint, side[k]), 1), (0.55 * size, PAPER, 1)]
        for reach, colour, strength in dots if hollow else dots[:2]:
            _stroke(canvas, points[[k, k]], reach, colour, strength * alpha[[k, k]])


def _tone(tint: np.ndarray, side: float) -> np.ndarray:
    """The person's colour: lighter on the left side (> 0), darker on the right, unchanged in the middle."""
    tone: np.ndarray = tint + 0.35 * (PAPER - tint) if side > 0 else tint * (0.78 if side < 0 else 1)
    return tone


def _draw_tag(
    canvas: np.ndarray, text: str, point: np.ndarray, tint: np.ndarray, taken: list[np.ndarray]
) -> np.ndarray:
    """Draw a label above a point, inside the picture, clear of the labels at ``taken``; return its centre."""
    font, size = cv2.FontFace("sans"), max(14, round(max(canvas.shape[:2]) / 42))
    text_width = cv2.getTextSize((0, 0), text, (0, 0), font, size, 600)[2]
    half = np.array([text_width / 2 + 0.35 * size, 0.62 * size])
    limit = np.maximum(np.array(canvas.shape[1::-1]) - 1 - half, half)
    shifts = np.array([[k * (2 * half[0] + 3), -1.6 * size] for k in (0, 1, -1, 2, -2)])
    centers = (point + shifts).clip(half, limit)
    free = [c for c in centers if not any((abs(c - t) < 2 * half).all() for t in [*taken, point])]
    center: np.ndarray = free[0] if free else centers[0]
    ends = center + np.array([[half[1] - half[0], 0], [half[0] - half[1], 0]])
    _stroke(canvas, ends, half[1] + 1.2, INK, np.full(2, 0.6))
    _stroke(canvas, ends, half[1], tint, np.ones(2))
    origin = (round(center[0] - text_width / 2), round(center[1] + 0.37 * size))
    dark = float(tint @ np.array([0.299, 0.587, 0.114])) < 125
    cv2.putText(canvas, text, origin, (PAPER if dark else INK).tolist(), font, size, 600)
    return center


def _stroke(
    canvas: np.ndarray, ends: np.ndarray, radius: float, tint: np.ndarray, alpha: np.ndarray, dash: float = 0
) -> None:
    """A round-ended line between two points (2, 2), a disc if they coincide; dashed if ``dash`` > 0 (px).

    The opacity is interpolated from alpha[0] to alpha[1]. Clipped to the canvas; nan draws nothing.
    """
    low, high = ends.min(axis=0) - radius - 1, ends.max(axis=0) + radius + 2
    if not np.isfinite(ends).all():
        return
    left, top = np.floor(low).clip(0, canvas.shape[1::-1]).astype(int)
    right, bottom = np.ceil(high).clip(0, canvas.shape[1::-1]).astype(int)
    a, b = ends
    x = np.arange(left, right, dtype=np.float32)[None] - np.float32(a[0])
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(a[1])
    length = float(np.hypot(*(b - a)))
    u, v = ((b - a) / length if length > 0 else np.array([1, 0])).astype(np.float32)
    along, across = u * x + v * y, u * y - v * x
    # Dashes are stretched so that one begins at a and one ends at b; a solid line is a single dash.
    gap = 0.75 * dash
    count = max(1, round((length + gap) / (dash + gap))) if dash else 1
    period = max((length + gap) / count, 1e-6)
    start = np.rint((along - (period - gap) / 2) / period).clip(0, count - 1) * period
    distance = np.hypot(along - along.clip(start, start + period - gap), across)
    opacity = alpha[0] + (alpha[1] - alpha[0]) * (along / max(length, 1e-6)).clip(0, 1)
    view = canvas[top:bottom, left:right]
    view[:] = np.rint(view + (tint - view) * (opacity * (radius + 0.5 - distance).clip(0, 1))[..., None])


def fit(picture: np.ndarray, longer_side: int) -> np.ndarray:
    """A picture resized so that its longer side has ``longer_side`` px."""
    scale = longer_side / max(picture.shape[:2])
    size = tuple(max(1, round(length * scale)) for length in picture.shape[1::-1])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    fitted: np.ndarray = cv2.resize(picture, size, interpolation=interpolation)
    return fitted


def _write(sheet: np.ndarray, text: str, origin: tuple[int, int], width: int, size: int, weight: int) -> None:
    """Text from its baseline's left end, shortened with an ellipsis to at most ``width`` px."""
    font, shown = cv2.FontFace("sans"), text
    while text and cv2.getTextSize((0, 0), shown, (0, 0), font, size, weight)[2] > width:
        text = text[:-1]
        shown = text.rstrip() + "…"
    cv2.putText(sheet, shown, origin, INK.tolist(), font, size, weight)
