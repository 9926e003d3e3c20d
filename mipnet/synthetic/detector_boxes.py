"""Simulated person detections: jittered boxes with scores."""

from __future__ import annotations

from random import Random
from typing import Literal

import numpy as np

from mipnet.data.box_ops import box_iou, box_nms
from mipnet.synthetic.schema import Scene

NMS_IOU = 0.5
UNION_IOU = 0.4
_EDGE_JITTER = 0.037  # σ per edge, in box sizes


def detector_boxes(
    scene: Scene, kind: Literal["det5", "union"], seed: int, index: int
) -> tuple[np.ndarray, np.ndarray]:
    """Simulated detections of a scene; a pure function of the arguments.

    Boxes are jittered and scored by the visible fraction of their person, with noise. "det5" applies NMS at
    IoU 0.5, so of two people who embrace one is often lost; "union" first merges people whose true boxes have
    IoU > 0.4 into one box around both.

    Returns:
        (M, 4) float32 x, y, w, h in px, and (M,) float32 scores, highest first.

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
    high = low + size + _EDGE_JITTER * size * noise[:, 2:4]
    low = np.maximum(low + _EDGE_JITTER * size * noise[:, 0:2], 0.0)
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
    """Boxes around groups connected by IoU > 0.4, with the visible fraction of the most visible member."""
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
