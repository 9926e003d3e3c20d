"""From a decoded image and its people to training crops: augmentation, the cut, and who each λ stands for."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mipnet.config.schema import AugmentConfig, Config
from mipnet.data.coco import read_uri
from mipnet.data.geometry import (
    box_to_crop,
    crop_affine,
    flip_center,
    flip_keypoints,
    mirrored_affine,
    transform_keypoints,
    warp_crop,
)
from mipnet.skeletons import Skeleton

MIN_JOINTS_OF_OTHERS = 3
"""Another person counts as an instance of a crop with more than this many joints in it (method note)."""


@dataclass(frozen=True)
class CropSettings:
    """What cutting a training crop needs to know.

    Attributes:
        size: (width, height) of the crop in px.
        padding: the box's sides are multiplied by this.
        instances: N, for how many λ a target person is wanted.
        skeleton: of the keypoints.
        augment: how strongly to augment.
    """

    size: tuple[int, int]
    padding: float
    instances: int
    skeleton: Skeleton
    augment: AugmentConfig


def crop_settings(config: Config) -> CropSettings:
    """Those of a run."""
    return CropSettings(
        config.input.size,
        config.input.padding,
        config.model.instances,
        config.data.joints,
        config.augment,
    )


def decode_image(content: bytes) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB without the EXIF rotation (annotations refer to stored pixels); None if corrupt."""
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None


def read_image(uri: str) -> np.ndarray | None:
    """The pixels of a file by its path or URI, or of a table's row, as ``decode_image``; None also for a file
    that cannot be read."""
    try:
        return decode_image(read_uri(uri))
    except OSError:  # missing, not permitted, a folder, or the disk's fault
        return None


