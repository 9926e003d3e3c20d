"""One step: it learns, it masks what is not finite, and it continues bit for bit."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mipnet.training.checkpoint import model_from_config
from mipnet.training.optim import learning_rate
from mipnet.training.step import TrainStep, flatten_bn_buffers
from tests.helpers.networks import tiny
from tests.helpers.steps import (
    CORRUPT,
    CPU,
    batch,
    different,
    make,
    poison_activation,
    poison_gradient,
    run_ranks,
    snapshot,
)


@pytest.mark.parametrize("instances", [1, 2, 3])
def test_the_loss_goes_down_on_a_fixed_batch(instances: int) -> None:
    step = make(tiny(model={"instances": instances}))
    images, joints = batch(instances=instances)
    losses = []
    for _ in range(30):
        step(images, joints)
        losses.append(step.read_metrics()["loss"])
    assert losses[-1] < 0.6 * losses[0]
    assert step.step == 30


def test_the_plain_baseline_trains_too() -> None:
    step = make(tiny(model={"instances": 1, "mimb_stages": []}))
    images, joints = batch(instances=1)
    step(images, joints)
    first = step.read_metrics()
    for _ in range(20):
        step(images, joints)
    assert step.read_metrics()["loss"] < first["loss"]
    assert "loss/lambda1" not in first


@pytest.mark.parametrize("samples", [3, 6])
def test_what_is_no_share_of_the_batch_is_refused(samples: int) -> None:
    """The loss would have the wrong weight: two ranks of a batch of 10 have 5 each, of 9 have 5 and 4."""
    step = make(tiny(train={"batch_size": 9 if samples == 3 else 10}))
    step.ranks, step.distributed = 2, True
    with pytest.raises(ValueError, match=f"a rank of 2 was given {samples} samples of a batch of"):
        step(*batch(samples))
    assert step.step == 0


def test_one_step_by_hand() -> None:
    """Adam's first step moves every weight by the rate against the sign of its gradient."""
    step = make(tiny(train={"optimizer": "adam", "weight_decay": 0, "clip_norm": 0, "schedule": "step"}))
    images, joints = batch()
    before = [p.detach().clone() for p in step.parameters]
    loss, per_instance = step.loss(images, joints)
    gradients = torch.autograd.grad(loss, step.parameters)
    assert per_instance.shape == (2,)
    assert loss.item() == pytest.approx(per_instance.mean().item())
    step(images, joints)
    rate = step.config.train.learning_rate
    for p, old, g in zip(step.parameters, before, gradients, strict=True):
        clear = g.abs() > 1e-5
        torch.testing.assert_close((p.detach() - old)[clear], -rate * g.sign()[clear], rtol=5e-3, atol=1e-6)


@pytest.mark.parametrize("clip", [0.0, 5.0])
@pytest.mark.parametrize("poison", [poison_gradient, poison_activation])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_an_update_that_is_not_finite_leaves_everything_as_it_was(
    poison: Any, clip: float, optimizer: str
) -> None:
    step = make(tiny(train={"ema": 0.9, "clip_norm": clip, "optimizer": optimizer, "weight_decay": 0.1}))
    for seed in range(2):
        step(*batch(seed=seed))
    step.read_metrics()
    before = snapshot(step)
    assert any(name.endswith(".step") for name in before)
    assert any("running_var" in name for name in before)
    assert any(name.startswith("average.") for name in before)

    handle = poison(step)
    for seed in (3, 4):
        step(*batch(seed=seed))
    handle.remove()
    assert not different(before, snapshot(step))
    assert step.step == 4  # the stream has moved on, so must the schedule
    metrics = step.read_metrics()
    assert metrics["skipped"] == 2
    assert all(math.isnan(metrics[k]) for k in ("loss", "loss/lambda0", "loss/lambda1", "gradient_norm"))

    step(*batch(seed=5))
    after = snapshot(step)
    assert len(different(before, after)) > 0.9 * len(before)
    assert all(torch.isfinite(v).all() for v in after.values())
    metrics = step.read_metrics()
    assert metrics["skipped"] == 0
    assert math.isfinite(metrics["loss"])


def test_a_first_update_that_is_not_finite_is_as_if_it_had_not_been() -> None:
    """With a rate that does not change: a masked update, then a good one, equals the good one alone."""
    config = tiny(train={"schedule": "step", "ema": 0.5})
    alone, late = make(config), make(config)
    handle = poison_activation(late)
    late(*batch(seed=8))
    handle.remove()
    for step in (alone, late):
        step(*batch(seed=1))
    assert not different(snapshot(alone), snapshot(late))


