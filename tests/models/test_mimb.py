from __future__ import annotations

import math

import pytest
import torch

from mipnet.models.mimb import MIMB


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _small(training: bool) -> MIMB:
    """Two channels, one hidden unit, two instances, round numbers."""
    block = MIMB(2, 2, reduction=2).double().train(training)
    with torch.no_grad():
        block.excite[0].weight.copy_(torch.tensor([[1.0, 2.0]]))
        block.excite[2].weight.copy_(torch.tensor([[0.5], [-1.0]]))
        block.embed[0].weight.copy_(torch.tensor([[3.0, -1.0]]))
        block.embed[0].bias.copy_(torch.tensor([1.0]))
        block.embed[1].weight.fill_(2.0)
        block.embed[1].bias.fill_(0.5)
        block.embed[1].running_mean.fill_(1.0)
        block.embed[1].running_var.fill_(4.0 - 1e-5)
        block.embed[3].weight.copy_(torch.tensor([[1.0], [-0.25]]))
        block.embed[3].bias.copy_(torch.tensor([0.25, 0.0]))
    return block


def test_eval_mode_by_hand() -> None:
    x = torch.tensor([[[[1.0, 3.0]], [[0.0, 1.0]]]], dtype=torch.float64)
    y = _small(training=False)(torch.cat([x, x]), torch.tensor([0, 1]))
    # squeeze (2, ½), hidden relu(2 + 1) = 3, excite (1.5, −3)
    e = [_sigmoid(1.5), _sigmoid(-3.0)]
    # V1 gives 4 for λ=0 and 0 for λ=1; batch norm 2·(v − 1)/2 + ½ = 3.5 and −½; relu 3.5 and 0
    z = [[_sigmoid(3.75), _sigmoid(-0.875)], [_sigmoid(0.25), _sigmoid(0.0)]]
    for row in range(2):
        for channel in range(2):
            expected = x[0, channel] * e[channel] * z[row][channel]
            torch.testing.assert_close(y[row, channel], expected, rtol=1e-12, atol=0)


def test_train_mode_by_hand() -> None:
    x = torch.ones(4, 2, 1, 1, dtype=torch.float64)
    block = _small(training=True)
    y = block(x, torch.tensor([0, 1, 0, 1]))
    # V1 gives 4, 0, 4, 0: mean 2, variance 4; batch norm 2·(±2)/√(4 + 1e−5) + ½
    scale = 2 * 2 / math.sqrt(4 + 1e-5)
    e = _sigmoid(0.5 * 3)
    torch.testing.assert_close(y[0, 0].item(), e * _sigmoid(scale + 0.5 + 0.25), rtol=1e-12, atol=0)
    torch.testing.assert_close(y[1, 0].item(), e * _sigmoid(0.25), rtol=1e-12, atol=0)
    # The running variance counts the four rows of the folded batch, not the two distinct ones: 4·4/3.
    expected = 0.9 * (4 - 1e-5) + 0.1 * 16 / 3
    torch.testing.assert_close(block.embed[1].running_var.item(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_expand_instances_is_the_block_on_repeated_rows(training: bool) -> None:
    torch.manual_seed(0)
    block = MIMB(8, 3).double().train(training)
    x = torch.randn(4, 8, 3, 5, dtype=torch.float64)
    instances = torch.tensor([2, 0, 1])
    fanned = block.expand_instances(x, instances)
    repeated = block(x.repeat_interleave(3, 0), instances.repeat(4))
    torch.testing.assert_close(fanned, repeated, rtol=1e-13, atol=1e-13)


def test_one_instance_per_batch_erases_it_and_all_instances_keep_it() -> None:
    """Why MIPNet refuses a subset in training mode."""
    torch.manual_seed(0)
    block = MIMB(8, 2).double().train()
    x = torch.rand(6, 8, 2, 2, dtype=torch.float64)
    alone = [block(x, torch.full((6,), i)) for i in range(2)]
    assert torch.allclose(alone[0], alone[1], rtol=0, atol=1e-12)
    together = block.expand_instances(x, torch.arange(2)).unflatten(0, (6, 2))
    assert (together[:, 0] - together[:, 1]).abs().max() > 1e-3

    block.zero_grad()
    block(x, torch.zeros(6, dtype=torch.int64)).sum().backward()
    assert block.embed[0].weight.grad.abs().max() < 1e-12
    block.zero_grad()
    block.expand_instances(x, torch.arange(2))[::2].sum().backward()
    assert block.embed[0].weight.grad.abs().max() > 1e-4


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("rows", "count"), [(2, 3), (1, 3), (2, 1), (1, 1)])
def test_expand_instances_keeps_the_memory_format_without_a_copy(
    memory_format: torch.memory_format, rows: int, count: int
) -> None:
    block = MIMB(8, 3).eval()
    x = torch.rand(rows, 8, 4, 5).to(memory_format=memory_format)
    y = block.expand_instances(x, torch.arange(count))
    assert y.is_contiguous(memory_format=memory_format)
    assert y._base is not None  # a view of the product, not a copy of it


@pytest.mark.parametrize("reduction", [0, 9])
def test_impossible_reduction(reduction: int) -> None:
    with pytest.raises(ValueError, match="reduction"):
        MIMB(8, 2, reduction)
