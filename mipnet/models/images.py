"""From stored pixels to what the networks take."""

from __future__ import annotations

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
    mean = torch.tensor(MEAN, device=images.device).mul_(255)
    scale = torch.tensor(STD, device=images.device).mul_(255).reciprocal_()
    return images.permute(0, 3, 1, 2).sub(mean[:, None, None]).mul_(scale[:, None, None])
