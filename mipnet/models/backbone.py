"""What MIPNet asks of a top-down network so that it can be given MIMBs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Place:
    """Where MIMBs may go.

    Attributes:
        after: index of the stage whose output is modulated.
        channels: channels of each branch that this stage returns; each branch gets its own MIMB.
    """

    after: int
    channels: tuple[int, ...]


class Backbone(nn.Module):
    """A top-down pose network cut into stages: images (B, 3, H, W) → heatmaps (B, K, h, w).

    To convert a network of your own, subclass this and set three attributes in ``__init__``:

    Attributes:
        stages: run one after the other. The first takes the images, every other one takes what its
            predecessor returned: one tensor, or a list of tensors (branches: several resolutions, or skip
            connections). Dimension 0 is always the batch, and all that a later stage needs has to pass
            through the return value, because at a place the batch grows from B to B·M.
        places: place number (1, 2, ...) → where it is and which channels its branches have.
        head: makes the heatmaps (B, K, h, w) from what the last stage returned.
    """

    stages: nn.ModuleList
    places: dict[int, Place]
    head: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        """The plain single-instance network."""
        features: Tensor | list[Tensor] = images
        for stage in self.stages:
            features = stage(features)
        return self.head(features)
