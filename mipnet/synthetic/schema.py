"""A generated scene with its annotations, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DIFFICULTIES = ("easy", "medium", "hard")


@dataclass(frozen=True)
class ScenePerson:
    """One annotated person.

    Attributes:
        keypoints: (17, 3) float32, COCO order, left and right the person's own. x, y in px, sub-pixel, whole
            numbers at pixel centres (COCO's keypoints; what an affine crop expects); v is 2 visible, 1
            occluded by a body part, 0 (and x = y = 0) outside the image or occluded without a visible
            neighbour.
        box: (4,) float32 x, y, w, h of the full silhouette, occluded or not, clipped to the image; px, whole
            numbers at pixel edges (COCO's boxes and polygons).
        area: px² of the full silhouette clipped to the image.
        segmentation: COCO polygons [[x0, y0, x1, y1, ...], ...] of that silhouette, px from pixel edges.
        visible_fraction: fraction of that silhouette that is not occluded, 0.3 to 1.
    """

    keypoints: np.ndarray
    box: np.ndarray
    area: float
    segmentation: list[list[float]]
    visible_fraction: float


@dataclass(frozen=True)
class Scene:
    """image (160, 192, 3) uint8 RGB, and the 1 to 4 people in it."""

    image: np.ndarray
    people: tuple[ScenePerson, ...]
