"""A contact sheet of training crops: what the network sees first, and the joints that each λ is to find."""

from __future__ import annotations

from itertools import chain

import numpy as np

from mipnet.data.crops import CropSettings, cut_crop, decode_image
from mipnet.data.records import People
from mipnet.data.windows import WindowPlan, sample_rng
from mipnet.inference.overlays import draw_poses, picture_grid

ROWS, COLUMNS = 4, 8
CELL = 200  # px, longer side of a crop in the sheet


def training_grid(people: People, plan: WindowPlan, settings: CropSettings) -> np.ndarray | None:
    """The first samples of the training in their order, augmented as the network gets them.

    Each crop is shown once per λ, with that λ's target person on it; an occluded joint (v = 1) is fainter.

    Returns:
        (height, width, 3) uint8 RGB; None if no image can be read.
    """
    epochs, images, samples, slots = plan.samples(0)
    instances = settings.instances
    crops = max(COLUMNS // instances, 1)  # in a row
    pictures: list[list[np.ndarray]] = []
    for place in np.argsort(slots)[: ROWS * crops]:
        try:
            image = decode_image(people.images.read(int(images[place])))
        except OSError:
            image = None
        if image is None:
            continue
        first, last = people.first[images[place] : images[place] + 2]
        rng = sample_rng(plan.seed, int(epochs[place]), int(samples[place]))
        crop = np.empty((settings.size[1], settings.size[0], 3), np.uint8)
        joints, _ = cut_crop(
            image,
            people.boxes[first:last],
            people.keypoints[first:last],
            int(samples[place] - first),
            settings,
            rng,
            crop,
        )
        joints[..., 2] /= 2  # v in {0, 1, 2} as a score
        pictures.append(
            [
                draw_poses(crop, [{"keypoints": pose}], settings.skeleton, longer_side=2 * CELL, colours=[i])
                for i, pose in enumerate(joints)
            ]
        )
    if not pictures:
        return None
    rows = [list(chain(*pictures[i : i + crops])) for i in range(0, len(pictures), crops)]
    return picture_grid(rows, [f"λ = {i}" for i in range(instances)] * crops, cell=CELL)
