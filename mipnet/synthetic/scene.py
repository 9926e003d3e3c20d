"""Renders scenes of the generated benchmark: layout, rasterisation, check, annotation, colouring."""

from __future__ import annotations

from random import Random

import cv2
import numpy as np

from mipnet.data.box_ops import box_iou
from mipnet.synthetic import canvas
from mipnet.synthetic.annotate import annotate, silhouette_boxes, visible_fractions
from mipnet.synthetic.background import paint_background, paint_seat
from mipnet.synthetic.crowd_layout import IOU_BANDS, SceneLayout, compose, draw_plan
from mipnet.synthetic.raster import HEIGHT, SS, Buffers
from mipnet.synthetic.schema import DIFFICULTIES, Scene
from mipnet.synthetic.shading import Light, shade_people

MIN_VISIBLE = 0.30  # fraction of a person's silhouette
MIN_AREA = 250.0  # px² of a person inside the image
# Indices of COCO's keypoints.
_LEFT_HIP, _RIGHT_HIP, _LEFT_ANKLE, _RIGHT_ANKLE = 11, 12, 15, 16


def render_scene(difficulty: str, seed: int, index: int) -> Scene:
    """Scene ``index`` of the series ``seed``; a pure function of its arguments, bit for bit.

    The largest box IoU between two people is below 0.1 ("easy"), 0.1 to 0.5 ("medium") or 0.5 to 0.9
    ("hard"); at least 30 % of each silhouette is visible.

    Raises:
        ValueError: ``difficulty`` is none of ``DIFFICULTIES``.
    """
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"unknown difficulty {difficulty!r}: choose from {', '.join(DIFFICULTIES)}")
    r = Random(f"scene/{seed}/{difficulty}/{index}")
    plan = draw_plan(r, difficulty)
    while True:
        layout = compose(r, plan)
        if layout is None:
            continue
        buffers = Buffers(layout.outline, layout.anchors, layout.scales)
        visible = visible_fractions(buffers, layout.parts)
        if min(visible) >= MIN_VISIBLE and _fits(buffers, difficulty):
            break
    people = annotate(buffers, layout, visible)
    return Scene(_paint(r, layout, buffers), people)


def _fits(buffers: Buffers, difficulty: str) -> bool:
    """Whether the drawn silhouettes have the box IoU of the difficulty, and the minimum area."""
    low, high = IOU_BANDS[difficulty]
    boxes = silhouette_boxes(buffers)
    iou = box_iou(boxes, boxes)
    largest = float(np.max(iou - np.eye(len(iou)))) if len(iou) > 1 else 0.0
    smallest = min(int(np.count_nonzero(m)) for m in buffers.masks)
    return low <= largest < high and smallest >= MIN_AREA * SS**2


def _light(r: Random) -> Light:
    direction = np.array([r.uniform(-0.9, 0.9), r.uniform(-1.0, -0.35), r.uniform(0.35, 0.9)])
    warmth = r.uniform(-0.02, 0.07)
    sun, sky = r.uniform(1.04, 1.2), r.uniform(0.42, 0.6)
    return Light(
        direction=direction / np.sqrt((direction**2).sum()),
        sun=np.array([sun * (1 + warmth), sun, sun * (1 - warmth)], dtype=np.float32),
        sky=np.array([sky * (1 - warmth), sky, sky * (1 + warmth)], dtype=np.float32),
    )


def _paint(r: Random, layout: SceneLayout, buffers: Buffers) -> np.ndarray:
    feet = layout.anchors[:, 1]
    highest = float(feet.min()) - 4.0
    floor = int(min(max(r.uniform(max(layout.horizon, 40.0), highest), 30.0), highest, HEIGHT - 8.0))
    image = paint_background(r, min(layout.horizon, floor - 4.0), floor)
    spots = []
    for i, pose in enumerate(layout.poses):
        x, y, _ = layout.anchors[i].tolist()
        scale = float(layout.scales[i])
        joints = layout.parts.keypoints[i, :, :2] * scale + (x, y)
        if pose.seat:
            hips_x, hips_y = (0.5 * (joints[_LEFT_HIP] + joints[_RIGHT_HIP])).tolist()
            paint_seat(image, r, x=hips_x, top=hips_y + 0.075 * scale, base=y, width=0.4 * scale)
        spots.append((x, y, 0.3 * scale, 0.06 * scale))
        for ankle in joints[[_LEFT_ANKLE, _RIGHT_ANKLE]].tolist():
            sole = min(max(ankle[1] + 0.07 * scale, y - 0.1 * scale), y + 0.1 * scale)
            spots.append((ankle[0], sole, 0.13 * scale, 0.04 * scale))
    canvas.cast_shadows(image, spots, r.uniform(0.25, 0.5))
    people = shade_people(buffers, layout, _light(r), canvas.folds(r))
    return canvas.develop(_over(people, image), r)


def _over(rgba: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Composite premultiplied ``rgba`` over ``image``."""
    red, green, blue, alpha = cv2.split(rgba)
    keep = cv2.bitwise_not(alpha)
    behind = cv2.multiply(image, cv2.merge((keep, keep, keep)), scale=1 / 255.0)
    composite: np.ndarray = cv2.add(behind, cv2.merge((red, green, blue)))
    return composite
