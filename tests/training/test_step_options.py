"""Options of a step change its cost, not its result."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mipnet.models.precision import Precision
from mipnet.training.cpu_step import parallel_micro_batches
from mipnet.training.step import TrainStep
from tests.helpers.networks import tiny
from tests.helpers.steps import (
    CORRUPT,
    batch,
    different,
    make,
    make_parallel,
    poison_activation,
    run_ranks,
    snapshot,
)

WAITS = {"_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal"}
"""Operations that need a value on the host: on a GPU each waits for everything before it."""


class Waits(TorchDispatchMode):
    """Notes what would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITS:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "train",
    [
        {},
        {"ema": 0.9, "clip_norm": 1.0, "gradient_accumulation_steps": 2},
        {"activation_checkpointing": True},
    ],
)
def test_a_step_never_waits_for_the_device(train: dict[str, Any]) -> None:
    step = make(tiny(train=train))
    step(*batch(), CORRUPT)
    with Waits() as waits:
        step(*batch(), CORRUPT)
    assert waits.found == []
    with Waits() as waits:
        torch.ones(()).item()
    assert waits.found  # that it would be seen


def test_constants_of_normalise_are_made_once() -> None:
    """Making a tensor from numbers copies from the host, and that waits for a GPU too."""
    made: list[str] = []
    step = make(tiny())
    images, joints = batch()
    step(images, joints)
    original: Callable[..., torch.Tensor] = torch.tensor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "tensor", lambda *a, **k: (made.append("tensor"), original(*a, **k))[1])
        step(images, joints)
    assert made == []


def gradients(step: TrainStep) -> list[torch.Tensor]:
    return [p.grad for p in step.parameters if p.grad is not None]


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    """With batch norm in eval mode: in training mode it sees parts instead of the batch."""
    frozen = {"freeze_batchnorm": True, "clip_norm": 0}
    whole, parts = make(tiny(train=frozen)), make(tiny(train={**frozen, "gradient_accumulation_steps": 4}))
    nn.init.normal_(whole.model.backbone.head.weight, std=0.1)
    parts.model.load_state_dict(whole.model.state_dict())
    for step in (whole, parts):
        step(*batch(), CORRUPT)
    largest = max(g.abs().max().item() for g in gradients(whole))
    for ours, theirs in zip(gradients(parts), gradients(whole), strict=True):
        assert (ours - theirs).abs().max().item() < 1e-5 * largest
    ours, theirs = parts.read_metrics(), whole.read_metrics()
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert ours["corrupt"] == 2


def test_batch_norm_sees_each_part() -> None:
    """And its statistics become the mean of the parts', as over ranks."""
    step, alone = make(tiny(train={"gradient_accumulation_steps": 2})), make(tiny())
    images, joints = batch()
    start, seen = alone.bn_buffers.clone(), []
    for part in (slice(0, 2), slice(2, 4)):
        alone.bn_buffers.copy_(start)
        with torch.no_grad():
            alone.loss(images[part], joints[part])
        seen.append(alone.bn_buffers.clone())
    step(images, joints)
    torch.testing.assert_close(step.bn_buffers, (seen[0] + seen[1]) / 2)


