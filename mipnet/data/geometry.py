"""The geometry of boxes, crops and keypoints between an image and the network's input.

Points are (x, y) and sizes (width, height) in pixels. An *affine* is a (2, 3) float64 matrix from image to
input coordinates: p' = affine[:, :2] @ p + affine[:, 2]. Heatmap coordinates are input coordinates divided by
the network's stride; their affine is that of an input of the heatmap's size.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

BOX_AREA_FRACTION = 0.53  # of a box, in place of a segmentation's area where there is none; CrowdPose's rule
PADDING = 1.25  # side of a crop / side of its box, so that limbs at the border stay inside


def misses_image(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(B,) bool: whether no part of boxes (B, 4) x, y, w, h lies in their images; not where a size is nan.

    Args:
        boxes: in px.
        sizes: (B, 2) or (2,) width and height in px.
    """
    missed: np.ndarray = np.any((boxes[:, :2] >= sizes) | (boxes[:, :2] + boxes[:, 2:] <= 0), axis=1)
    return missed


def clip_box(box: np.ndarray | Sequence[float], width: int, height: int) -> np.ndarray:
    """Boxes clipped to their image, as in the reference data loader.

    Args:
        box: (..., 4) x, y, w, h in px.
        width, height: the image's size in px.

    Returns:
        (..., 4) float64 x, y, w, h, where w and h are last minus first pixel: one less than given even for a
        box inside the image, and 0 for one outside.
    """
    x, y, w, h = np.moveaxis(np.asarray(box, np.float64), -1, 0)
    left, top = np.maximum(x, 0), np.maximum(y, 0)
    right = np.minimum(width - 1, left + np.maximum(w - 1, 0))
    bottom = np.minimum(height - 1, top + np.maximum(h - 1, 0))
    return np.stack([left, top, np.maximum(right - left, 0), np.maximum(bottom - top, 0)], axis=-1)


def box_to_crop(
    box: np.ndarray | Sequence[float], input_size: tuple[int, int], padding: float = PADDING
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and size of a box's crop: extended to the input's aspect ratio, then multiplied by ``padding``.

    Args:
        box: (4,) or (P, 4) x, y, w, h in px, as from ``clip_box``.
        input_size: (w, h) of the network's input in px; gives the aspect ratio.
        padding: factor of both sides.

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
    """The similarity transform from the image to the network's input.

    Maps ``center`` to the input's centre (w/2, h/2) and the crop's width to the input's width. The image
    direction (sin r, -cos r) becomes "up": a positive rotation turns the content counter-clockwise.

    Args:
        center: (2,) the crop's centre in image px.
        size: (2,) the crop's (w, h) in image px; only w is used.
        rotation_deg: the rotation r in degrees.
        input_size: (w, h) in px.

    Returns:
        affine (2, 3) float64.
    """
    scale = input_size[0] / float(size[0])
    angle = np.deg2rad(rotation_deg)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])
    offset = np.asarray(input_size, np.float64) / 2 - linear @ np.asarray(center, np.float64)
    return np.column_stack((linear, offset))


def transform_points(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """``points`` (..., 2) mapped by ``affine`` (2, 3): (..., 2) float64."""
    mapped: np.ndarray = np.asarray(points, np.float64) @ affine[:, :2].T + affine[:, 2]
    return mapped


def transform_keypoints(affine: np.ndarray, keypoints: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    """Keypoints in input coordinates; v = 0 for those outside the crop.

    Args:
        affine: (2, 3) image -> input.
        keypoints: (..., K, 3) x, y in image px and v (0: unlabelled).
        input_size: (w, h) in px.

    Returns:
        (..., K, 3) float64. Unlabelled keypoints and those outside [0, w] x [0, h] (bounds included) are
        (0, 0, 0); the others keep v.
    """
    points = transform_points(affine, keypoints[..., :2])
    inside = ((points >= 0) & (points <= input_size)).all(axis=-1) & (keypoints[..., 2] > 0)
    return np.where(inside[..., None], np.concatenate([points, keypoints[..., 2:3]], axis=-1), 0.0)


def warp_crop(image: np.ndarray, affine: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    """The crop of an image under an affine, bilinear.

    Args:
        image: (H, W, 3) uint8, any colour order.
        affine: (2, 3) image -> input.
        input_size: (w, h) in px.

    Returns:
        (h, w, 3) uint8, black (0) outside the image.
    """
    crop: np.ndarray = cv2.warpAffine(image, affine, tuple(input_size), flags=cv2.INTER_LINEAR)
    return crop


def flip_keypoints(keypoints: np.ndarray, width: int, flip_permutation: Sequence[int]) -> np.ndarray:
    """The keypoints of the mirrored image: x -> width - x - 1, left and right exchanged.

    Args:
        keypoints: (..., K, 3) x, y in px and v.
        width: the image's width in px.
        flip_permutation: (K,) as ``Skeleton.flip_permutation``.

    Returns:
        (..., K, 3), dtype as given. Unlabelled keypoints are mirrored too.
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
    """The affine that does to an image what ``affine`` does to the mirrored image.

    ``warp_crop(image, mirrored_affine(a, W), size)`` equals ``warp_crop(image[:, ::-1], a, size)`` without a
    mirrored copy of the whole image.

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
