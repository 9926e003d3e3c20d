"""What four numbers a file's boxes are: COCO's x, y, width, height in px, or what other tools write."""

from __future__ import annotations

from typing import Literal

import numpy as np

BoxFormat = Literal["xywh", "xyxy", "cxcywh", "relative xywh", "relative xyxy", "relative cxcywh"]
FORMATS: dict[BoxFormat, str] = {
    "xywh": "x, y, width, height in px",
    "xyxy": "two corners x, y, x, y in px",
    "cxcywh": "centre x, centre y, width, height in px",
    "relative xywh": "x, y, width, height as shares of the image",
    "relative xyxy": "two corners x, y, x, y as shares of the image",
    "relative cxcywh": "centre x, centre y, width, height as shares of the image",
}
SLACK = 2.0
"""px that a box or keypoint may stand over a border; tools round."""
DOUBT, PROOF = 0.1, 0.02
"""A format is doubted where more than the first share of the boxes does not fit, and another one is taken
where at most the second does not, or with keypoints a quarter of those that do not fit now, because real
people have keypoints outside of their boxes: 2 % of COCO's, 8 % in a small file."""
FEW = 2
"""So many boxes may be bad ones before the format is doubted, unless they are half of all."""
LARGEST_SHARE, MOST_BEYOND = 1.05, 0.1
"""Numbers up to the first are shares of the image and not px, unless more than the second share of all is
larger: a few are where the border cuts people, and nearly all that are px."""


def box_format(boxes: np.ndarray, sizes: np.ndarray, keypoints: np.ndarray | None = None) -> BoxFormat:
    """The format in which boxes fit their images and keypoints their boxes; xywh unless another is proven.

    A box fits if it lies in its image and more than half of the labelled keypoints lie in it.

    Args:
        boxes: (B, 4).
        sizes: (B, 2) width and height of each box's image in px.
        keypoints: (B, K, 3) x, y, v in px of each box's person, if they are known.
    """
    relative = is_relative(boxes, sizes)
    if boxes.max(initial=0) <= 0 or (len(boxes) < 2 and not relative):
        return "xywh"
    plain = 1 - box_fits(boxes, sizes, keypoints).mean()
    if not relative and (plain <= DOUBT or (plain < 0.5 and plain * len(boxes) <= FEW)):
        return "xywh"
    candidates: tuple[BoxFormat, ...] = ("xyxy", "cxcywh")
    if relative:
        candidates = ("relative xywh", "relative cxcywh", "relative xyxy")
    wrong = {c: 1 - box_fits(to_xywh(boxes, sizes, c), sizes, keypoints).mean() for c in candidates}
    best = min(candidates, key=lambda c: wrong[c])
    allowed = PROOF if keypoints is None else max(PROOF, plain / 4)
    return best if wrong[best] <= allowed and (relative or wrong[best] < plain) else "xywh"


def is_relative(values: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether numbers (n, 2 or 4) are shares of their images, not px: few are large, in images that are."""
    if values.size < 4 or not values.any() or sizes.min() <= 4:
        return False
    return bool((np.abs(values) > LARGEST_SHARE).mean() <= MOST_BEYOND)


def to_xywh(boxes: np.ndarray, sizes: np.ndarray, given: BoxFormat) -> np.ndarray:
    """Boxes of any format as x, y, width, height in px.

    Args:
        boxes: (B, 4).
        sizes: (B, 2) width and height of each box's image in px.
        given: their format.
    """
    boxes = np.array(boxes, np.float64)
    if given.startswith("relative "):
        boxes = boxes * np.tile(sizes, 2)
    if given.endswith("xyxy"):
        boxes[:, 2:] -= boxes[:, :2]
    elif given.endswith("cxcywh"):
        boxes[:, :2] -= boxes[:, 2:] / 2
    return boxes


def box_fits(boxes: np.ndarray, sizes: np.ndarray, keypoints: np.ndarray | None) -> np.ndarray:
    """(B,) bool: whether each x, y, w, h fits its image and its person's keypoints, see ``box_format``."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    fits: np.ndarray = (boxes[:, 2:] > 0).all(1) & (low >= -SLACK).all(1) & (high <= sizes + SLACK).all(1)
    if keypoints is not None:
        xy, labelled = keypoints[..., :2], keypoints[..., 2] > 0
        inside = ((xy >= low[:, None] - SLACK) & (xy <= high[:, None] + SLACK)).all(-1) & labelled
        fits &= ~labelled.any(1) | (2 * inside.sum(1) > labelled.sum(1))
    return fits
