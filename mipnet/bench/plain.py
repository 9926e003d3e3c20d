"""The plain network that the benchmarks compare with: the definition of MIPNet, nothing shared."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mipnet.models.mimb import MIMB
from mipnet.models.network import MIPNet


class RepeatedImagesNetwork(nn.Module):
    """Runs the whole network on N copies of each image."""

    def __init__(self, model: MIPNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, N, K, h, w)."""
        model, count = self.model, self.model.instances
        features: Tensor | list[Tensor] = images.repeat_interleave(count, 0)  # (B·N, 3, H, W)
        rows = torch.arange(count, device=images.device).repeat(len(images))  # (B·N,)
        for index, stage in enumerate(model.backbone.stages):
            features = stage(features)
            for number in model.mimb_stages:
                if model.backbone.insertion_points[number].after_stage == index:
                    features = _modulated(model.mimbs[str(number)], features, rows)
        heatmaps: Tensor = model.backbone.head(features)  # (B·N, K, h, w)
        return torch.unflatten(heatmaps, 0, (len(images), count))


def _modulated(mimbs: nn.Module, features: Tensor | list[Tensor], rows: Tensor) -> Tensor | list[Tensor]:
    branches = [features] if isinstance(features, Tensor) else features
    results = []
    for mimb, branch in zip(mimbs.children(), branches, strict=True):
        assert isinstance(mimb, MIMB)
        results.append(mimb(branch, rows))
    return results[0] if isinstance(features, Tensor) else results
