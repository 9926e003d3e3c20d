"""Batch norm with the statistics of the global batch, on CPUs and GPUs. Torch only.

PyTorch's ``SyncBatchNorm`` refuses CPUs. This one is the same computation: one exchange in the forward pass,
one in the backward pass; shares may have different sizes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm(_BatchNorm):
    """A batch norm for any number of dimensions whose ranks compute with the statistics of all of them."""

    @classmethod
    def of(cls, module: _BatchNorm) -> SyncBatchNorm:
        """One with the parameters and buffers of another batch norm, not copies of them."""
        made = cls(module.num_features, module.eps, module.momentum, module.affine, device="meta")
        made._parameters, made._buffers = module._parameters, module._buffers
        return made.train(module.training)

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.BatchNorm2d``; in training mode every rank has to call it, in the same order."""
        if not self.training:
            output: Tensor = super().forward(input)
            return output
        normalized, mean, var, count = _Normalize.apply(input, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        self._update_running_statistics(mean, var * (count / (count - 1)))
        result: Tensor = normalized
        return result

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, var: Tensor) -> None:
        assert self.momentum is not None
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(var.to(self.running_var.dtype), self.momentum)


def convert_batchnorm(module: nn.Module) -> None:
    """Replace every batch norm inside a module, in place; parameters, buffers and their names stay."""
    for owner in list(module.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(owner, name, SyncBatchNorm.of(child))


class _Normalize(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) · weight + bias with mean and variance of all ranks' rows.

    The gradient is that of the sum of all ranks' losses: what DDP divides by their number.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dims, dtype = _all_but_channels(input), torch.promote_types(input.dtype, torch.float32)
        var, mean = torch.var_mean(input.to(dtype), dims, correction=0)
        rows = mean.new_full((1,), input.numel() / len(mean))
        gathered = _gather(torch.cat([mean, var, rows]))
        means, vars, counts = torch.split(gathered, [len(mean), len(mean), 1], dim=1)
        count = counts.sum()
        part = counts / count  # (ranks, 1)
        mean = (part * means).sum(0)
        var = (part * (vars + (means - mean).square())).sum(0)
        output = batch_norm(input, mean, var, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(input, weight, mean, (var + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, var, count)
        return output, mean, var, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        input, weight, mean, inverse_std, count = ctx.saved_tensors
        dims, shape = _all_but_channels(input), (-1, *([1] * (input.dim() - 2)))
        gradient = gradients[0].to(mean.dtype)
        normalized = (input - mean.view(shape)).mul_(inverse_std.view(shape))
        of_bias, of_weight = gradient.sum(dims), (gradient * normalized).sum(dims)
        sums = torch.cat([of_bias, of_weight])
        dist.all_reduce(sums)
        along_mean, along_std = (sums / count).chunk(2)
        residual = gradient - along_mean.view(shape) - normalized.mul_(along_std.view(shape))
        of_input = residual.mul_((weight * inverse_std).view(shape)).to(input.dtype)
        return of_input, of_weight.to(weight.dtype), of_bias.to(weight.dtype), None


def _all_but_channels(input: Tensor) -> list[int]:
    return [0, *range(2, input.dim())]


def _gather(row: Tensor) -> Tensor:
    """The rows of all ranks, (n,) → (ranks, n)."""
    rows = [torch.empty_like(row) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, row)
    return torch.stack(rows)
