"""A training step whose micro-batches run in parallel on the cores of a CPU. Torch only.

The threads of one operator wait for one another at its end, some thousand times a step. On a machine that
also decodes and validates, one of them is often preempted for a moment, and then all wait. Threads that
compute a micro-batch each wait for one another once a step: training preset ``tiny`` took a fifth less time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from mipnet.config.schema import Config, TrainConfig
from mipnet.models.network import MIPNet
from mipnet.models.precision import Precision
from mipnet.training.step import MicroBatch, TrainStep, flatten_statistics, gradients_of


class Replica:
    """A network that shares another's weights and has gradients and batch-norm statistics of its own.

    Attributes:
        network: the replica, in the other's training mode.
        parameters: those that are trained, in the other's order.
        statistics: its floating-point buffers as one vector, see ``flatten_statistics``.
    """

    def __init__(self, network: MIPNet) -> None:
        shared = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in network.parameters()}
        self.network = copy.deepcopy(network, shared)
        self.parameters: list[Tensor] = [p for p in self.network.parameters() if p.requires_grad]
        self.statistics = flatten_statistics(self.network)


class CpuTrainStep(TrainStep):
    """A ``TrainStep`` with a thread and a replica of the network for each micro-batch.

    It computes the same bits as ``TrainStep``: gradients are added in the micro-batches' order.

    Args:
        model, config, total_steps, precision: as for ``TrainStep``; ``config.train.accumulate`` is the number
            of micro-batches.
        parallel: how many micro-batches to run at a time, see ``parallel_micro_batches``; each with as many
            threads as PyTorch is set to now.
    """

    def __init__(
        self, model: MIPNet, config: Config, total_steps: int, precision: Precision, parallel: int
    ) -> None:
        super().__init__(model, config, total_steps, torch.device("cpu"), precision)
        self.replicas = [Replica(self.model) for _ in range(config.train.accumulate - 1)]
        threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(parallel, "micro-batch", torch.set_num_threads, (threads,))

    def _run(self, parts: Sequence[MicroBatch]) -> list[tuple[Tensor, Tensor]]:
        networks: list[tuple[nn.Module, Tensor]] = [(self.network, self.statistics)]
        for replica in self.replicas:
            replica.network.zero_grad(set_to_none=True)
            networks.append((replica.network, replica.statistics))
        begun = [
            self._pool.submit(self._backward, *network, part, len(parts))
            for network, part in zip(networks, parts, strict=True)
        ]
        found = [each.result() for each in begun]
        for replica in self.replicas:
            torch._foreach_add_(gradients_of(self.parameters), gradients_of(replica.parameters))
        return found


def parallel_micro_batches(train: TrainConfig, device: torch.device, ranks: int, threads: int) -> int:
    """How many micro-batches of a rank's batch can run at a time; 1 where a plain ``TrainStep`` is as good.

    Args:
        train: has ``accumulate`` micro-batches.
        device: of the network; a GPU runs one after another.
        ranks: training processes.
        threads: of this one.
    """
    able = device.type == "cpu" and ranks == 1 and not (train.compile or train.recompute)
    return min(train.accumulate, threads) if able else 1
