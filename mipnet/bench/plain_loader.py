"""A plain loader like those of reference implementations, the baseline for the stream.

It reads and decodes an image for each sample, mirrors all of it if the sample is mirrored, crops, normalizes
to float32, and computes the heatmaps for all λ. Augmentation, geometry and random numbers are those of
``mipnet.data.crops``, so that only the order of the work differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from mipnet.data import geometry
from mipnet.data.coco import PersonAnnotations
from mipnet.data.crops import CropSettings, assign_instances, colour_table, draw_augmentation, half_body_crop
from mipnet.data.sample_schedule import sample_rng
from mipnet.models.normalization import IMAGENET_MEAN, IMAGENET_STD

MEAN_TENSOR, STD_TENSOR = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
STRIDE = 4

Sample = dict[str, np.ndarray]


@dataclass(frozen=True)
class PlainLoader:
    """Loads single samples.

    Attributes:
        people: the data set.
        settings: of the crops.
        sigma: of the heatmaps, in cells.
        seed: of the augmentation.
    """

    people: PersonAnnotations
    settings: CropSettings
    sigma: float
    seed: int

    def load(self, epoch: int, sample: int) -> Sample:
        """One sample.

        Returns:
            image (3, H, W) float32, normalized; target (N, K, H/4, W/4) float32; weight (N, K) float32.
        """
        crop, joints = self.crop(epoch, sample)
        image = torch.from_numpy(crop).permute(2, 0, 1).contiguous().float().div_(255)
        image.sub_(MEAN_TENSOR).div_(STD_TENSOR)
        maps = [heatmaps(person, self.settings.size, self.sigma) for person in joints]
        return {
            "image": image.numpy(),
            "target": np.stack([target for target, _ in maps]),
            "weight": np.stack([weight for _, weight in maps]),
        }

    def crop(self, epoch: int, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """Crop (H, W, 3) uint8 RGB and keypoints (N, K, 3) float32, in crop px, of one sample."""
        settings, people = self.settings, self.people
        owner = int(np.searchsorted(people.image_offsets, sample, side="right")) - 1
        first, last = people.image_offsets[owner : owner + 2]
        boxes, keypoints = people.boxes[first:last], people.keypoints[first:last]
        primary = sample - int(first)
        content = np.frombuffer(people.images.read(owner), np.uint8)
        image = cv2.imdecode(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        width = image.shape[1]

        change = draw_augmentation(sample_rng(self.seed, epoch, sample), settings.augment)
        center, size = geometry.box_to_crop(boxes[primary], settings.size, settings.padding)
        if change.half_body:
            center, size = half_body_crop(keypoints[primary], change.upper, settings, center, size)
        if change.flip:
            image = np.ascontiguousarray(image[:, ::-1])
            keypoints = geometry.flip_keypoints(keypoints, width, settings.skeleton.flip_permutation)
            center = geometry.flip_center(center, width)
        center = center + change.shift * size
        affine = geometry.crop_affine(center, size * change.scale, change.rotation, settings.size)
        crop = geometry.warp_crop(image, affine, settings.size)
        if change.gains is not None:
            crop = cv2.LUT(crop, colour_table(change.gains, change.offset))
        joints = geometry.transform_keypoints(affine, keypoints, settings.size)
        return crop, joints[assign_instances(boxes, joints, primary, settings.instances)].astype(np.float32)


def heatmaps(joints: np.ndarray, size: tuple[int, int], sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Heatmaps of one person: for each keypoint a Gaussian with peak 1 within 3 σ of the nearest cell.

    Args:
        joints: (K, 3) x, y in crop px and v.
        size: (w, h) of the crop in px.
        sigma: in cells.

    Returns:
        (K, H/4, W/4) float32, and weights (K,) float32.
    """
    width, height = size[0] // STRIDE, size[1] // STRIDE
    target = np.zeros((len(joints), height, width), np.float32)
    weight = (joints[:, 2] > 0).astype(np.float32)
    reach = int(3 * sigma)
    offset = np.arange(-reach, reach + 1, dtype=np.float32)
    patch = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * sigma**2))
    for k in np.flatnonzero(weight):
        x, y = (joints[k, :2] / STRIDE + 0.5).astype(int)
        left, right = max(x - reach, 0), min(x + reach + 1, width)
        top, bottom = max(y - reach, 0), min(y + reach + 1, height)
        if left >= right or top >= bottom:
            weight[k] = 0
            continue
        dx, dy = reach - x, reach - y
        target[k, top:bottom, left:right] = patch[top + dy : bottom + dy, left + dx : right + dx]
    return target, weight


def stack(samples: list[Sample]) -> Sample:
    """Stack samples into a batch."""
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
