"""One optimiser step: normalise, targets, network for all λ, loss, update. Torch only; no Ray in here.

Nothing in a step waits for the device. A loss or gradient that is not finite masks the update and the
batch-norm statistics on the device; how often that happened is read with the other metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mipnet.config.schema import Config
from mipnet.models.activation_checkpointing import recompute_activations
from mipnet.models.network import MIPNet
from mipnet.models.normalization import normalise
from mipnet.models.precision import Precision
from mipnet.models.targets import heatmap_targets
from mipnet.training.losses import heatmap_loss
from mipnet.training.optim import build_optimizer, learning_rate

MicroBatch = tuple[Tensor, Tensor]
"""Images (b, h, w, 3) and joints (b, N, K, 3) of one of the ``train.accumulate`` parts of a batch."""


class TrainStep:
    """A network with what it takes to train it.

    Args:
        model: on the CPU or already on ``device``.
        config: of the run.
        total_steps: length of the schedule.
        device: where to compute.
        precision: of the network's forward and backward pass; a continued run keeps the one it began with.
    """

    def __init__(
        self,
        model: MIPNet,
        config: Config,
        total_steps: int,
        device: torch.device,
        precision: Precision = "fp32",
    ) -> None:
        self.config, self.total_steps, self.device, self.precision = config, total_steps, device, precision
        train = config.train
        # Convolutions are fastest in the memory format in which ``normalise`` makes the crops.
        self.layout = torch.channels_last if train.channels_last else torch.contiguous_format
        self.model = model.to(device, memory_format=self.layout)  # type: ignore[call-overload]
        if train.recompute:
            recompute_activations(self.model.backbone)
        if train.compile:
            self.model.compile(dynamic=False)
        self.distributed = dist.is_initialized() and dist.get_world_size() > 1
        self.statistics = flatten_statistics(self.model)
        self._statistics_before = torch.empty_like(self.statistics)
        self.network: nn.Module = self.model
        if self.distributed:
            self.network = DistributedDataParallel(
                self.model,
                device_ids=[device.index] if device.type == "cuda" else None,
                forward_sync_buffers=False,  # averaged before they are used: ``synchronise_statistics``
                gradient_as_bucket_view=True,
                static_graph=train.accumulate == 1,  # not with ``no_sync``: every backward pass is alike
            )
        self.parameters: list[Tensor] = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.model, train)
        self.average = [p.detach().clone() for p in self.parameters] if train.ema else []
        self.step = 0
        self._sums = torch.zeros(4 + config.model.instances, device=device)
        self.set_training_mode()

    def set_training_mode(self) -> None:
        """Training mode, with batch norm in eval mode where the configuration freezes it."""
        self.model.train()
        if self.config.train.freeze_batchnorm:
            for module in self.model.modules():
                if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)):
                    module.eval()

    def loss(self, images: Tensor, joints: Tensor, network: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """The loss () and the loss of each λ (N,).

        Args:
            images: (B, h, w, 3) uint8 RGB.
            joints: (B, N, K, 3) float32 in crop px, v = 0 for joints that do not count.
            network: the one to compute it with, if not ours.
        """
        target = self.config.target
        targets, weights = heatmap_targets(
            joints, self.config.input.size, self.config.heatmap_size, target.sigma, target.kind
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            heatmaps = (self.network if network is None else network)(
                normalise(images).contiguous(memory_format=self.layout)
            )
        return heatmap_loss(heatmaps, targets, weights, self.config.train.loss)

    def __call__(self, images: Tensor, joints: Tensor, corrupt: Tensor | None = None) -> None:
        """One update with this rank's share of the global batch (equal shares; DDP averages them)."""
        train = self.config.train
        rate = learning_rate(self.step, self.total_steps, train)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._statistics_before.copy_(self.statistics)
        self.optimizer.zero_grad(set_to_none=True)
        per_instance = self._gradients(images, joints)
        norm = torch.nn.utils.get_total_norm(gradients_of(self.parameters))
        finite = torch.isfinite(norm)  # the same on all ranks: the gradients are already averaged
        if train.clip_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, train.clip_norm, norm)
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.statistics.copy_(torch.where(finite, self.statistics, self._statistics_before))
        if self.average:
            self._move_average(finite)

        bad = torch.zeros((), device=self.device) if corrupt is None else corrupt.sum()
        values = torch.cat([torch.stack([norm, finite.float()]), per_instance])
        values = torch.where(finite, values, 0.0)
        self._sums += torch.cat([values[:2], torch.stack([1 - finite.float(), bad]), values[2:]])
        self.step += 1

    @torch.no_grad()
    def _move_average(self, finite: Tensor) -> None:
        # Not lerp: its weight is a plain number, and a masked update must leave the average alone too.
        change = torch._foreach_sub(self.parameters, self.average)
        torch._foreach_mul_(change, (1 - self.config.train.ema) * finite)
        torch._foreach_add_(self.average, change)

    def _gradients(self, images: Tensor, joints: Tensor) -> Tensor:
        """Set the gradients of the mean loss over all micro-batches; returns the loss of each λ (N,).

        Each micro-batch begins with the statistics from before the step; they become the mean of what the
        micro-batches make of them, as they do over ranks.
        """
        count = self.config.train.accumulate
        parts = list(zip(images.chunk(count), joints.chunk(count), strict=True))
        losses, statistics = zip(*self._run(parts), strict=True)
        self.statistics.copy_(torch.stack(statistics).mean(dim=0))
        return torch.stack(losses).mean(dim=0)

    def _run(self, parts: Sequence[MicroBatch]) -> list[tuple[Tensor, Tensor]]:
        """Run the micro-batches one after another; returns ``_backward`` of each, gradients added up."""
        found, network = [], self.network
        for number, part in enumerate(parts, start=1):
            unsynchronised: AbstractContextManager[Any] = nullcontext()
            if isinstance(network, DistributedDataParallel) and number < len(parts):
                unsynchronised = network.no_sync()  # all-reduce the gradients once, with the last one
            with unsynchronised:
                found.append(self._backward(network, self.statistics, part, len(parts)))
        return found

    def _backward(
        self, network: nn.Module, statistics: Tensor, part: MicroBatch, count: int
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward pass of one of ``count`` micro-batches.

        Args:
            network: gets the gradients, added to those that it has.
            statistics: its batch-norm statistics.
            part: the micro-batch.
            count: the loss is divided by it.

        Returns:
            the loss of each λ (N,), and the statistics after the forward pass.
        """
        statistics.copy_(self._statistics_before)
        loss, per_instance = self.loss(*part, network)
        after = statistics.clone()  # activation checkpointing updates them a second time in backward()
        (loss / count).backward()
        return per_instance, after

    def read_metrics(self) -> dict[str, float]:
        """Means since the last call, over all ranks; waits for the device.

        Returns:
            loss and loss/λ (nan if no update was finite), gradient_norm, learning_rate, skipped: updates
            that were masked, corrupt: samples whose image could not be read.
        """
        sums = self._sums
        if self.distributed:
            dist.all_reduce(sums)
        world = dist.get_world_size() if self.distributed else 1
        norm, finite, skipped, corrupt, *losses = sums.tolist()
        self._sums = torch.zeros_like(sums)
        means = [loss / finite if finite else float("nan") for loss in losses]
        return {
            "loss": sum(means) / len(means),
            **{f"loss/lambda{i}": mean for i, mean in enumerate(means)},
            "gradient_norm": norm / finite if finite else float("nan"),
            "learning_rate": learning_rate(max(self.step - 1, 0), self.total_steps, self.config.train),
            "skipped": round(skipped / world),
            "corrupt": round(corrupt),
        }

    def synchronise_statistics(self) -> None:
        """The mean of all ranks' batch-norm statistics on every rank. Call before weights are saved."""
        if self.distributed:
            dist.all_reduce(self.statistics)
            self.statistics /= dist.get_world_size()

    def evaluated_state(self) -> dict[str, Tensor]:
        """The state_dict to evaluate and keep: the moving average where there is one."""
        state = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        if self.average:
            names = [name for name, p in self.model.named_parameters() if p.requires_grad]
            state.update(zip(names, [p.clone() for p in self.average], strict=True))
        return state

    def state_dict(self) -> dict[str, Any]:
        """All that a continuation needs, as tensors and plain values."""
        return {
            "step": self.step,
            "precision": self.precision,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "torch_rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.step, self.precision = state["step"], state["precision"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for mine, saved in zip(self.average, state["average"], strict=True):
            mine.copy_(saved)
        torch.set_rng_state(state["torch_rng"].cpu())


def gradients_of(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the parameters that have one."""
    return [p.grad for p in parameters if p.grad is not None]


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
