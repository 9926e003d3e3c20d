"""The parts of a batch, each with a batch norm of its own, side by side on a CPU. Torch only.

The threads of one operator wait for one another at its end, some thousand times a step. On a machine that
also decodes and validates, one of them is often put aside for a moment, and then all wait. Threads that
compute a part each meet once a step.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mipnet.config.schema import TrainConfig
from mipnet.models.network import MIPNet


class Twin:
    """A network that shares another's weights and has gradients and batch-norm statistics of its own.

    Attributes:
        network: the twin.
        parameters: those that are trained, in the other's order.
        statistics: its floating-point buffers as one vector, see ``flatten_statistics``.
    """

    def __init__(self, network: MIPNet) -> None:
        shared = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in network.parameters()}
        self.network = copy.deepcopy(network, shared)
        self.parameters: list[Tensor] = [p for p in self.network.parameters() if p.requires_grad]
        self.statistics = flatten_statistics(self.network)


def parts_at_once(train: TrainConfig, device: torch.device, ranks: int, threads: int) -> int:
    """How many parts of a rank's batch can be computed side by side.

    Args:
        train: has ``accumulate`` parts.
        device: of the network; only a CPU computes several things at once that are worth it.
        ranks: training processes.
        threads: of this one.
    """
    able = device.type == "cpu" and ranks == 1 and not (train.compile or train.recompute)
    return min(train.accumulate, threads) if able else 1


def flatten_statistics(module: nn.Module) -> Tensor:
    """Put all floating-point buffers of a module into one vector, of which they become views.

    So saving, restoring and averaging them is one operation each instead of one per layer.
    """
    owners = [
        (owner, name, buffer)
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
        if buffer.is_floating_point()
    ]
    device = next(module.parameters()).device
    flat = torch.cat([b.reshape(-1) for _, _, b in owners]) if owners else torch.zeros(0, device=device)
    position = 0
    for owner, name, buffer in owners:
        # Setting a buffer's attribute keeps it one, and keeps whether it is saved.
        setattr(owner, name, flat[position : position + buffer.numel()].view(buffer.shape))
        position += buffer.numel()
    return flat
