"""IoU and non-maximum suppression of boxes."""

from __future__ import annotations

import numpy as np
from pycocotools import mask


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, B) intersection over union of boxes (x, y, w, h), (A, 4) and (B, 4) float64."""
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    return np.reshape(mask.iou(a, b, [0] * len(b)), (len(a), len(b)))


def box_nms(image_index: np.ndarray, boxes: np.ndarray, scores: np.ndarray, max_iou: float) -> np.ndarray:
    """Greedy non-maximum suppression within each image.

    Args:
        image_index: (B,) the image of each box, sorted.
        boxes: (B, 4) x, y, w, h in px.
        scores: (B,); of equal scores the first box wins.
        max_iou: a box is suppressed by a kept one with a higher IoU; 1 keeps all.

    Returns:
        (n,) int64 indices of the kept boxes in ascending order.
    """
    keep = np.ones(len(boxes), bool)
    if max_iou >= 1 or not len(boxes):
        return np.flatnonzero(keep)
    starts = np.flatnonzero(np.diff(image_index, prepend=-1))
    for begin, end in zip(starts, [*starts[1:], len(boxes)], strict=True):
        overlaps = box_iou(boxes[begin:end], boxes[begin:end]) > max_iou
        order = np.argsort(-scores[begin:end], kind="stable")
        kept = keep[begin:end]
        for rank, i in enumerate(order):
            if kept[i]:
                lower = order[rank + 1 :]
                kept[lower[overlaps[i, lower]]] = False
    return np.flatnonzero(keep)