def crop_boxes(
    image: np.ndarray, boxes: np.ndarray, input_size: tuple[int, int], padding: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a network sees of boxes of an image, not augmented.

    Args:
        image: (H, W, 3) uint8.
        boxes: (B, 4) x, y, w, h in px.
        input_size: (w, h) of a crop in px.
        padding: as for ``box_to_crop``.

    Returns:
        crops (B, h, w, 3) uint8, in the image's order of colours; their centers and sizes, (B, 2) float64 in
        image px.
    """
    centers, sizes = box_to_crop(boxes, input_size, padding)
    width, height = input_size
    crops = np.zeros((len(boxes), height, width, 3), np.uint8)
    for crop, center, size in zip(crops, centers, sizes, strict=True):
        crop[:] = warp_crop(image, crop_affine(center, size, 0.0, input_size), input_size)
    return crops, centers, sizes


def cut_crop(
    image: np.ndarray,
    boxes: np.ndarray,
    keypoints: np.ndarray,
    primary: int,
    settings: CropSettings,
    rng: np.random.Generator,
    out: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """One augmented training sample.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (P, 4) x, y, w, h in px of all people of the image.
        keypoints: (P, K, 3) float, their joints in px.
        primary: whose box is cropped.
        settings: see ``CropSettings``.
        rng: the sample's own generator; the result depends on nothing else that is random.
        out: (h, w, 3) uint8, the crop is written here.

    Returns:
        joints: (N, K, 3) float32, x, y in crop px and v (0: unlabelled or outside) of the person of each λ.
        people: (N,) int64, which person of the image that is.
    """
    width = image.shape[1]
    change = draw_augmentation(rng, settings.augment)
    center, size = box_to_crop(boxes[primary], settings.size, settings.padding)
    if change.half_body:
        center, size = half_body_crop(keypoints[primary], change, settings, center, size)
    if change.flip:
        keypoints = flip_keypoints(keypoints, width, settings.skeleton.flip_permutation)
        center = flip_center(center, width)
    center = center + change.shift * size
    affine = crop_affine(center, size * change.scale, change.rotation, settings.size)
    cv2.warpAffine(
        image,
        mirrored_affine(affine, width) if change.flip else affine,
        settings.size,
        dst=out,
        flags=cv2.INTER_LINEAR,
    )
    if change.gains is not None:
        cv2.LUT(out, colour_table(change.gains, change.offset), dst=out)
    joints = transform_keypoints(affine, keypoints, settings.size)
    people = assign_instances(boxes, joints, primary, settings.instances)
    return joints[people].astype(np.float32), people


def assign_instances(boxes: np.ndarray, joints: np.ndarray, primary: int, instances: int) -> np.ndarray:
    """Who each λ stands for (method note, "Training").

    The primary person first, then the others of the image with more than three joints inside the crop,
    nearest box centre first; where fewer than N people count, the remaining λ get the primary again.

    Args:
        boxes: (P, 4) x, y, w, h in px.
        joints: (P, K, 3) in crop px, v = 0 outside the crop.
        primary: index of the primary person.
        instances: N.

    Returns:
        (N,) int64 indices of people.
    """
    if len(boxes) == 1:
        return np.zeros(instances, np.int64)
    centers = boxes[:, :2] + boxes[:, 2:] / 2
    counted = (joints[..., 2] > 0).sum(axis=1) > MIN_JOINTS_OF_OTHERS
    counted[primary] = False
    distance = np.linalg.norm(centers - centers[primary], axis=1)
    others = [i for i in np.argsort(distance, kind="stable") if counted[i]]
    people = np.full(instances, primary, np.int64)
    chosen = others[: instances - 1]
    people[1 : 1 + len(chosen)] = chosen
    return people


@dataclass(frozen=True)
class Augmentation:
    """The random choices for one sample."""

    flip: bool
    scale: float
    rotation: float
    shift: np.ndarray
    half_body: bool
    upper: bool
    gains: np.ndarray | None
    offset: float


def draw_augmentation(rng: np.random.Generator, augment: AugmentConfig) -> Augmentation:
    """Every number is drawn whether used or not, so one setting does not change another's luck."""
    flip, rotate, half = rng.random(3)
    scale, angle, dx, dy, body, contrast, offset = rng.standard_normal(7)
    channels = rng.standard_normal(3)
    a = augment
    gains = 1 + a.colour * (contrast + 0.5 * channels) if a.colour > 0 else None
    return Augmentation(
        flip=bool(flip < a.flip),
        scale=float(min(max(1 + a.scale * scale, 1 - a.scale), 1 + a.scale)),
        rotation=float(min(max(a.rotation * angle, -2 * a.rotation), 2 * a.rotation))
        if rotate < a.rotation_probability
        else 0.0,
        shift=np.array([min(max(a.shift * d, -2 * a.shift), 2 * a.shift) for d in (dx, dy)]),
        half_body=bool(half < a.half_body),
        upper=bool(body < 0.5),  # the reference's 0.69 share of upper bodies: a normal number below one half
        gains=gains,
        offset=float(a.colour * offset),
    )


def half_body_crop(
    joints: np.ndarray,
    change: Augmentation,
    settings: CropSettings,
    center: np.ndarray,
    size: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and size of a crop around the upper or lower body; unchanged where too few joints are visible.

    The chosen half needs more than two joints, else the other half is taken if it has them.
    """
    visible = joints[:, 2] > 0
    halved = 0 < len(settings.skeleton.upper_body) < len(joints)
    if not halved or visible.sum() <= settings.augment.half_body_min_joints:
        return center, size
    is_upper = np.zeros(len(joints), bool)
    is_upper[list(settings.skeleton.upper_body)] = True
    halves = [joints[visible & is_upper, :2], joints[visible & ~is_upper, :2]]
    chosen = halves[0] if change.upper else halves[1]
    if len(chosen) <= 2:
        chosen = halves[1] if change.upper else halves[0]
    if len(chosen) < 2:
        return center, size
    low, high = chosen.min(axis=0), chosen.max(axis=0)
    middle = chosen.mean(axis=0)
    box = np.concatenate([middle - (high - low) / 2, high - low])
    _, half_size = box_to_crop(box, settings.size, settings.padding)
    if half_size.min() <= 0:
        return center, size
    return middle.astype(np.float64), half_size * 1.2


def colour_table(gains: np.ndarray, offset: float) -> np.ndarray:
    """(256, 1, 3) uint8 look-up table: per-channel gain around mid-grey, then a common offset."""
    levels = np.arange(256, dtype=np.float32)[:, None]
    table = (levels - 128) * gains[None].astype(np.float32) + 128 + 255 * offset
    return np.clip(table + 0.5, 0, 255).astype(np.uint8)[:, None]
