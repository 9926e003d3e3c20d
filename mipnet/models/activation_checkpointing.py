"""Activation checkpointing: less memory for a second forward pass."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from mipnet.models.backbone import Backbone
from mipnet.models.blocks import BasicBlock, Bottleneck
from mipnet.models.hrnet import ExchangeModule

UNITS = (ExchangeModule, Bottleneck, BasicBlock)
"""What keeps only its input for the backward pass; of a backbone without them, each stage."""


def recompute_activations(backbone: Backbone) -> None:
    """Let the large parts of a backbone compute their activations again in the backward pass.

    Changes neither names nor results. Batch norms see each batch twice, so whoever trains has to put their
    running statistics back to what they were after the first pass.
    """
    for stage in backbone.stages:
        for unit in _units(stage) or [stage]:
            forward = partial(checkpoint, unit.forward, use_reentrant=False, preserve_rng_state=False)
            setattr(unit, "forward", forward)  # noqa: B010


def _units(module: nn.Module) -> list[nn.Module]:
    """The outermost units inside ``module``."""
    if isinstance(module, UNITS):
        return [module]
    return [unit for child in module.children() for unit in _units(child)]
