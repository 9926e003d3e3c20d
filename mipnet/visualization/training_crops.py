"""A contact sheet of training crops with the target keypoints of each λ."""

from __future__ import annotations

from itertools import chain

import cv2
import numpy as np
import torch

from mipnet.config.schema import ModelConfig, TargetConfig
from mipnet.data.coco import PersonAnnotations
from mipnet.data.crops import CropSettings, labelled_image, make_training_crop
from mipnet.data.sample_schedule import SampleSchedule, sample_rng
from mipnet.models.targets import heatmap_targets
from mipnet.visualization.overlays import draw_poses, picture_grid

ROWS, COLUMNS = 4, 8
CELL = 200  # px, longer side of a crop in the sheet
STRIDE = ModelConfig().stride
HEATMAP_COLOUR = np.array([255, 170, 30], np.float32)


def training_grid(
    people: PersonAnnotations,
    schedule: SampleSchedule,
    settings: CropSettings,
    target: TargetConfig | None = None,
) -> np.ndarray | None:
    """The first samples of the training in their order, augmented as for the network.

    Each crop is shown once per λ with the keypoints of its person; occluded ones (v = 1) are fainter.

    Args:
        people: the persons.
        schedule: the order of the samples.
        settings: of the crops.
        target: with it, each λ's heatmaps, maximum over the keypoints, are shown beside the crop.

    Returns:
        (height, width, 3) uint8 RGB; None if no image can be read.
    """
    epochs, images, samples, window_position = schedule.samples(0)
    instances = settings.instances
    titles = [title for i in range(instances) for title in (f"λ = {i}", *(["targets"] if target else []))]
    crops_per_row = max(COLUMNS // len(titles), 1)
    pictures: list[list[np.ndarray]] = []
    for row in np.argsort(window_position)[: ROWS * crops_per_row]:
        image = labelled_image(people.images, int(images[row]))
        if image is None:
            continue
        near = people.slice_of_image(int(images[row]))
        rng = sample_rng(schedule.seed, int(epochs[row]), int(samples[row]))
        crop = np.empty((settings.size[1], settings.size[0], 3), np.uint8)
        boxes, keypoints, primary = people.boxes[near], people.keypoints[near], int(samples[row]) - near.start
        keypoints, _ = make_training_crop(
            image, boxes, keypoints, primary=primary, settings=settings, rng=rng, out=crop
        )
        heatmaps = target_pictures(crop, keypoints, target) if target else []
        keypoints[..., 2] /= 2  # v in {0, 1, 2} as a score
        shown = [
            draw_poses(crop, [{"keypoints": pose}], settings.skeleton, longer_side=2 * CELL, colours=[i])
            for i, pose in enumerate(keypoints)
        ]
        pictures.append(list(chain(*zip(shown, heatmaps, strict=True))) if heatmaps else shown)
    if not pictures:
        return None
    rows = [list(chain(*pictures[i : i + crops_per_row])) for i in range(0, len(pictures), crops_per_row)]
    return picture_grid(rows, titles * crops_per_row, cell=CELL)


def target_pictures(crop: np.ndarray, keypoints: np.ndarray, target: TargetConfig) -> list[np.ndarray]:
    """The target heatmaps of each λ over the grey crop.

    Args:
        crop: (h, w, 3) uint8 RGB.
        keypoints: (N, K, 3) x, y in crop px and v.
        target: kind and sigma of the heatmaps.

    Returns:
        N pictures (h, w, 3) uint8 RGB.
    """
    height, width = crop.shape[:2]
    size = width // STRIDE, height // STRIDE
    joints = torch.from_numpy(keypoints)[None]
    maps, _ = heatmap_targets(joints, (width, height), size, target.sigma, target.kind)
    grey = crop.mean(axis=2, keepdims=True) * 0.6
    pictures = []
    for peak in maps[0].amax(1).numpy():
        heat = cv2.resize(peak, (width, height), interpolation=cv2.INTER_NEAREST)[..., None]
        pictures.append((grey * (1 - heat) + HEATMAP_COLOUR * heat).astype(np.uint8))
    return pictures
