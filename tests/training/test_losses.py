from __future__ import annotations

import pytest
import torch

from mipnet.training.losses import heatmap_loss


def test_mse_by_hand() -> None:
    # B = 1, N = 2, K = 2, maps of 1 x 2. Instance 0: errors 1, -2 (mean of squares 2.5) and 0, 4 (8), weights
    # 1 and 0.5 (w² 1 and 0.25): ½ · (2.5 + 2) / 2 = 1.125. Instance 1: joint 0 alone counts, errors 2, 0 (2),
    # weights 2 and 0 (w² 4 and 0): ½ · (8 + 0) / 2 = 2.
    targets = torch.zeros(1, 2, 2, 1, 2)
    predictions = torch.tensor([[[[[1.0, -2]], [[0, 4]]], [[[2, 0]], [[9, 9]]]]])
    weights = torch.tensor([[[1, 0.5], [2, 0]]])
    loss, per_instance = heatmap_loss(predictions, targets, weights)
    assert per_instance.tolist() == [1.125, 2.0]
    assert loss.item() == 1.5625


def test_peak_by_hand() -> None:
    # errors 0.5 at a peak (t = 1: 0.25 · 11 = 2.75) and 1 in the background (1): ½ · (2.75 + 1) / 2 · w² (9)
    targets = torch.tensor([1.0, 0]).reshape(1, 1, 1, 1, 2)
    predictions = torch.tensor([0.5, 1]).reshape(1, 1, 1, 1, 2)
    loss, per_instance = heatmap_loss(predictions, targets, torch.full((1, 1, 1), 3.0), "peak")
    assert loss.item() == pytest.approx(0.5 * 3.75 / 2 * 9)
    assert per_instance.tolist() == pytest.approx([loss.item()])


@pytest.mark.parametrize("kind", ["mse", "peak"])
def test_agrees_with_the_formula_and_its_gradient(kind) -> None:
    generator = torch.Generator().manual_seed(0)
    predictions = torch.randn(3, 2, 4, 6, 5, generator=generator, requires_grad=True)
    targets = torch.rand(3, 2, 4, 6, 5, generator=generator)
    weights = torch.rand(3, 2, 4, generator=generator)
    gain = 1 + 10 * targets if kind == "peak" else 1
    squared = (weights[..., None, None] * (predictions - targets)).square() * gain
    expected = 0.5 * squared.mean(dim=(2, 3, 4)).mean(dim=0)
    loss, per_instance = heatmap_loss(predictions, targets, weights, kind)
    torch.testing.assert_close(per_instance, expected.detach())
    torch.testing.assert_close(loss, expected.mean())
    assert not per_instance.requires_grad
    (ours,) = torch.autograd.grad(loss, predictions)
    (theirs,) = torch.autograd.grad(expected.mean(), predictions)
    torch.testing.assert_close(ours, theirs)


def test_half_precision_predictions_are_summed_in_float32() -> None:
    predictions = torch.full((1, 1, 1, 64, 64), 0.01, dtype=torch.bfloat16)
    loss, _ = heatmap_loss(predictions, torch.zeros(1, 1, 1, 64, 64), torch.ones(1, 1, 1))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.5 * predictions[0, 0, 0, 0, 0].item() ** 2, rel=1e-5)


def test_shapes_and_kind_are_checked() -> None:
    maps, weights = torch.zeros(2, 1, 3, 4, 4), torch.zeros(2, 1, 3)
    with pytest.raises(ValueError, match="do not fit"):
        heatmap_loss(maps, maps[:, :, :1], weights)
    with pytest.raises(ValueError, match="do not fit"):
        heatmap_loss(maps, maps, weights[:1])
    with pytest.raises(ValueError, match="huber"):
        heatmap_loss(maps, maps, weights, "huber")
