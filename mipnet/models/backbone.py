"""The interface of a top-down network that MIPNet can insert MIMBs into."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class InsertionPoint:
    """An insertion point for MIMBs, one for each branch.

    Attributes:
        after_stage: index of the stage whose output is modulated.
        channels: channels of each branch that this stage returns.
    """

    after_stage: int
    channels: tuple[int, ...]


class Backbone(nn.Module):
    """A top-down pose network cut into stages: images (B, 3, H, W) → heatmaps (B, K, h, w).

    To convert a network of your own, subclass this and set three attributes in ``__init__``:

    Attributes:
        stages: run one after the other. The first takes the images, every other one its predecessor's output:
            one tensor, or a list of tensors (branches: several resolutions, or skip connections). Dimension 0
            is always the batch. All that a later stage needs has to pass through the outputs, because at an
            insertion point the batch grows from B to B·M.
        insertion_points: MIMB stage (1, 2, ...) → where MIMBs may go and which channels its branches have.
        head: the last stage's output → heatmaps (B, K, h, w).
    """

    stages: nn.ModuleList
    insertion_points: dict[int, InsertionPoint]
    head: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        """The single-instance network: images (B, 3, H, W) → heatmaps (B, K, h, w)."""
        features: Tensor | list[Tensor] = images
        for stage in self.stages:
            features = stage(features)
        heatmaps: Tensor = self.head(features)
        return heatmaps
