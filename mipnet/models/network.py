"""MIPNet: a top-down network that predicts another person of the crop for every λ (arXiv 2101.11223)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mipnet.models.backbone import Backbone
from mipnet.models.mimb import MIMB


class MIPNet(nn.Module):
    """A backbone with MIMBs at some of its insertion points.

    The stages before the first MIMB do not depend on λ and run once per image. The first MIMB expands the
    batch: row b·M + m belongs to image b and the m-th λ, and the other stages run once on these B·M rows.
    With one instance and no MIMBs this is the backbone alone. Parameters have the same names either way
    (``backbone.…``), so a single-instance network can initialize a MIPNet.

    Args:
        backbone: the network to convert; becomes a submodule.
        instances: N, the number of values of λ; λ = 0 is the primary person.
        mimb_stages: numbers of the backbone's insertion points that get MIMBs; {3, 4} in the paper.
        reduction: r, the channel reduction of the MIMBs.

    Attributes:
        instances, mimb_stages: as given (stages sorted).
        architecture: the arguments of ``build_model``; None for a network made by hand.

    Raises:
        ValueError: N < 1, N > 1 without MIMBs, or an insertion point that the backbone does not have.
    """

    def __init__(
        self, backbone: Backbone, instances: int = 2, mimb_stages: Iterable[int] = (3, 4), reduction: int = 4
    ) -> None:
        super().__init__()
        mimb_stages, points = sorted(set(mimb_stages)), backbone.insertion_points
        if instances < 1:
            raise ValueError(f"a network needs at least 1 instance, not {instances}")
        if instances > 1 and not mimb_stages:
            why = "without one all poses are the same"
            raise ValueError(f"{instances} instances need a place for MIMBs: {why}")
        if unknown := [p for p in mimb_stages if p not in points]:
            raise ValueError(f"the backbone has no place {unknown[0]}, only {sorted(points)}")
        self.backbone = backbone
        self.instances = instances
        self.mimb_stages = tuple(mimb_stages)
        self.architecture: dict[str, object] | None = None
        self.mimbs = nn.ModuleDict()
        for p in mimb_stages:
            branches = (MIMB(c, instances, reduction) for c in points[p].channels)
            self.mimbs[str(p)] = nn.ModuleList(branches)

    def forward(self, images: Tensor, instances: Tensor | None = None) -> Tensor:
        """Heatmaps for each λ.

        Args:
            images: (B, 3, H, W) float, RGB, normalized.
            instances: (M,) int64, the same λ for every image; None for all, 0 .. N−1. In training mode it has
                to contain every λ, because of the batch norm in the embedding.

        Returns:
            (B, M, K, h, w).

        Raises:
            ValueError: a λ out of range, or some λ missing in training mode.
        """
        if instances is None:
            instances = torch.arange(self.instances, device=images.device)
        else:
            self._check_instances(instances)
            instances = instances.to(images.device)
        batch, count = images.shape[0], len(instances)  # B, M; len(images) would fix B in an export
        rows = instances.repeat(batch)  # (B·M,), λ of row b·M + m
        features: Tensor | list[Tensor] = images
        expanded = False
        for index, stage in enumerate(self.backbone.stages):
            features = stage(features)  # (B or B·M, C, H', W') per branch
            for number in self.mimb_stages:
                if self.backbone.insertion_points[number].after_stage == index:
                    features = self._modulate(number, features, rows if expanded else instances, expanded)
                    expanded = True  # (B·M, C, H', W') per branch
        heatmaps: Tensor = self.backbone.head(features)  # (B or B·M, K, h, w)
        if not expanded:
            return heatmaps[:, None].expand(-1, count, -1, -1, -1)
        return torch.unflatten(heatmaps, 0, (batch, count))  # (B, M, K, h, w)

    def _modulate(
        self, mimb_stage: int, features: Tensor | list[Tensor], instances: Tensor, expanded: bool
    ) -> Tensor | list[Tensor]:
        """Apply one MIMB per branch: with a λ per row, or, unless ``expanded``, expanding B rows to B·M."""
        branches = [features] if isinstance(features, Tensor) else features
        mimbs = self.mimbs[str(mimb_stage)]
        assert isinstance(mimbs, nn.ModuleList)
        modulated = []
        for mimb, branch in zip(mimbs, branches, strict=True):
            assert isinstance(mimb, MIMB)
            modulate = mimb if expanded else mimb.expand_instances
            modulated.append(modulate(branch, instances))
        return modulated[0] if isinstance(features, Tensor) else modulated

    def _check_instances(self, instances: Tensor) -> None:
        if instances.ndim != 1 or instances.dtype != torch.int64 or not len(instances):
            got = f"{instances.dtype} of shape {tuple(instances.shape)}"
            raise ValueError(f"instances must be a non-empty int64 vector, not {got}")
        values = instances.tolist()
        if out := [i for i in values if not 0 <= i < self.instances]:
            raise ValueError(f"instance {out[0]} is out of range: this network has 0 to {self.instances - 1}")
        if self.training and self.instances > 1 and sorted(values) != list(range(self.instances)):
            raise ValueError(
                f"training needs every instance exactly once, not {values}: batch norm inside the embedding "
                "erases the instance otherwise; call eval() first or leave the instances out"
            )
