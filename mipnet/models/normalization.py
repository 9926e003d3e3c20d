"""From stored pixels to what the networks take."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, RGB, for values in [0, 1]: what the published weights were trained with."""


def normalise(images: Tensor) -> Tensor:
    """Crops as the networks take them, made on the crops' device.

    Args:
        images: (B, h, w, 3) uint8 RGB.

    Returns:
        (B, 3, h, w) float32, normalised by ImageNet's mean and standard deviation.
    """
    mean, scale = _constants(images.device)
    return images.permute(0, 3, 1, 2).sub(mean).mul_(scale)


@cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation (3, 1, 1) of pixels; kept, because making them waits for a GPU."""
    with torch.inference_mode(False):  # what is made inside it could never be trained through
        mean = torch.tensor(MEAN).mul_(255).to(device)
        scale = torch.tensor(STD).mul_(255).reciprocal_().to(device)
    return mean[:, None, None], scale[:, None, None]
