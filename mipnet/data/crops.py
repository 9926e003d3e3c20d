"""Where a box is turned into a crop: decode, augment, warp, and assign a person to each λ."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mipnet.config.schema import AugmentConfig, Config
from mipnet.data.geometry import (
    box_to_crop,
    crop_affine,
    flip_center,
    flip_keypoints,
    mirrored_affine,
    transform_keypoints,
    warp_crop,
)
from mipnet.data.image_headers import is_deep, is_tiff, orientation_of, pnm_maxval, reason_not_to_decode
from mipnet.data.image_index import ImageIndex, read_uri
from mipnet.data.orientation import AS_DISPLAYED, Frame, to_frame
from mipnet.data.read_ahead import read_ahead
from mipnet.skeletons import Skeleton

logger = logging.getLogger(__name__)

MIN_KEYPOINTS_OF_OTHERS = 3
"""Another person is an instance of a crop with more than this many of its keypoints (method note)."""


@dataclass(frozen=True)
class CropSettings:
    """The settings of a training crop.

    Attributes:
        size: (w, h) of the crop in px.
        padding: as for ``box_to_crop``.
        instances: N, the number of λ.
        skeleton: of the keypoints.
        augment: strength of the augmentation.
    """

    size: tuple[int, int]
    padding: float
    instances: int
    skeleton: Skeleton
    augment: AugmentConfig


def crop_settings(config: Config) -> CropSettings:
    """The crop settings of a configuration."""
    crop, instances = config.input, config.model.instances
    return CropSettings(crop.size, crop.padding, instances, config.data.joints, config.augment)


def decode_image(content: bytes, frame: Frame = AS_DISPLAYED) -> np.ndarray | None:
    """The pixels of an encoded picture.

    Args:
        content: of the file.
        frame: that the picture's labels are in; by default the picture is turned as people see it.

    Returns:
        (H, W, 3) uint8 RGB; channels of 16 bits are scaled by the bits that the picture uses, those of a PNM
        by its value of white. None if it is corrupt, larger than ``mipnet.data.image_headers.MAX_PIXELS``,
        or its frame undecided.
    """
    if why := reason_not_to_decode(content):
        logger.info("an image of %d bytes is not decoded: %s", len(content), why)
        return None
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    orientation, dark = orientation_of(content), is_deep(content) or 0 < pnm_maxval(content) < 255
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
        if dark and pixels is not None:
            pixels = _brightened(pixels, content)
    except cv2.error as error:
        logger.debug("cannot decode an image of %d bytes: %s", len(content), error)
        return None
    if orientation == 1 or pixels is None:
        return pixels
    return to_frame(pixels, orientation, is_tiff(content), frame)


def _brightened(pixels: np.ndarray, content: bytes) -> np.ndarray:
    """Pixels of 16 bits a channel by the bits that they use, as 12 of a scan; as given if they use all. Those
    of a PNM by the value of white that it states, unless that is the largest."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    deep = cv2.imdecode(np.frombuffer(content, np.uint8), flags)  # BGR: of TIFF, OpenCV 5.0 spoils deep RGB
    white = pnm_maxval(content)
    if deep is not None and 0 < white < 0xFFFF:
        scaled = cv2.convertScaleAbs(deep, alpha=255 / white)
    elif deep is None or deep.dtype != np.uint16 or deep.max() >= 1 << 15:
        return pixels
    else:
        scaled = (deep >> (max(int(deep.max()).bit_length(), 8) - 8)).astype(np.uint8)
    brightened: np.ndarray = cv2.cvtColor(scaled, cv2.COLOR_BGR2RGB)
    return brightened


def read_image(uri: str, frame: Frame = AS_DISPLAYED) -> np.ndarray | None:
    """``decode_image`` of a file by path or URI, or of a Parquet row; None also if it cannot be read."""
    try:
        return decode_image(read_uri(uri), frame)
    except OSError as error:  # missing, no permission, a folder, or a disk failure
        logger.debug("cannot read %s: %s", uri, error)
        return None


