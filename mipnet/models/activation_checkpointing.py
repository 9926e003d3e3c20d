"""Activation checkpointing: less memory for a second forward pass."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from mipnet.models.backbone import Backbone
from mipnet.models.blocks import BasicBlock, Bottleneck
from mipnet.models.hrnet import ExchangeModule

CHECKPOINTED_MODULES = (ExchangeModule, Bottleneck, BasicBlock)
"""Modules that keep only their input for the backward pass; in other backbones the stages do."""


def enable_activation_checkpointing(backbone: Backbone) -> None:
    """Recompute the activations of a backbone's blocks in the backward pass, in place.

    Tensor names and results stay the same. The recomputation updates batch-norm buffers a second time: the
    caller has to restore them to their values after the forward pass.
    """
    for stage in backbone.stages:
        for module in _checkpointed_modules(stage) or [stage]:
            forward = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)
            setattr(module, "forward", forward)  # noqa: B010


def _checkpointed_modules(module: nn.Module) -> list[nn.Module]:
    """The outermost ``CHECKPOINTED_MODULES`` inside ``module``."""
    if isinstance(module, CHECKPOINTED_MODULES):
        return [module]
    return [found for child in module.children() for found in _checkpointed_modules(child)]
