"""MIPNet: a top-down backbone that predicts a different person of the crop for every λ."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mipnet.models.backbone import Backbone
from mipnet.models.mimb import MIMB


class MIPNet(nn.Module):
    """A backbone with MIMBs at some of its places.

    What stands in front of the first MIMB does not depend on λ and runs once per image. There the batch is
    folded: row b·M + m belongs to image b and to the m-th instance asked for, and the rest of the network
    runs once on these B·M rows. With one instance and no place this is the backbone, nothing more, and its
    parameters carry the same names (``backbone.…``), so that a trained one can be the start of a MIPNet.

    Args:
        backbone: the network to convert; it becomes part of this one.
        instances: N, the number of values of λ; λ = 0 is the primary person.
        places: numbers of the backbone's places that get MIMBs; {3, 4} in the paper.
        reduction: r of the MIMBs.

    Attributes:
        instances, places: as given (places sorted).
        architecture: the arguments of ``build_model``; None for a network made by hand.

    Raises:
        ValueError: N < 1, N > 1 without a place, or a place that the backbone does not have.
    """

    def __init__(
        self, backbone: Backbone, instances: int = 2, places: Iterable[int] = (3, 4), reduction: int = 4
    ) -> None:
        super().__init__()
        places = sorted(set(places))
        if instances < 1:
            raise ValueError(f"a network needs at least 1 instance, not {instances}")
        if instances > 1 and not places:
            raise ValueError(
                f"{instances} instances need a place for MIMBs: without one all poses are the same"
            )
        if unknown := [p for p in places if p not in backbone.places]:
            raise ValueError(f"the backbone has no place {unknown[0]}, only {sorted(backbone.places)}")
        self.backbone = backbone
        self.instances = instances
        self.places = tuple(places)
        self.architecture: dict[str, object] | None = None
        self.mimbs = nn.ModuleDict(
            {
                str(p): nn.ModuleList(MIMB(c, instances, reduction) for c in backbone.places[p].channels)
                for p in places
            }
        )

    def forward(self, images: Tensor, instances: Tensor | None = None) -> Tensor:
        """Heatmaps of the instances asked for.

        Args:
            images: (B, 3, H, W) float, RGB, normalised.
            instances: (M,) int64, the same λ for every image; None for all, 0 .. N−1. In training mode all λ
                have to be there, because the embedding's batch norm erases λ from a batch of fewer.

        Returns:
            (B, M, K, h, w).

        Raises:
            ValueError: a λ out of range, or some λ missing in training mode.
        """
        if instances is None:
            instances = torch.arange(self.instances, device=images.device)
        else:
            self._check(instances)
            instances = instances.to(images.device)
        batch, count = images.shape[0], len(instances)  # len(images) would pin the batch size in an export
        rows = instances.repeat(batch)  # λ of row b·M + m
        features: Tensor | list[Tensor] = images
        folded = False
        for index, stage in enumerate(self.backbone.stages):
            features = stage(features)
            for place in self.places:
                if self.backbone.places[place].after == index:
                    features = self._modulate(place, features, rows if folded else instances, folded)
                    folded = True
        heatmaps = self.backbone.head(features)
        if not folded:
            return heatmaps[:, None].expand(-1, count, -1, -1, -1)
        return heatmaps.unflatten(0, (batch, count))

    def _modulate(
        self, place: int, features: Tensor | list[Tensor], instances: Tensor, folded: bool
    ) -> Tensor | list[Tensor]:
        """One MIMB per branch; the first place folds the instances into the batch."""
        branches = [features] if isinstance(features, Tensor) else features
        mimbs = self.mimbs[str(place)]
        assert isinstance(mimbs, nn.ModuleList)
        modulated = []
        for mimb, branch in zip(mimbs, branches, strict=True):
            assert isinstance(mimb, MIMB)
            modulated.append(mimb(branch, instances) if folded else mimb.fan_out(branch, instances))
        return modulated[0] if isinstance(features, Tensor) else modulated

    def _check(self, instances: Tensor) -> None:
        if instances.ndim != 1 or instances.dtype != torch.int64 or not len(instances):
            got = f"{instances.dtype} of shape {tuple(instances.shape)}"
            raise ValueError(f"instances must be a non-empty int64 vector, not {got}")
        asked = instances.tolist()
        if out := [i for i in asked if not 0 <= i < self.instances]:
            raise ValueError(f"instance {out[0]} is out of range: this network has 0 to {self.instances - 1}")
        if self.training and self.instances > 1 and sorted(asked) != list(range(self.instances)):
            raise ValueError(
                f"training needs every instance exactly once, not {asked}: batch norm inside the embedding "
                "erases the instance otherwise; call eval() first or leave the instances out"
            )
