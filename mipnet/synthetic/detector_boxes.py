"""Boxes such as a person detector would give."""

from __future__ import annotations

from random import Random
from typing import Literal

import numpy as np

from mipnet.data.box_ops import box_iou, box_nms
from mipnet.synthetic.schema import Scene

NMS_IOU = 0.5
UNION_IOU = 0.4
_JITTER = 0.037  # of the box's size, per edge


def detector_boxes(
    scene: Scene, kind: Literal["det5", "union"], seed: int, index: int
) -> tuple[np.ndarray, np.ndarray]:
    """What a detector might find: (M, 4) float32 x, y, w, h in px and (M,) float32 scores, best first.

    Every box is jittered and scored by how much of its person shows, with noise. "det5" then keeps what
    survives non-maximum suppression at IoU 0.5, so of two people embracing often one is lost; "union" first
    merges people whose true boxes overlap with IoU > 0.4 into one box around both. A pure function of its
    arguments.

    Raises:
        ValueError: ``kind`` is neither.
    """
    if kind not in ("det5", "union"):
        raise ValueError(f"unknown kind of detector boxes: {kind!r}")
    r = Random(f"boxes/{kind}/{seed}/{index}")
    height, width = scene.image.shape[:2]
    boxes = np.array([p.box for p in scene.people], dtype=np.float64)
    visible = np.array([p.visible_fraction for p in scene.people])
    if kind == "union":
        boxes, visible = _merge(boxes, visible)
    low, size = boxes[:, :2], boxes[:, 2:]
    noise = np.array([[r.gauss(0.0, 1.0) for _ in range(5)] for _ in boxes])
    high = low + size + _JITTER * size * noise[:, 2:4]
    low = np.maximum(low + _JITTER * size * noise[:, 0:2], 0.0)
    high = np.maximum(np.minimum(high, (width, height)), low + 2.0)
    scores = np.clip(0.97 * visible + 0.06 * noise[:, 4], 0.05, 1.0)
    found = np.hstack((low, high - low))
    order = np.argsort(-scores, kind="stable")
    found, scores = found[order], scores[order]
    if kind == "det5":
        kept = box_nms(np.zeros(len(found)), found, scores, NMS_IOU)
        found, scores = found[kept], scores[kept]
    return found.astype(np.float32), scores.astype(np.float32)


def _merge(boxes: np.ndarray, visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes around the groups that IoU > 0.4 connects, each as visible as its most visible member."""
    group = list(range(len(boxes)))
    for i, j in zip(*np.nonzero(np.triu(box_iou(boxes, boxes) > UNION_IOU, 1)), strict=True):
        group = [group[i] if g == group[j] else g for g in group]
    merged, shown = [], []
    for g in sorted(set(group)):
        own = boxes[[k == g for k in group]]
        low, high = own[:, :2].min(0), (own[:, :2] + own[:, 2:]).max(0)
        merged.append(np.concatenate((low, high - low)))
        shown.append(visible[[k == g for k in group]].max())
    return np.array(merged), np.array(shown)
