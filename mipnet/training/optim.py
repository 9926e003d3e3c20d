"""Optimizer and learning-rate schedules; the rate is a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from mipnet.config.schema import TrainConfig


def build_optimizer(module: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """Adam or AdamW in its fused form, whose update can be masked on the device.

    A fused optimizer skips the update if its attribute ``found_inf``, a tensor, is 1. This is the protocol of
    ``torch.amp.GradScaler`` and the only way to mask an update without waiting for the device.
    Biases and batch-norm weights (tensors of one dimension) get no weight decay.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[train.optimizer]
    optimizer: torch.optim.Optimizer = kind(groups, lr=train.learning_rate, fused=True)
    return optimizer


def learning_rate(step: int, total_steps: int, train: TrainConfig) -> float:
    """The learning rate of step ``step`` (0-based) of ``total_steps``.

    "step" drops the rate at the milestones, given in epochs. "onecycle" rises along a half cosine from 1/25
    of the peak over the warm-up and falls along another to 1/10,000 of that.
    """
    peak = train.learning_rate
    if train.schedule == "step":
        epoch = step * train.epochs / total_steps
        return peak * train.drop ** sum(epoch >= milestone for milestone in train.milestones)
    start, end = peak / 25, peak / 25e4
    warm = train.warmup * total_steps
    if step < warm:
        return start + (peak - start) * (1 - math.cos(math.pi * step / warm)) / 2
    done = (step - warm) / max(total_steps - warm, 1e-9)
    return end + (peak - end) * (1 + math.cos(math.pi * min(done, 1.0))) / 2