def test_joints_that_are_not_numbers_do_not_count() -> None:
    step = make(tiny())
    images, joints = batch()
    joints[0, 0, 0] = torch.tensor([math.nan, 3, 2])
    joints[0, 1, 1] = torch.tensor([math.inf, 3, 2])
    step(images, joints)
    metrics = step.read_metrics()
    assert metrics["skipped"] == 0
    assert math.isfinite(metrics["loss"])


def test_metrics_are_means_by_hand() -> None:
    step = make(tiny(train={"clip_norm": 0}))
    expected: dict[str, list[float]] = {
        "loss": [],
        "loss/lambda0": [],
        "loss/lambda1": [],
        "gradient_norm": [],
    }
    for seed, corrupt in enumerate([[True, False, False, True], [False, True, False, False]]):
        images, joints = batch(seed=seed)
        before = copy.deepcopy(step.bn_buffers)
        loss, (first, second) = step.loss(images, joints)
        gradients = torch.autograd.grad(loss, step.parameters)
        step.bn_buffers.copy_(before)
        norm = math.sqrt(sum(g.double().square().sum().item() for g in gradients))
        for name, value in zip(expected, (loss, first, second, norm), strict=True):
            expected[name].append(value.item() if isinstance(value, Tensor) else value)
        step(images, joints, torch.tensor(corrupt))
    metrics = step.read_metrics()
    for name, values in expected.items():
        assert metrics[name] == pytest.approx(sum(values) / 2, rel=1e-4), name
    assert (metrics["corrupt"], metrics["skipped"]) == (3, 0)
    assert metrics["learning_rate"] == learning_rate(1, 40, step.config.train)
    assert step.optimizer.param_groups[0]["lr"] == metrics["learning_rate"]
    empty = step.read_metrics()
    assert math.isnan(empty["loss"])
    assert (empty["corrupt"], empty["skipped"]) == (0, 0)


def test_a_masked_update_does_not_count_in_the_means() -> None:
    step = make(tiny(train={"learning_rate": 1e-9}))
    step(*batch(seed=1))
    good = step.read_metrics()
    step(*batch(seed=1))
    handle = poison_gradient(step)
    step(*batch(seed=2), torch.tensor([True, False, False, False]))
    handle.remove()
    metrics = step.read_metrics()
    assert metrics["skipped"] == 1
    assert metrics["corrupt"] == 1
    assert metrics["loss"] == pytest.approx(good["loss"], rel=1e-3)


def continue_from(step: TrainStep, file: Path) -> TrainStep:
    """As a new process would: another start, then the state from a file."""
    torch.save(step.state_dict(), file)
    torch.manual_seed(99)
    other = TrainStep(model_from_config(step.config), step.config, step.total_steps, CPU, "fp32")
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_continuation_is_bit_identical(ema: float, tmp_path: Path) -> None:
    step = make(tiny(train={"ema": ema}))
    for seed in range(3):
        step(*batch(seed=seed))
    other = continue_from(step, tmp_path / "state.pt")
    assert other.step == 3
    assert not different(snapshot(step), snapshot(other))
    for seed in (3, 4):
        step(*batch(seed=seed))
        other(*batch(seed=seed))
    assert not different(snapshot(step), snapshot(other))
    assert len(other.ema_params) == (len(other.parameters) if ema else 0)
    a, b = step.ema_state_dict(), other.ema_state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_statistics_are_one_vector_that_stays_shared(tmp_path: Path) -> None:
    step = make(tiny())

    def shared(step: TrainStep) -> bool:
        storage = step.bn_buffers.untyped_storage().data_ptr()
        norms = [m for m in step.model.modules() if isinstance(m, _BatchNorm)]
        views = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
        assert sum(v.numel() for v in views) == step.bn_buffers.numel()
        return all(v.untyped_storage().data_ptr() == storage for v in views)

    assert shared(step)
    step(*batch())
    assert shared(step)
    other = continue_from(step, tmp_path / "state.pt")
    assert shared(other)
    assert torch.equal(other.bn_buffers, step.bn_buffers)
    other(*batch())
    assert not torch.equal(other.bn_buffers, step.bn_buffers)


def test_flatten_keeps_values_names_and_counters() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm1d(2))
    module[0](torch.randn(4, 3, 2, 2))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    flat = flatten_bn_buffers(module)
    assert flat.shape == (10,)
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)
    flat.zero_()
    assert not module[0].running_var.any()
    assert module[0].num_batches_tracked == 1
    assert flatten_bn_buffers(nn.Linear(2, 2)).shape == (0,)


def test_moving_average_by_hand() -> None:
    step = make(tiny(train={"ema": 0.75}))
    expected = [p.detach().clone() for p in step.parameters]
    for seed in range(3):
        step(*batch(seed=seed))
        expected = [0.75 * a + 0.25 * p.detach() for a, p in zip(expected, step.parameters, strict=True)]
    for a, b in zip(step.ema_params, expected, strict=True):
        torch.testing.assert_close(a, b)
        assert not a.requires_grad  # or it would keep the graph of every step


