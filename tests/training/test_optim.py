"""Learning rates by hand, and what weight decay touches."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from mipnet.config.schema import TrainConfig
from mipnet.training.optim import build_optimizer, learning_rate


def settings(**values: Any) -> TrainConfig:
    return dataclasses.replace(TrainConfig(), **values)


def test_step_schedule_drops_at_the_milestones() -> None:
    """The paper's: 110 epochs, × 0.1 at 70 and 100; here with 7 steps an epoch."""
    train = settings(epochs=110, learning_rate=1e-3)
    rates = [learning_rate(step, 770, train) for step in range(770)]
    assert rates[0] == rates[70 * 7 - 1] == 1e-3
    assert rates[70 * 7] == rates[100 * 7 - 1] == pytest.approx(1e-4)
    assert rates[100 * 7] == rates[-1] == pytest.approx(1e-5)
    assert len(set(rates)) == 3


def test_milestones_between_steps_and_behind_the_end() -> None:
    train = settings(epochs=2, learning_rate=1.0, milestones=(0.6, 5), drop=0.5)
    assert [learning_rate(step, 8, train) for step in range(8)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert learning_rate(0, 8, settings(milestones=(), learning_rate=0.3)) == 0.3


def test_onecycle_by_hand() -> None:
    train = settings(schedule="onecycle", learning_rate=1.0, warmup=0.25)
    assert learning_rate(0, 40, train) == pytest.approx(0.04)  # 1/25 of the peak
    assert learning_rate(5, 40, train) == pytest.approx((1 + 0.04) / 2)  # half way up
    assert learning_rate(10, 40, train) == pytest.approx(1.0)
    assert learning_rate(25, 40, train) == pytest.approx(0.5, abs=1e-5)  # half way down
    assert learning_rate(39, 40, train) == pytest.approx(0.00274, abs=1e-5)
    assert learning_rate(40, 40, train) == pytest.approx(4e-6)  # 1/10,000 of the start
    rates = [learning_rate(step, 40, train) for step in range(40)]
    assert all(a < b for a, b in itertools.pairwise(rates[:11]))
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


@pytest.mark.parametrize(("warmup", "expected"), [(0.0, 1.0), (1.0, 0.04)])
def test_onecycle_without_a_rise_and_without_a_fall(warmup: float, expected: float) -> None:
    train = settings(schedule="onecycle", learning_rate=1.0, warmup=warmup)
    assert learning_rate(0, 10, train) == pytest.approx(expected)
    assert learning_rate(0, 1, train) == pytest.approx(expected)
    assert all(0 < learning_rate(step, 10, train) <= 1 for step in range(11))


@pytest.mark.parametrize("schedule", ["step", "onecycle"])
def test_the_rate_does_not_depend_on_the_batch_size_of_a_rank(schedule: str) -> None:
    """A pure function of (step, total steps): nothing else of the settings may enter."""
    a = settings(schedule=schedule, epochs=10)
    b = dataclasses.replace(a, batch_size=64, window_batches=2, log_steps=1, seed=9)
    assert [learning_rate(s, 30, a) for s in range(30)] == [learning_rate(s, 30, b) for s in range(30)]


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_weight_decay_leaves_biases_and_norms_alone(kind: str) -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 4))
    module[2].bias.requires_grad_(False)
    optimizer = build_optimizer(module, settings(optimizer=kind, weight_decay=0.1, learning_rate=0.5))
    decayed, free = optimizer.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert {id(p) for p in decayed["params"]} == {id(module[0].weight), id(module[2].weight)}
    assert {id(p) for p in free["params"]} == {id(module[0].bias), id(module[1].weight), id(module[1].bias)}
    assert type(optimizer) is {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]


def test_adamw_decays_what_has_no_gradient_of_its_own() -> None:
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.fill_(1)
        module.bias.fill_(1)
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    build_optimizer(module, settings(optimizer="adamw", weight_decay=0.1, learning_rate=0.5)).step()
    torch.testing.assert_close(module.weight, torch.full((2, 2), 0.95))
    torch.testing.assert_close(module.bias, torch.ones(2))
