"""From uint8 pixels to the input of the networks."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per RGB channel, for values in [0, 1]; the published weights were trained with them."""


def normalize(images: Tensor) -> Tensor:
    """Normalize crops by ImageNet's mean and standard deviation, on their device.

    Args:
        images: (B, H, W, 3) uint8 RGB.

    Returns:
        (B, 3, H, W) float32, channels-last in memory.
    """
    mean, scale = _constants(images.device)
    return images.permute(0, 3, 1, 2).sub(mean).mul_(scale)  # (B, 3, H, W)


@cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation (3, 1, 1) of uint8 pixels; cached, as making them waits for a GPU."""
    with torch.inference_mode(False):  # autograd refuses tensors that are made in inference mode
        mean = torch.tensor(IMAGENET_MEAN).mul_(255).to(device)
        scale = torch.tensor(IMAGENET_STD).mul_(255).reciprocal_().to(device)
    return mean[:, None, None], scale[:, None, None]
