"""MIMB, the Multi-Instance Modulation Block (MIPNet, arXiv 2101.11223)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MIMB(nn.Module):
    """Scales every channel by the image's content (squeeze and excitation) and by λ, the instance wanted.

        s = mean of X over H, W                         squeeze  (R, C)
        e = sigmoid(W2 · relu(W1 · s))                  excite   (R, C), no bias
        z = sigmoid(V2 · relu(BN(V1 · onehot(λ))))      embed    (R, C), with bias
        Y = X · e · z                                   (R, C, H, W), per channel

    Weights start as torch's defaults, so both sigmoids start near ½ and Y near X/4.

    In training mode the batch norm of ``embed`` subtracts the mean over the rows of the batch. If all rows
    had the same λ, they would become zero, and λ would have no effect and no gradient. So the batch has to
    contain every λ; ``MIPNet`` checks that. In eval mode z is a constant vector per λ.

    Args:
        channels: C.
        instances: N, the number of values of λ.
        reduction: r; the hidden layers have C // r units.
    """

    cached_embedding: Tensor | None

    def __init__(self, channels: int, instances: int, reduction: int = 4) -> None:
        super().__init__()
        if not 1 <= reduction <= channels:
            valid = f"1..{channels} (the channels of the block)"
            raise ValueError(f"reduction must be in {valid}, not {reduction}")
        hidden = channels // reduction
        self.instances = instances
        self.excite = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels, bias=False),
        )
        self.embed = nn.Sequential(
            nn.Linear(instances, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels),
        )
        self.register_buffer("cached_embedding", None, persistent=False)

    @torch.no_grad()
    def cache_embedding(self) -> None:
        """Compute z of every λ once, for inference; training is not possible afterwards."""
        self.eval()
        device = next(self.parameters()).device
        self.cached_embedding = self._embedding(torch.arange(self.instances, device=device))

    def forward(self, x: Tensor, instances: Tensor) -> Tensor:
        """Modulate rows with a λ each.

        Args:
            x: (R, C, H, W).
            instances: (R,) int64, λ of every row.

        Returns:
            (R, C, H, W).
        """
        gate = self._excitation(x) * self._embedding(instances)  # (R, C)
        return x * gate[:, :, None, None]

    def expand_instances(self, x: Tensor, instances: Tensor) -> Tensor:
        """Modulate every row with every one of M instances, (B, C, H, W) → (B·M, C, H, W).

        The same as ``forward`` on M copies of each row, with λ = ``instances[m]`` in row b·M + m, but the
        excitation is computed once and the copies are never stored.

        Args:
            x: (B, C, H, W).
            instances: (M,) int64.
        """
        batch = x.shape[0]
        rows = self._embedding(instances.repeat(batch))  # (B·M, C)
        embedding = torch.unflatten(rows, 0, (batch, -1))  # (B, M, C)
        gate = self._excitation(x)[:, None] * embedding  # (B, M, C)
        # Broadcasting keeps the memory format of x, so flatten returns a view.
        return (x[:, None] * gate[..., None, None]).flatten(0, 1)  # (B, M, C, H, W) → (B·M, C, H, W)

    def _excitation(self, x: Tensor) -> Tensor:
        """e, (R, C)."""
        return torch.sigmoid(self.excite(x.mean((2, 3))))

    def _embedding(self, instances: Tensor) -> Tensor:
        """z of every row, (R,) → (R, C)."""
        if self.cached_embedding is not None:
            return self.cached_embedding[instances]
        dtype = next(self.embed.parameters()).dtype
        one_hot = torch.eye(self.instances, dtype=dtype, device=instances.device)
        if self.training:
            # All rows, not one per λ, so that the running variance is that of the repeated batch.
            return torch.sigmoid(self.embed(one_hot[instances]))
        return torch.sigmoid(self.embed(one_hot))[instances]