@pytest.mark.parametrize(
    ("parts", "parallel", "train"),
    [(2, 2, {}), (4, 3, {"ema": 0.9, "clip_norm": 1.0}), (2, 2, {"freeze_batchnorm": True})],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_parallel_micro_batches_make_the_same_update_to_the_bit(
    precision: Precision, parts: int, parallel: int, train: dict[str, Any]
) -> None:
    config = tiny(train={**train, "gradient_accumulation_steps": parts})
    size, instances = 2 * parts, config.model.instances
    turns, threads = make(config, 40, precision), make_parallel(config, parallel, precision)
    for seed in range(3):
        for step in (turns, threads):
            step(*batch(size, instances, seed))
    assert not different(snapshot(turns), snapshot(threads))
    assert threads.read_metrics() == turns.read_metrics()
    again = make_parallel(config, parallel, precision)
    again.load_state_dict(copy.deepcopy(turns.state_dict()))
    for step in (turns, again):
        step(*batch(size, instances, 7))
    assert not different(snapshot(turns), snapshot(again))


def test_the_last_micro_batch_counts() -> None:
    """A replica's bad gradients mask the update as a whole, or they would be lost unseen."""
    step = make_parallel(tiny(train={"gradient_accumulation_steps": 2}))
    step(*batch())
    before = snapshot(step)
    replica = step.replicas[0]
    poison = torch.full_like(replica.network.backbone.head.weight, torch.nan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica.network.backbone.head, "weight", nn.Parameter(poison))
        patch.setattr(replica, "parameters", list(replica.network.parameters()))
        step(*batch(seed=3))
    assert not different(before, snapshot(step))
    assert step.read_metrics()["skipped"] == 1


@pytest.mark.parametrize(
    ("train", "device", "ranks", "threads", "expected"),
    [
        ({}, "cpu", 1, 8, 1),
        ({"gradient_accumulation_steps": 4}, "cpu", 1, 8, 4),
        ({"gradient_accumulation_steps": 4}, "cpu", 1, 2, 2),
        ({"gradient_accumulation_steps": 4}, "cpu", 2, 8, 1),
        ({"gradient_accumulation_steps": 4}, "cuda", 1, 8, 1),
        ({"gradient_accumulation_steps": 4, "compile": True}, "cpu", 1, 8, 1),
        ({"gradient_accumulation_steps": 4, "activation_checkpointing": True}, "cpu", 1, 8, 1),
    ],
)
def test_parallel_micro_batches(
    train: dict[str, Any], device: str, ranks: int, threads: int, expected: int
) -> None:
    found = parallel_micro_batches(tiny(train=train).train, torch.device(device), ranks, threads)
    assert found == expected


def test_a_bad_part_masks_the_whole_update() -> None:
    step = make(tiny(train={"gradient_accumulation_steps": 2, "ema": 0.9}))
    step(*batch())
    before = snapshot(step)
    images, joints = batch(seed=3)
    handle = poison_activation(step)
    step(images, joints)
    handle.remove()
    assert not different(before, snapshot(step))


def test_two_ranks_with_two_parts_each_make_the_update_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = tiny(train={"freeze_batchnorm": True, "clip_norm": 0, "gradient_accumulation_steps": 2})
    alone = make(tiny(train={"freeze_batchnorm": True, "clip_norm": 0}))
    nn.init.normal_(alone.model.backbone.head.weight, std=0.1)
    torch.save(alone.model.state_dict(), tmp_path / "start.pt")
    alone(*batch(), CORRUPT)
    expected = gradients(alone)
    largest = max(g.abs().max().item() for g in expected)
    for seen in run_ranks(tmp_path, config):
        for ours, theirs in zip(seen["gradients"], expected, strict=True):
            assert (ours - theirs).abs().max().item() < 1e-5 * largest


@pytest.mark.parametrize("accumulate", [1, 2])
def test_recomputed_activations_change_nothing(accumulate: int) -> None:
    """Not even batch-norm statistics, though each batch norm sees each batch twice."""
    usual = make(tiny(train={"gradient_accumulation_steps": accumulate}))
    lean = make(tiny(train={"gradient_accumulation_steps": accumulate, "activation_checkpointing": True}))
    for seed in range(2):
        usual(*batch(seed=seed))
        lean(*batch(seed=seed))
    assert not different(snapshot(usual), snapshot(lean))
    assert lean.read_metrics() == usual.read_metrics()


def test_memory_format_changes_only_the_rounding() -> None:
    last, plain = make(tiny()), make(tiny(train={"channels_last": False}))
    formats = [next(p for p in s.parameters if p.dim() == 4 and p.shape[-1] == 3) for s in (last, plain)]
    assert [p.is_contiguous(memory_format=torch.channels_last) for p in formats] == [True, False]
    for step in (last, plain):
        step(*batch())
    assert last.read_metrics() == pytest.approx(plain.read_metrics(), rel=1e-3)


@pytest.mark.no_cover  # as torch.export
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_network_learns_the_same() -> None:
    usual, compiled = make(tiny()), make(tiny(train={"compile": True}))
    assert list(compiled.model.state_dict()) == list(usual.model.state_dict())
    for step in (usual, compiled):
        for seed in range(2):
            step(*batch(seed=seed))
    assert compiled.read_metrics() == pytest.approx(usual.read_metrics(), rel=1e-2)


@pytest.mark.drill
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_two_ranks_with_a_compiled_network_make_the_same_update(
    checkpointing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through DDP, with batch norm in training mode, whose buffers are views of one tensor."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    start, seen = make(tiny()), {}
    nn.init.normal_(start.model.backbone.head.weight, std=0.1)
    for compile in (False, True):
        options = {"compile": compile, "activation_checkpointing": checkpointing}
        folder = tmp_path / str(compile)
        folder.mkdir()
        torch.save(start.model.state_dict(), folder / "start.pt")
        seen[compile] = run_ranks(folder, tiny(train={"clip_norm": 0, **options}), seconds=1200)
    for usual, compiled in zip(seen[False], seen[True], strict=True):
        largest = max(g.abs().max().item() for g in usual["gradients"])
        for ours, theirs in zip(compiled["gradients"], usual["gradients"], strict=True):
            assert (ours - theirs).abs().max().item() < 1e-4 * largest
        torch.testing.assert_close(compiled["after_one_step"], usual["after_one_step"])
        assert compiled["metrics"] == pytest.approx(usual["metrics"], rel=1e-4)
        assert (compiled["changed"], compiled["skipped"]) == ([], 1)
    pairs = zip(seen[True][0]["parameters"], seen[True][1]["parameters"], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