def labelled_image(images: ImageIndex, index: int) -> np.ndarray | None:
    """``read_image`` of one of a data set's images, in the frame of its labels."""
    return read_image(str(images.uris[index]), images.frame(index))


def labelled_images(images: ImageIndex, indices: Sequence[int]) -> Iterator[np.ndarray | None]:
    """``labelled_image`` of several images in their order, which are read ahead (``read_ahead``)."""
    contents = read_ahead([str(images.uris[index]) for index in indices])
    for index, content in zip(indices, contents, strict=True):
        yield None if content is None else decode_image(content, images.frame(index))


def crop_boxes(
    image: np.ndarray, boxes: np.ndarray, input_size: tuple[int, int], padding: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The network's input crops of boxes in one image, without augmentation.

    Args:
        image: (H, W, 3) uint8, any colour order.
        boxes: (B, 4) x, y, w, h in px.
        input_size: (w, h) of a crop in px.
        padding: as for ``box_to_crop``.

    Returns:
        crops (B, h, w, 3) uint8 in the image's colour order; their centers and sizes (w, h), each (B, 2)
        float64 in image px.
    """
    centers, sizes = box_to_crop(boxes, input_size, padding)
    width, height = input_size
    crops = np.zeros((len(boxes), height, width, 3), np.uint8)
    for crop, center, size in zip(crops, centers, sizes, strict=True):
        crop[:] = warp_crop(image, crop_affine(center, size, 0.0, input_size), input_size)
    return crops, centers, sizes


def make_training_crop(
    image: np.ndarray,
    boxes: np.ndarray,
    keypoints: np.ndarray,
    *,
    primary: int,
    settings: CropSettings,
    rng: np.random.Generator,
    out: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """One augmented training sample: the crop of a person and the keypoints of each λ's person in it.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (P, 4) x, y, w, h in px of all persons of the image.
        keypoints: (P, K, 3) float, x, y in image px and v.
        primary: index of the person whose box is cropped.
        settings: of the crop.
        rng: the sample's generator (``sample_rng``), the only source of randomness.
        out: (h, w, 3) uint8, receives the crop.

    Returns:
        keypoints_crop: (N, K, 3) float32, x, y in crop px and v of each λ's person; v = 0 where unlabelled or
            outside the crop.
        people: (N,) int64, index of each λ's person.
    """
    width = image.shape[1]
    augmentation = draw_augmentation(rng, settings.augment)
    center, size = box_to_crop(boxes[primary], settings.size, settings.padding)
    if augmentation.half_body:
        center, size = half_body_crop(keypoints[primary], augmentation.upper, settings, center, size)
    if augmentation.flip:
        keypoints = flip_keypoints(keypoints, width, settings.skeleton.flip_permutation)
        center = flip_center(center, width)
    center = center + augmentation.shift * size
    affine = crop_affine(center, size * augmentation.scale, augmentation.rotation, settings.size)
    matrix = mirrored_affine(affine, width) if augmentation.flip else affine
    cv2.warpAffine(image, matrix, settings.size, dst=out, flags=cv2.INTER_LINEAR)
    if augmentation.gains is not None:
        cv2.LUT(out, colour_table(augmentation.gains, augmentation.offset), dst=out)
    keypoints_crop = transform_keypoints(affine, keypoints, settings.size)  # (P, K, 3)
    people = assign_instances(boxes, keypoints_crop, primary, settings.instances)  # (N,)
    return keypoints_crop[people].astype(np.float32), people


def assign_instances(
    boxes: np.ndarray, keypoints_crop: np.ndarray, primary: int, instances: int
) -> np.ndarray:
    """The person of each λ (method note, "Training").

    λ = 0 is the primary person. Then come the others with more than three keypoints inside the crop, by
    distance of their box centres; if they are fewer than N - 1, the remaining λ get the primary person too.

    Args:
        boxes: (P, 4) x, y, w, h in image px.
        keypoints_crop: (P, K, 3) in crop px, v = 0 outside the crop.
        primary: index of the primary person.
        instances: N.

    Returns:
        (N,) int64 indices of persons.
    """
    if len(boxes) == 1:
        return np.zeros(instances, np.int64)
    centers = boxes[:, :2] + boxes[:, 2:] / 2
    eligible = (keypoints_crop[..., 2] > 0).sum(axis=1) > MIN_KEYPOINTS_OF_OTHERS
    eligible[primary] = False
    distance = np.linalg.norm(centers - centers[primary], axis=1)
    others = [i for i in np.argsort(distance, kind="stable") if eligible[i]]
    people = np.full(instances, primary, np.int64)
    chosen = others[: instances - 1]
    people[1 : 1 + len(chosen)] = chosen
    return people


@dataclass(frozen=True)
class Augmentation:
    """The random choices for one sample.

    Attributes:
        flip: mirror the image.
        scale: factor of the crop's size.
        rotation: in degrees.
        shift: (2,) of the crop's centre, in crop sizes.
        half_body: crop around one half of the body, the upper half if ``upper``.
        gains: (3,) per RGB channel around mid-grey; None without colour augmentation.
        offset: of all channels, 1 is the range of a pixel.
    """

    flip: bool
    scale: float
    rotation: float
    shift: np.ndarray
    half_body: bool
    upper: bool
    gains: np.ndarray | None
    offset: float


def draw_augmentation(rng: np.random.Generator, augment: AugmentConfig) -> Augmentation:
    """Draw all random numbers, used or not, so that no setting changes the numbers of another."""
    flip, rotate, half = rng.random(3)
    scale, angle, dx, dy, body, contrast, offset = rng.standard_normal(7)
    channels = rng.standard_normal(3)
    a = augment
    angle = min(max(a.rotation * angle, -2 * a.rotation), 2 * a.rotation)
    gains = 1 + a.colour * (contrast + 0.5 * channels) if a.colour > 0 else None
    return Augmentation(
        flip=bool(flip < a.flip),
        scale=float(min(max(1 + a.scale * scale, 1 - a.scale), 1 + a.scale)),
        rotation=float(angle) if rotate < a.rotation_probability else 0.0,
        shift=np.array([min(max(a.shift * d, -2 * a.shift), 2 * a.shift) for d in (dx, dy)]),
        half_body=bool(half < a.half_body),
        upper=bool(body < 0.5),  # P = 0.69 as in the reference, which compares a normal number with 0.5
        gains=gains,
        offset=float(a.colour * offset),
    )


def half_body_crop(
    keypoints: np.ndarray, upper: bool, settings: CropSettings, center: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and size of a crop around the upper or lower body; unchanged if too few keypoints are visible.

    The drawn half needs more than two visible keypoints, else the other half is taken.

    Args:
        keypoints: (K, 3) of the person, in image px.
        upper: the drawn half is the upper one.
        settings: of the crop.
        center: (2,) of the whole body's crop, in image px.
        size: (2,) its (w, h).
    """
    visible = keypoints[:, 2] > 0
    has_halves = 0 < len(settings.skeleton.upper_body) < len(keypoints)
    if not has_halves or visible.sum() <= settings.augment.half_body_min_keypoints:
        return center, size
    is_upper = np.zeros(len(keypoints), bool)
    is_upper[list(settings.skeleton.upper_body)] = True
    halves = [keypoints[visible & is_upper, :2], keypoints[visible & ~is_upper, :2]]
    drawn, other = halves if upper else halves[::-1]
    chosen = drawn if len(drawn) > 2 else other
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
    rounded: np.ndarray = np.clip(table + 0.5, 0, 255).astype(np.uint8)
    return rounded[:, None]
