"""A contact sheet of training crops: what the network sees first, and the joints that each λ is to find."""

from __future__ import annotations

from itertools import chain

import cv2
import numpy as np
import torch

from mipnet.config.schema import ModelConfig, TargetConfig
from mipnet.data.coco import People
from mipnet.data.crops import CropSettings, cut_crop, read_image
from mipnet.data.sample_schedule import WindowPlan, sample_rng
from mipnet.models.targets import heatmap_targets
from mipnet.visualization.overlays import draw_poses, picture_grid

ROWS, COLUMNS = 4, 8
CELL = 200  # px, longer side of a crop in the sheet
STRIDE = ModelConfig().stride
HOT = np.array([255, 170, 30], np.float32)


def training_grid(
    people: People, plan: WindowPlan, settings: CropSettings, target: TargetConfig | None = None
) -> np.ndarray | None:
    """The first samples of the training in their order, augmented as the network gets them.

    Each crop is shown once per λ, with that λ's target person on it; an occluded joint (v = 1) is fainter.

    Args:
        people, plan, settings: whose crops, in which order, and how they are cut.
        target: with it, each λ's heatmaps are shown beside the joints: the largest of all joints at a place.

    Returns:
        (height, width, 3) uint8 RGB; None if no image can be read.
    """
    epochs, images, samples, slots = plan.samples(0)
    instances = settings.instances
    titles = [title for i in range(instances) for title in (f"λ = {i}", *(["targets"] if target else []))]
    crops = max(COLUMNS // len(titles), 1)  # in a row
    pictures: list[list[np.ndarray]] = []
    for place in np.argsort(slots)[: ROWS * crops]:
        image = read_image(str(people.images.uris[images[place]]))
        if image is None:
            continue
        near = people.of_image(int(images[place]))
        rng = sample_rng(plan.seed, int(epochs[place]), int(samples[place]))
        crop = np.empty((settings.size[1], settings.size[0], 3), np.uint8)
        joints, _ = cut_crop(
            image,
            people.boxes[near],
            people.keypoints[near],
            int(samples[place]) - near.start,
            settings,
            rng,
            crop,
        )
        maps = target_pictures(crop, joints, target) if target else []
        joints[..., 2] /= 2  # v in {0, 1, 2} as a score
        shown = [
            draw_poses(crop, [{"keypoints": pose}], settings.skeleton, longer_side=2 * CELL, colours=[i])
            for i, pose in enumerate(joints)
        ]
        pictures.append(list(chain(*zip(shown, maps, strict=True))) if maps else shown)
    if not pictures:
        return None
    rows = [list(chain(*pictures[i : i + crops])) for i in range(0, len(pictures), crops)]
    return picture_grid(rows, titles * crops, cell=CELL)


def target_pictures(crop: np.ndarray, joints: np.ndarray, target: TargetConfig) -> list[np.ndarray]:
    """The heatmaps that each λ is to learn, over the crop in grey.

    Args:
        crop: (h, w, 3) uint8 RGB.
        joints: (N, K, 3) x, y in crop px and v.
        target: how heatmaps are made.

    Returns:
        for each λ (h, w, 3) uint8 RGB.
    """
    height, width = crop.shape[:2]
    size = width // STRIDE, height // STRIDE
    maps, _ = heatmap_targets(
        torch.from_numpy(joints)[None], (width, height), size, target.sigma, target.kind
    )
    grey = crop.mean(axis=2, keepdims=True) * 0.6
    pictures = []
    for peak in maps[0].amax(1).numpy():
        heat = cv2.resize(peak, (width, height), interpolation=cv2.INTER_NEAREST)[..., None]
        pictures.append((grey * (1 - heat) + HOT * heat).astype(np.uint8))
    return pictures
