"""A training step on the CPU and on a GPU: it learns, masks, averages, accumulates and goes on."""

from __future__ import annotations

import copy
import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mipnet.models.precision import resolve_precision
from mipnet.storage import Folder
from mipnet.training.checkpoint import load_checkpoint, save_checkpoint
from mipnet.training.device_batches import copy_ahead
from mipnet.training.profiling import PROFILE_FOLDER, profiled
from mipnet.training.step import TrainStep
from tests.helpers.networks import tiny
from tests.helpers.steps import CORRUPT, batch, different, make, poison_activation, run_ranks, snapshot

ALL = {"ema": 0.9, "clip_norm": 1.0, "gradient_accumulation_steps": 2}


def gradients(step: TrainStep) -> list[torch.Tensor]:
    return [p.grad.cpu() for p in step.parameters if p.grad is not None]


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor], part: float = 1e-4) -> None:
    """Within a part of the largest value of all."""
    largest = max(tensor.abs().max().item() for tensor in expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max().item() < part * largest


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_it_learns_a_fixed_batch(device: torch.device, precision: Any) -> None:
    step = make(tiny(), precision=precision, device=device)
    images, joints = batch(device=device)
    step(images, joints)
    first = step.read_metrics()["loss"]
    for _ in range(20):
        step(images, joints)
    assert step.read_metrics()["loss"] < 0.8 * first
    assert all(p.dtype == torch.float32 and p.device == device for p in step.parameters)


def test_gradients_are_those_of_a_cpu_in_fp32(device: torch.device) -> None:
    """In fp32, so that no product is rounded to TF32."""
    config = tiny(train={"clip_norm": 0})
    steps = [make(config), make(config, device=device)]
    for step in steps:
        nn.init.constant_(step.model.backbone.head.weight, 0.1)
        step(*batch(device=step.device))
    assert_close(gradients(steps[1]), gradients(steps[0]))


def test_an_update_that_is_not_finite_changes_nothing(device: torch.device) -> None:
    step = make(tiny(train=ALL), device=device)
    step(*batch(device=device))
    step.read_metrics()
    before = snapshot(step)
    handle = poison_activation(step)
    step(*batch(seed=3, device=device))
    handle.remove()
    assert not different(before, snapshot(step))
    assert step.read_metrics()["skipped"] == 1
    assert not step.is_finite()
    step(*batch(device=device))
    assert step.is_finite()


def test_moving_average_by_hand(device: torch.device) -> None:
    step = make(tiny(train={"ema": 0.75}), device=device)
    expected = [p.detach().clone() for p in step.parameters]
    for seed in range(2):
        step(*batch(seed=seed, device=device))
        expected = [0.75 * a + 0.25 * p.detach() for a, p in zip(expected, step.parameters, strict=True)]
    for a, b in zip(step.ema_params, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_accumulated_gradients_are_those_of_the_whole_batch(device: torch.device) -> None:
    frozen = {"freeze_batchnorm": True, "clip_norm": 0}
    whole = make(tiny(train=frozen), device=device)
    parts = make(tiny(train={**frozen, "gradient_accumulation_steps": 4}), device=device)
    for step in (whole, parts):
        nn.init.constant_(step.model.backbone.head.weight, 0.1)
        step(*batch(device=device), CORRUPT.to(device))
    assert_close(gradients(parts), gradients(whole))
    assert parts.read_metrics()["corrupt"] == 2


def test_zero_accumulation_steps_are_two_on_a_cpu_and_one_on_a_gpu(device: torch.device) -> None:
    step = make(tiny(train={"gradient_accumulation_steps": 0}), device=device)
    assert step.micro_batches == (2 if device.type == "cpu" else 1)


def test_recomputed_activations_change_nothing(device: torch.device) -> None:
    usual = make(tiny(), device=device)
    lean = make(tiny(train={"activation_checkpointing": True}), device=device)
    for step in (usual, lean):
        step(*batch(device=device))
    assert_close(gradients(lean), gradients(usual))
    torch.testing.assert_close(lean.bn_buffers, usual.bn_buffers)


def test_a_checkpoint_goes_on_where_it_was(device: torch.device, tmp_path: Path) -> None:
    step = make(tiny(train=ALL), device=device)
    for seed in range(2):
        step(*batch(seed=seed, device=device))
    save_checkpoint(tmp_path, step, [])
    other = make(tiny(train=ALL), device=device)
    load_checkpoint(tmp_path, other)
    assert not different(snapshot(step), snapshot(other))
    for each in (step, other):
        each.read_metrics()
        each(*batch(seed=7, device=device))
    assert other.read_metrics() == pytest.approx(step.read_metrics(), rel=1e-4)


def test_batches_arrive_in_order_and_whole(device: torch.device) -> None:
    made = [{"image": torch.full((2, 3), n), "sample": torch.tensor([n])} for n in range(5)]
    on_host = [{k: v.pin_memory() if device.type == "cuda" else v for k, v in b.items()} for b in made]
    found = list(copy_ahead(on_host, ["image"], device))
    assert [list(each) for each in found] == [["image"]] * 5
    assert [each["image"].unique().tolist() for each in found] == [[n] for n in range(5)]
    assert all(each["image"].device == device for each in found)


def test_a_profile_has_the_steps_ranges(device: torch.device, tmp_path: Path) -> None:
    step = make(tiny(), device=device)
    images, joints = batch()
    batches = ({"image": images, "keypoints": joints} for _ in range(6))
    for each in profiled(copy_ahead(batches, ["image", "keypoints"], device), 0, 2, Folder.of(tmp_path)):
        step(each["image"], each["keypoints"])
    (file,) = (tmp_path / PROFILE_FOLDER).iterdir()
    assert file.name == "steps-from-00000003.json.gz"
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    names = [event.get("name") for event in events if event.get("cat") == "user_annotation"]
    assert names.count("forward and backward") == names.count("update") == 2
    assert names.count("copy to the device") == (2 if device.type == "cuda" else 0)
    assert any(event.get("cat") == "kernel" for event in events) == (device.type == "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("train", [{}, ALL, {"activation_checkpointing": True}])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_and_its_copies_never_wait_for_the_gpu(
    gpu: torch.device, precision: Any, train: dict[str, Any]
) -> None:
    step = make(tiny(train=train), precision=precision, device=gpu)
    images, joints = batch()
    host = {"image": images.pin_memory(), "keypoints": joints.pin_memory(), "corrupt": CORRUPT.pin_memory()}

    def train_on(count: int) -> None:
        for each in copy_ahead([host] * count, list(host), gpu):
            step(each["image"], each["keypoints"], each["corrupt"])

    train_on(2)
    torch.cuda.synchronize(gpu)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            train_on(3)
            waits = [str(each.message) for each in found if "synchroniz" in str(each.message)]
            torch.ones((), device=gpu).item()
        assert waits == []
        assert any("synchroniz" in str(each.message) for each in found)  # that one would be seen
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("train", [{}, {"activation_checkpointing": True}])
def test_a_compiled_network_learns_the_same_on_a_gpu(gpu: torch.device, train: dict[str, Any]) -> None:
    """Needs a C compiler, for Triton."""
    usual, compiled = (make(tiny(train={**train, "compile": c}), device=gpu) for c in (False, True))
    for step in (usual, compiled):
        for seed in range(2):
            step(*batch(seed=seed, device=gpu))
    assert compiled.read_metrics() == pytest.approx(usual.read_metrics(), rel=1e-2)
    torch.testing.assert_close(compiled.bn_buffers, usual.bn_buffers, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
def test_nccl_with_one_rank(gpu: torch.device, tmp_path: Path) -> None:
    """DDP over NCCL gives the gradients of the step alone."""
    config = tiny(train={"clip_norm": 0})
    alone = make(config, device=gpu)
    together = make(config, device=gpu)
    together.model.load_state_dict(copy.deepcopy(alone.model.state_dict()))
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    try:
        assert resolve_precision("auto", gpu) in ("fp32", "bf16")
        ddp = DistributedDataParallel(
            together.model, device_ids=[0], forward_sync_buffers=False, gradient_as_bucket_view=True
        )
        together.network = ddp
        for step in (alone, together):
            step(*batch(device=gpu))
        assert_close(gradients(together), gradients(alone))
        del ddp
        together.network = together.model
    finally:
        dist.destroy_process_group()


@pytest.mark.gpu
def test_nccl_with_two_ranks(gpu: torch.device, tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    config = tiny(train={"freeze_batchnorm": True, "clip_norm": 0, "ema": 0.9})
    alone = make(config)
    nn.init.normal_(alone.model.backbone.head.weight, std=0.1)
    torch.save(alone.model.state_dict(), tmp_path / "start.pt")
    alone(*batch(), CORRUPT)
    for seen in run_ranks(tmp_path, config, kind="cuda"):
        assert_close(seen["gradients"], gradients(alone))
        assert (seen["changed"], seen["skipped"], seen["metrics"]["corrupt"]) == ([], 1, 2)
