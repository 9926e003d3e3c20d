"""Activation checkpointing: the same gradients, fewer kept activations."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from mipnet.models.activation_checkpointing import enable_activation_checkpointing
from mipnet.models.build import build_model
from mipnet.models.network import MIPNet

HRNET = {"width": 8, "num_modules": (1, 1), "blocks": 1, "stem_channels": 8, "stage1_blocks": 1}


def kept_and_gradients(model: MIPNet) -> tuple[int, list[Tensor]]:
    """Bytes that a forward pass keeps for the backward pass, and the gradients."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(1)
    images = torch.randn(2, 3, 64, 32, dtype=torch.float64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(images).square().sum()
    loss.backward()
    return sum(kept.values()), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("backbone", ["hrnet", "simplebaseline"])
def test_same_gradients_and_names_with_less_memory(backbone: str) -> None:
    torch.manual_seed(0)
    size = HRNET if backbone == "hrnet" else {"depth": 18, "deconv_channels": 8}
    model = build_model(backbone, 5, 2, (2, 3), **size).double().train()
    lean = copy.deepcopy(model)
    enable_activation_checkpointing(lean.backbone)
    assert list(lean.state_dict()) == list(model.state_dict())
    kept, gradients = kept_and_gradients(model)
    kept_lean, gradients_lean = kept_and_gradients(lean)
    assert len(gradients) == len(gradients_lean)
    for ours, theirs in zip(gradients_lean, gradients, strict=True):
        assert torch.equal(ours, theirs)
    parameters = sum(p.nbytes for p in model.parameters())
    assert kept_lean - parameters < 0.7 * (kept - parameters)