def test_evaluated_weights_are_the_average_and_do_not_move_with_training() -> None:
    step = make(tiny(train={"ema": 0.9}))
    for seed in range(2):
        step(*batch(seed=seed))
    state = step.ema_state_dict()
    assert list(state) == list(step.model.state_dict())
    names = [n for n, _ in step.model.named_parameters()]
    assert all(torch.equal(state[n], a) for n, a in zip(names, step.ema_params, strict=True))
    assert any(not torch.equal(state[n], p) for n, p in step.model.named_parameters())
    kept = {k: v.clone() for k, v in state.items()}
    step(*batch(seed=2))
    assert all(torch.equal(state[k], kept[k]) for k in state)

    plain = make(tiny(train={"ema": 0.0}))
    plain(*batch())
    assert all(torch.equal(plain.ema_state_dict()[n], p) for n, p in plain.model.named_parameters())


def test_bf16_stays_finite_and_keeps_fp32_weights() -> None:
    steps = [make(tiny()), make(tiny(), precision="bf16")]
    for _ in range(5):
        for step in steps:
            step(*batch())
    full, half = (step.read_metrics() for step in steps)
    assert half["skipped"] == 0
    assert half["loss"] == pytest.approx(full["loss"], rel=0.1)
    assert half["loss"] != full["loss"]  # it did run in another precision
    assert all(p.dtype == torch.float32 for p in steps[1].parameters)


def test_frozen_batchnorm_keeps_statistics_but_trains_its_weights() -> None:
    step = make(tiny(train={"freeze_batchnorm": True}))
    before = step.bn_buffers.clone()
    weights = [m.weight.detach().clone() for m in step.model.modules() if isinstance(m, _BatchNorm)]
    for seed in range(2):
        step(*batch(seed=seed))
        step.set_training_mode()  # also after an evaluation in between
    assert torch.equal(step.bn_buffers, before)
    after = [m.weight for m in step.model.modules() if isinstance(m, _BatchNorm)]
    assert any(not torch.equal(a, b) for a, b in zip(weights, after, strict=True))
    thawed = make(tiny())
    start = thawed.bn_buffers.clone()
    thawed(*batch())
    assert not torch.equal(thawed.bn_buffers, start)


def test_clip_norm_clips() -> None:
    """The norm that is reported is the one before clipping."""
    free, clipped = make(tiny(train={"clip_norm": 0})), make(tiny(train={"clip_norm": 1e-3}))
    for step in (free, clipped):
        step(*batch())
    norms = [
        torch.nn.utils.get_total_norm([p.grad for p in step.parameters if p.grad is not None]).item()
        for step in (free, clipped)
    ]
    assert norms[0] > 1e-2
    assert norms[1] == pytest.approx(1e-3, rel=1e-2)
    assert free.read_metrics()["gradient_norm"] == pytest.approx(norms[0])
    assert clipped.read_metrics()["gradient_norm"] == pytest.approx(norms[0])


def test_what_is_not_trained_stays() -> None:
    config = tiny(train={"ema": 0.9})
    torch.manual_seed(0)
    model = model_from_config(config)
    model.backbone.head.requires_grad_(False)
    head = model.backbone.head.weight.detach().clone()
    step = TrainStep(model, config, 10, CPU, "fp32")
    step(*batch())
    assert torch.equal(model.backbone.head.weight, head)
    assert len(step.ema_state_dict()) == len(model.state_dict())


def test_two_ranks_make_the_update_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norm in eval mode, so that a half batch is half of the whole one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = tiny(train={"freeze_batchnorm": True, "clip_norm": 0, "ema": 0.9})
    alone = make(config)
    nn.init.normal_(alone.model.backbone.head.weight, std=0.1)  # the head starts near zero
    torch.save(alone.model.state_dict(), tmp_path / "start.pt")
    alone(*batch(), CORRUPT)
    expected = [p.grad for p in alone.parameters if p.grad is not None]
    largest = max(g.abs().max().item() for g in expected)
    metrics = alone.read_metrics()

    first, second = run_ranks(tmp_path, config)
    for seen in (first, second):
        assert len(seen["gradients"]) == len(expected)
        for ours, theirs in zip(seen["gradients"], expected, strict=True):
            assert (ours - theirs).abs().max().item() < 1e-5 * largest
        for name, value in metrics.items():
            assert seen["metrics"][name] == pytest.approx(value, rel=1e-4), name
        assert seen["metrics"]["corrupt"] == 2
        assert seen["changed"] == []
        assert seen["skipped"] == 1
        assert torch.equal(seen["statistics"], torch.full_like(seen["statistics"], 0.5))
    pairs = zip(first["parameters"], second["parameters"], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
