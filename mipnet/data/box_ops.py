"""How much boxes overlap, and which of a detector's boxes are one too many."""

from __future__ import annotations

import numpy as np
from pycocotools import mask


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, B) intersection over union of boxes (x, y, w, h), (A, 4) and (B, 4) float64."""
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    return np.reshape(mask.iou(a, b, [0] * len(b)), (len(a), len(b)))


def box_nms(image: np.ndarray, boxes: np.ndarray, scores: np.ndarray, max_iou: float) -> np.ndarray:
    """The boxes that are left when those too much like a better one are gone, each image for itself.

    Args:
        image: (B,) which image each box is in, sorted.
        boxes: (B, 4) x, y, w, h in px.
        scores: (B,); of equal ones the first counts as better.
        max_iou: a box goes if one that stays has a higher IoU with it; 1 keeps all.

    Returns:
        (n,) int64 indices in ascending order.
    """
    keep = np.ones(len(boxes), bool)
    if max_iou >= 1 or not len(boxes):
        return np.flatnonzero(keep)
    starts = np.flatnonzero(np.diff(image, prepend=-1))
    for begin, end in zip(starts, [*starts[1:], len(boxes)], strict=True):
        alike = box_iou(boxes[begin:end], boxes[begin:end]) > max_iou
        order = np.argsort(-scores[begin:end], kind="stable")
        here = keep[begin:end]
        for place, i in enumerate(order):
            if here[i]:
                later = order[place + 1 :]
                here[later[alike[i, later]]] = False
    return np.flatnonzero(keep)
