"""MIMB, the Multi-Instance Modulation Block (arXiv 2101.11223)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MIMB(nn.Module):
    """Scales every channel by what the picture holds (squeeze and excite) and by which person is asked for.

        s = mean of X over H, W                         squeeze  (B, C)
        e = sigmoid(W2 · relu(W1 · s))                  excite   no bias
        z = sigmoid(V2 · relu(BN(V1 · onehot(λ))))      embed    with bias
        Y = X · e · z                                   per channel

    Fresh weights are torch's defaults, so both sigmoids start near ½ and the block near X/4.

    The batch norm of ``embed`` is the method's trap: in training mode it subtracts the mean over the rows of
    the batch, so rows of a single λ all become zero and λ has no effect and no gradient. Every λ has to be in
    the batch; ``MIPNet`` sees to that. In eval mode z is one constant vector per λ.

    Args:
        channels: C.
        instances: N, the number of values that λ can take.
        reduction: r; the hidden layers have C // r units.
    """

    fixed: Tensor | None

    def __init__(self, channels: int, instances: int, reduction: int = 4) -> None:
        super().__init__()
        if not 1 <= reduction <= channels:
            raise ValueError(
                f"reduction must be in 1..{channels} (the channels of the block), not {reduction}"
            )
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
        self.register_buffer("fixed", None, persistent=False)

    @torch.no_grad()
    def fix_embedding(self) -> None:
        """Compute z of every λ now and for good: for a network that will not be trained any more."""
        self.eval()
        self.fixed = self._embedding(torch.arange(self.instances, device=next(self.parameters()).device))

    def forward(self, x: Tensor, instances: Tensor) -> Tensor:
        """Modulate rows that each have their own λ.

        Args:
            x: (R, C, H, W).
            instances: (R,) int64, λ of every row.
        """
        gate = self._excitation(x) * self._embedding(instances)
        return x * gate[:, :, None, None]

    def fan_out(self, x: Tensor, instances: Tensor) -> Tensor:
        """Modulate every row with every one of M instances, (B, C, H, W) → (B·M, C, H, W).

        The same as repeating row b of ``x`` M times and calling the block with λ = ``instances[m]`` in row
        b·M + m, but the excitation is computed once and the repeated features are never stored.

        Args:
            x: (B, C, H, W).
            instances: (M,) int64.
        """
        batch = x.shape[0]
        embedding = self._embedding(instances.repeat(batch)).unflatten(0, (batch, -1))  # (B, M, C)
        gate = self._excitation(x)[:, None] * embedding
        # Broadcasting keeps the memory format of x, so flattening the batch is a view.
        return (x[:, None] * gate[..., None, None]).flatten(0, 1)

    def _excitation(self, x: Tensor) -> Tensor:
        """e, (R, C)."""
        return torch.sigmoid(self.excite(x.mean((2, 3))))

    def _embedding(self, instances: Tensor) -> Tensor:
        """z of every row, (R,) → (R, C)."""
        if self.fixed is not None:
            return self.fixed[instances]
        dtype = next(self.embed.parameters()).dtype
        one_hot = torch.eye(self.instances, dtype=dtype, device=instances.device)
        if self.training:
            # All rows, not one per λ: the running variance then counts n rows as a repeated batch would.
            return torch.sigmoid(self.embed(one_hot[instances]))
        return torch.sigmoid(self.embed(one_hot))[instances]
