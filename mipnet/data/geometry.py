"""Boxes, crops and joints: the plane geometry between an image and a network's input.

Coordinates are pixels with (x, y) order; sizes are (width, height). An *affine* is a (2, 3) float64 matrix
that sends image coordinates to input coordinates: p' = affine[:, :2] @ p + affine[:, 2]. An input point
divided by the network's stride is a heatmap point: the same affine with the heatmap as the input.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

PADDING = 1.25  # a crop shows this many times the box, so that limbs at the border stay inside


def clip_box(box: np.ndarray | Sequence[float], width: int, height: int) -> np.ndarray:
    """Boxes cut at the border of their image, as the reference loader cuts them.

    Args:
        box: (..., 4) x, y, w, h in px.
        width, height: the image's size in px.

    Returns:
        (..., 4) float64 x, y, w, h between the first and the last pixel: w and h are one less than given
        even when nothing is cut (last pixel minus first pixel), and 0 for a box outside the image.
    """
    x, y, w, h = np.moveaxis(np.asarray(box, np.float64), -1, 0)
    left, top = np.maximum(x, 0), np.maximum(y, 0)
    right = np.minimum(width - 1, left + np.maximum(w - 1, 0))
    bottom = np.minimum(height - 1, top + np.maximum(h - 1, 0))
    return np.stack([left, top, np.maximum(right - left, 0), np.maximum(bottom - top, 0)], axis=-1)


def box_to_crop(
    box: np.ndarray | Sequence[float], input_size: tuple[int, int], padding: float = PADDING
) -> tuple[np.ndarray, np.ndarray]:
    """The part of the image that a network sees of a box.

    The shorter side is widened to the input's aspect ratio, then both sides are multiplied by ``padding``.

    Args:
        box: (4,) or (P, 4) x, y, w, h in px, as from ``clip_box``.
        input_size: (w, h) of the network's input in px; gives the aspect ratio.
        padding: how many times the widened box the crop shows.

    Returns:
        center (..., 2) and size (..., 2), float64, in image px; size is the crop's (w, h). A side is at least
        1 px before the padding, so that a crop can always be inverted.
    """
    box = np.asarray(box, np.float64)
    aspect = input_size[0] / input_size[1]
    w, h = box[..., 2], box[..., 3]
    crop_h = np.maximum(np.maximum(h, w / aspect), max(1.0, 1.0 / aspect))
    size = crop_h[..., None] * np.array([aspect, 1.0]) * padding
    return box[..., :2] + box[..., 2:] / 2, size


def crop_affine(
    center: np.ndarray | Sequence[float],
    size: np.ndarray | Sequence[float],
    rotation_deg: float,
    input_size: tuple[int, int],
) -> np.ndarray:
    """The similarity from the image to a network's input.

    ``center`` goes to the middle (w/2, h/2) of the input and the crop's width to the input's width (its
    height follows); the image direction (sin r, -cos r) becomes "up", so a positive rotation turns what is
    seen counter-clockwise.

    Args:
        center: (2,) the crop's centre in image px.
        size: (2,) the crop's (w, h) in image px; only the width is used.
        rotation_deg: the rotation r in degrees.
        input_size: (w, h) in px.

    Returns:
        affine (2, 3) float64.
    """
    scale = input_size[0] / float(size[0])
    angle = np.deg2rad(rotation_deg)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])
    affine = np.empty((2, 3))
    affine[:, :2] = linear
    affine[:, 2] = np.asarray(input_size, np.float64) / 2 - linear @ np.asarray(center, np.float64)
    return affine


def transform_points(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """``points`` (..., 2) mapped by ``affine`` (2, 3): (..., 2) float64."""
    return np.asarray(points, np.float64) @ affine[:, :2].T + affine[:, 2]


def transform_keypoints(affine: np.ndarray, keypoints: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    """Joints in input coordinates, without those that the crop does not show.

    Args:
        affine: (2, 3) image -> input.
        keypoints: (..., K, 3) x, y in image px and visibility (0 = unlabelled).
        input_size: (w, h) in px.

    Returns:
        (..., K, 3) float64. A joint outside [0, w] x [0, h] (the bounds count as inside) or without a label
        is (0, 0, 0); the others keep their visibility.
    """
    points = transform_points(affine, keypoints[..., :2])
    inside = ((points >= 0) & (points <= input_size)).all(axis=-1) & (keypoints[..., 2] > 0)
    return np.where(inside[..., None], np.concatenate([points, keypoints[..., 2:3]], axis=-1), 0.0)


def warp_crop(image: np.ndarray, affine: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    """The crop that a network sees.

    Args:
        image: (H, W, 3) uint8; the colour order stays as it is.
        affine: (2, 3) image -> input.
        input_size: (w, h) in px.

    Returns:
        (h, w, 3) uint8, bilinear, black (0) where the crop leaves the image.
    """
    return cv2.warpAffine(image, affine, tuple(input_size), flags=cv2.INTER_LINEAR)


def flip_keypoints(keypoints: np.ndarray, width: int, flip_permutation: Sequence[int]) -> np.ndarray:
    """The joints of the mirrored image: x -> width - x - 1, left and right changed over.

    Args:
        keypoints: (..., K, 3) x, y in px and visibility.
        width: the image's width in px.
        flip_permutation: (K,) as ``Skeleton.flip_permutation``.

    Returns:
        (..., K, 3), dtype as given. Unlabelled joints are mirrored like any other.
    """
    flipped = np.asarray(keypoints)[..., list(flip_permutation), :].copy()
    flipped[..., 0] = width - flipped[..., 0] - 1
    return flipped


def flip_center(center: np.ndarray | Sequence[float], width: int) -> np.ndarray:
    """Crop centres (..., 2) in the mirrored image of ``width`` px: x -> width - x - 1, float64."""
    flipped = np.array(center, np.float64)
    flipped[..., 0] = width - flipped[..., 0] - 1
    return flipped


def mirrored_affine(affine: np.ndarray, width: int) -> np.ndarray:
    """An affine of the mirrored image, made to work on the image as it is.

    ``warp_crop(image, mirrored_affine(a, W), size)`` shows what ``warp_crop(image[:, ::-1], a, size)`` shows,
    without mirroring all of the image.

    Args:
        affine: (2, 3) mirrored image -> input.
        width: the image's width in px.

    Returns:
        (2, 3) float64, image -> input.
    """
    affine = np.asarray(affine, np.float64)
    mirrored = affine.copy()
    mirrored[:, 0] *= -1
    mirrored[:, 2] += affine[:, 0] * (width - 1)
    return mirrored
