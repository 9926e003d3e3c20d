"""One optimizer step in PyTorch: normalize, targets, network, loss, backward, clip, masked update, EMA.

Nothing in a step waits for the device. If the loss or a gradient is not finite, the update and the batch-norm
buffers are masked on the device; how often that happened is read with the other metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

from mipnet.config.schema import Config
from mipnet.models.activation_checkpointing import enable_activation_checkpointing
from mipnet.models.network import MIPNet
from mipnet.models.normalization import normalize
from mipnet.models.precision import Precision, kernel_settings
from mipnet.models.targets import heatmap_targets
from mipnet.training.losses import heatmap_loss
from mipnet.training.optim import build_optimizer, learning_rate
from mipnet.training.sync_batchnorm import convert_batchnorm

MicroBatch = tuple[Tensor, Tensor]
"""Images (b, h, w, 3) and keypoints (b, N, K, 3): one of a batch's ``TrainStep.micro_batches`` parts, whose
sizes differ by one at most."""


class TrainStep:
    """A network with its optimizer, EMA and metric sums.

    Args:
        model: on the CPU or already on ``device``.
        config: of the run.
        total_steps: length of the learning-rate schedule.
        device: where to compute.
        precision: of forward and backward pass; a resumed run keeps the one that it began with.

    Attributes:
        step: number of steps done.
        ranks: number of training processes.
        micro_batches: parts of this rank's share of a batch.
        parameters: the trainable ones.
        ema_params: their exponential moving average, in the same order; empty without EMA.
        bn_buffers: all floating-point buffers as one vector, see ``flatten_bn_buffers``.
        network: what computes the heatmaps: the model, in DDP if there are several ranks.
    """

    def __init__(
        self, model: MIPNet, config: Config, total_steps: int, device: torch.device, precision: Precision
    ) -> None:
        self.config, self.total_steps, self.device, self.precision = config, total_steps, device, precision
        train = config.train
        self.micro_batches = train.micro_batches(device.type)
        # Convolutions are fastest in the memory format in which ``normalize`` makes the crops.
        self.memory_format = torch.channels_last if train.channels_last else torch.contiguous_format
        self.model = model.to(device, memory_format=self.memory_format)  # type: ignore[call-overload]
        if train.activation_checkpointing:
            enable_activation_checkpointing(self.model.backbone)
        if train.compile:
            self.model.compile(dynamic=False)
        self.ranks = dist.get_world_size() if dist.is_initialized() else 1
        self.distributed = self.ranks > 1
        if train.sync_batchnorm and self.distributed:
            convert_batchnorm(self.model)
        self._share = self._mean_share = 1.0  # samples of this rank in a step, and their mean over ranks
        self.bn_buffers = flatten_bn_buffers(self.model)
        self._bn_buffers_before = torch.empty_like(self.bn_buffers)
        self.network: nn.Module = self.model
        if self.distributed:
            self.network = DistributedDataParallel(
                self.model,
                device_ids=[device.index] if device.type == "cuda" else None,
                forward_sync_buffers=False,  # averaged before they are used: ``all_reduce_bn_buffers``
                gradient_as_bucket_view=True,
                # A static graph excludes ``no_sync``: all backward passes have to be alike.
                static_graph=self.micro_batches == 1,
            )
        self.parameters: list[Tensor] = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.model, train)
        self.ema_params = [p.detach().clone() for p in self.parameters] if train.ema else []
        self.step = 0
        self._last_finite = torch.ones((), dtype=torch.bool, device=device)
        # Since ``read_metrics``: gradient norm, finite and skipped updates, corrupt samples, loss per λ
        self._sums = torch.zeros(4 + config.model.instances, device=device)
        self._rank_states: Tensor | None = None  # see ``unplanned_checkpoint``
        self.set_training_mode()

    def set_training_mode(self) -> None:
        """Training mode, with batch norm in eval mode where the configuration freezes it."""
        self.model.train()
        if self.config.train.freeze_batchnorm:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def __call__(self, images: Tensor, keypoints: Tensor, corrupt: Tensor | None = None) -> None:
        """One update with this rank's share of the global batch of ``train.batch_size`` samples.

        DDP averages the gradients of the ranks. Shares may differ by a sample: each rank's loss is weighted
        by the number of its samples, so that this is the gradient of the mean over the global batch.

        Args:
            images, keypoints: see ``loss``.
            corrupt: (B,) bool, samples whose image could not be read.

        Raises:
            ValueError: the share of a rank is no share of ``train.batch_size``.
        """
        rate = learning_rate(self.step, self.total_steps, self.config.train)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._share = self._mean_share = len(images)
        if self.distributed:
            self._mean_share = self.config.train.batch_size / self.ranks
            if abs(self._share - self._mean_share) >= 1:
                what = f"a rank of {self.ranks} was given {self._share} samples"
                raise ValueError(f"{what} of a batch of {self.config.train.batch_size}")
        self._bn_buffers_before.copy_(self.bn_buffers)
        self.optimizer.zero_grad(set_to_none=True)
        with (
            record_function("forward and backward"),
            kernel_settings(self.precision, self.device, benchmark=True),
        ):
            loss_per_instance = self._forward_backward(images, keypoints)  # (N,)
        with record_function("update"):
            self._update(loss_per_instance, corrupt)
        self.step += 1

    def _update(self, loss_per_instance: Tensor, corrupt: Tensor | None) -> None:
        """Clip the gradients; update weights, EMA and metric sums, unless a gradient is not finite."""
        clip_norm = self.config.train.clip_norm
        norm = torch.nn.utils.get_total_norm(gradients_of(self.parameters))
        finite = torch.isfinite(norm)  # the same on all ranks: DDP has averaged the gradients
        if clip_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, clip_norm, norm)
        self._masked_update(finite)
        if self.ema_params:
            self._update_ema(finite)
        self._add_metrics(norm, finite, loss_per_instance, corrupt)
        self._last_finite = finite

    def loss(
        self, images: Tensor, keypoints: Tensor, network: nn.Module | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss () and, detached, the loss of each λ (N,).

        Args:
            images: (B, H, W, 3) uint8 RGB.
            keypoints: (B, N, K, 3) float32, x and y in crop px and v; v = 0 for those that do not count.
            network: computes the heatmaps; by default ``self.network``.
        """
        target = self.config.target
        inputs = normalize(images).contiguous(memory_format=self.memory_format)  # (B, 3, H, W)
        targets, weights = heatmap_targets(  # (B, N, K, h, w), (B, N, K)
            keypoints, self.config.input.size, self.config.heatmap_size, target.sigma, target.kind
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            heatmaps = (self.network if network is None else network)(inputs)  # (B, N, K, h, w)
        return heatmap_loss(heatmaps, targets, weights, self.config.train.loss)

    def _forward_backward(self, images: Tensor, keypoints: Tensor) -> Tensor:
        """Set the gradients of the mean loss over all micro-batches; returns the loss of each λ (N,).

        Each micro-batch begins with the batch-norm buffers from before the step; afterwards they are the mean
        over the micro-batches' samples, as they are over ranks.

        Returns:
            the loss of each λ (N,): its mean over all ranks is that over the global batch.
        """
        count, samples = self.micro_batches, len(images)
        parts = images.tensor_split(count), keypoints.tensor_split(count)
        micro_batches = list(zip(*parts, strict=True))
        losses, bn_buffers = zip(*self._run_micro_batches(micro_batches), strict=True)
        sizes = [len(part) for part, _ in micro_batches]
        self.bn_buffers.copy_(weighted_mean(bn_buffers, [size * count / samples for size in sizes]))
        return weighted_mean(losses, [size * count / self._mean_share for size in sizes])

    def _run_micro_batches(self, micro_batches: Sequence[MicroBatch]) -> list[tuple[Tensor, Tensor]]:
        """Run the micro-batches one after another; returns (loss per λ, batch-norm buffers) of each."""
        results: list[tuple[Tensor, Tensor]] = []
        network = self.network
        for number, micro_batch in enumerate(micro_batches, start=1):
            no_sync: AbstractContextManager[Any] = nullcontext()
            if isinstance(network, DistributedDataParallel) and number < len(micro_batches):
                no_sync = network.no_sync()  # all-reduce the gradients once, with the last micro-batch
            with no_sync:
                results.append(self._run_micro_batch(network, self.bn_buffers, micro_batch))
        return results

    def _run_micro_batch(
        self, network: nn.Module, bn_buffers: Tensor, micro_batch: MicroBatch
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward pass of a micro-batch, its loss weighted by its number of samples.

        Args:
            network: its gradients are accumulated.
            bn_buffers: its batch-norm buffers.
            micro_batch: images and keypoints.

        Returns:
            the loss of each λ (N,), and the batch-norm buffers after the forward pass.
        """
        bn_buffers.copy_(self._bn_buffers_before)
        loss, loss_per_instance = self.loss(*micro_batch, network)
        after = bn_buffers.clone()  # activation checkpointing updates them a second time in backward()
        # Divided, not multiplied by the inverse: parts of one size then have the bits of a plain mean.
        torch.autograd.backward(loss / (self._mean_share / len(micro_batch[0])))
        return loss_per_instance, after

    def _masked_update(self, finite: Tensor) -> None:
        """Update the weights; unless ``finite``, they and the batch-norm buffers stay as before the step."""
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # see ``build_optimizer``
        self.optimizer.step()
        self.bn_buffers.copy_(torch.where(finite, self.bn_buffers, self._bn_buffers_before))

    @torch.no_grad()
    def _update_ema(self, finite: Tensor) -> None:
        # Not lerp, because its weight is a plain number: a masked update must leave the EMA alone, too.
        change = torch._foreach_sub(self.parameters, self.ema_params)
        torch._foreach_mul_(change, (1 - self.config.train.ema) * finite)
        torch._foreach_add_(self.ema_params, change)

    def _add_metrics(
        self, norm: Tensor, finite: Tensor, loss_per_instance: Tensor, corrupt: Tensor | None
    ) -> None:
        """Add to ``_sums``; norm and losses of a masked update count as 0."""
        corrupt_count = torch.zeros((), device=self.device) if corrupt is None else corrupt.sum()
        values = torch.cat([torch.stack([norm, finite.float()]), loss_per_instance])  # (2 + N,)
        values = torch.where(finite, values, 0.0)
        counts = torch.stack([1 - finite.float(), corrupt_count])
        self._sums += torch.cat([values[:2], counts, values[2:]])

    def read_metrics(self) -> dict[str, float]:
        """Means since the last call, over all ranks; waits for the device.

        Returns:
            loss, loss/lambda0, … (nan if no update was finite); gradient_norm, before clipping;
            learning_rate; skipped, the number of masked updates; corrupt, the number of samples whose image
            could not be read.
        """
        sums = self._sums
        if self.distributed:
            dist.all_reduce(sums)
        norm, finite, skipped, corrupt, *losses = sums.tolist()
        self._sums = torch.zeros_like(sums)
        means = [loss / finite if finite else float("nan") for loss in losses]
        return {
            "loss": sum(means) / len(means),
            **{f"loss/lambda{i}": mean for i, mean in enumerate(means)},
            "gradient_norm": norm / finite if finite else float("nan"),
            "learning_rate": learning_rate(max(self.step - 1, 0), self.total_steps, self.config.train),
            "skipped": round(skipped / self.ranks),
            "corrupt": round(corrupt),
        }

    def is_finite(self) -> bool:
        """Whether the last update, all weights and batch-norm buffers are finite, on all ranks alike."""
        weights = [*self.parameters, *self.ema_params, self.bn_buffers]
        finite = self._last_finite & torch.isfinite(torch.nn.utils.get_total_norm(weights))
        failed = (~finite).float()
        if self.distributed:
            dist.all_reduce(failed)  # each rank has its own batch-norm buffers
        return not failed.item()

    def all_reduce_bn_buffers(self) -> None:
        """Average the batch-norm buffers over all ranks, by samples. Call it before weights are saved."""
        if self.distributed:
            self.bn_buffers *= self._share / self._mean_share
            dist.all_reduce(self.bn_buffers)
            self.bn_buffers /= self.ranks

    @contextmanager
    def unplanned_checkpoint(self) -> Iterator[None]:
        """Save a checkpoint in the ``with`` block that changes nothing of what follows; call it on all ranks.

        A planned one averages the batch-norm buffers over all ranks, and the metrics are read before it. Here
        each rank goes on with its own ones, and the checkpoint holds those of all ranks beside the average.
        """
        own = torch.cat([self.bn_buffers, self._sums])
        states = [own]
        if self.distributed:
            states = [torch.empty_like(own) for _ in range(self.ranks)]
            dist.all_gather(states, own)
        self._rank_states = torch.stack(states)
        self.all_reduce_bn_buffers()
        try:
            yield
        finally:
            self._rank_states = None
            self.bn_buffers.copy_(own[: len(self.bn_buffers)])

    def _load_rank_states(self, states: Tensor) -> None:
        """Go on with this rank's buffers and sums of an ``unplanned_checkpoint``.

        Args:
            states: (ranks, n). Another number of ranks takes the average of the buffers, which the model has.
        """
        buffers, sums = torch.split(states.to(self.device), [len(self.bn_buffers), len(self._sums)], dim=1)
        if len(states) == self.ranks:
            rank = dist.get_rank() if self.distributed else 0
            self.bn_buffers.copy_(buffers[rank])
            self._sums.copy_(sums[rank])
        else:
            self._sums.copy_(sums.mean(dim=0))
            self._sums[3] *= len(states) / self.ranks  # a count of samples, the others are means over ranks

    def ema_state_dict(self) -> dict[str, Tensor]:
        """The state_dict to evaluate: the model's, with the EMA of its parameters where there is one."""
        state = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        if self.ema_params:
            names = [name for name, p in self.model.named_parameters() if p.requires_grad]
            state.update(zip(names, [p.clone() for p in self.ema_params], strict=True))
        return state

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs, as tensors and plain values."""
        state = {
            "step": self.step,
            "precision": self.precision,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.ema_params,  # the key in all checkpoints
            "torch_rng": torch.get_rng_state(),
        }
        return state if self._rank_states is None else state | {"rank_states": self._rank_states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a ``state_dict``."""
        self.step, self.precision = state["step"], state["precision"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for param, saved in zip(self.ema_params, state["average"], strict=True):
            param.copy_(saved)
        torch.set_rng_state(state["torch_rng"].cpu())
        if "rank_states" in state:
            self._load_rank_states(state["rank_states"])


def weighted_mean(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Mean of tensors of one shape with weights whose mean is 1, or contributes to one over ranks that is."""
    pairs = zip(values, weights, strict=True)
    return torch.stack([value if weight == 1 else value * weight for value, weight in pairs]).mean(dim=0)


def gradients_of(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the parameters that have one."""
    return [p.grad for p in parameters if p.grad is not None]


def flatten_bn_buffers(module: nn.Module) -> Tensor:
    """Put all floating-point buffers of a module into one vector; the buffers become views of it.

    They are those of the batch norms. Saving, restoring and averaging them is then one operation each instead
    of one per layer.
    """
    owners = [
        (owner, name, buffer)
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
        if buffer.is_floating_point()
    ]
    device = next(module.parameters()).device
    flat = torch.cat([b.reshape(-1) for _, _, b in owners]) if owners else torch.zeros(0, device=device)
    offset = 0
    for owner, name, buffer in owners:
        # Assigning to a registered buffer's name keeps it registered, and persistent or not.
        setattr(owner, name, flat[offset : offset + buffer.numel()].view(buffer.shape))
        offset += buffer.numel()
    return flat
