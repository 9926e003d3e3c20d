"""auto is bf16 only where the device has it, and a run keeps what it began with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mipnet.models.precision import Precision, kernel_settings, native_bf16, resolve_precision
from mipnet.training.checkpoint import load_checkpoint, model_from_config, save_checkpoint
from mipnet.training.step import TrainStep
from tests.helpers.networks import tiny

CPU = torch.device("cpu")


def pretend(monkeypatch: pytest.MonkeyPatch, **capabilities: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "any", **capabilities})


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"avx512_f": True, "avx2": True, "avx512_bf16": False}, False),  # it would be emulated
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"neon": True, "bf16": False}, False),
        ({}, False),
    ],
)
def test_auto_on_a_cpu(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], native: bool) -> None:
    pretend(monkeypatch, **capabilities)
    assert native_bf16(CPU) is native
    assert resolve_precision("auto", CPU) == ("bf16" if native else "fp32")


@pytest.mark.parametrize("wanted", ["fp32", "tf32", "bf16"])
def test_what_is_asked_for_is_done(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    for native in (True, False):
        pretend(monkeypatch, avx512_bf16=native)
        assert resolve_precision(wanted, CPU) == wanted


def test_all_ranks_agree_on_what_the_least_of_them_can(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, avx512_bf16=True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda able, op: able.zero_())  # another rank cannot
    assert resolve_precision("auto", CPU) == "fp32"


def test_this_machines_capabilities_are_known_by_these_names() -> None:
    """If torch renames them, auto would silently become fp32."""
    known = torch.cpu.get_capabilities()
    if known["architecture"] == "x86_64":
        assert {"avx512_bf16", "amx_bf16"} <= known.keys()
    else:
        assert "bf16" in known


def make(precision: Precision) -> TrainStep:
    torch.manual_seed(0)
    return TrainStep(model_from_config(tiny()), tiny(), 10, CPU, precision)


def test_a_continued_run_keeps_the_precision_it_began_with(tmp_path: Path) -> None:
    """Even on a machine where auto would have said otherwise."""
    images = torch.randint(0, 256, (2, 48, 32, 3), dtype=torch.uint8)
    joints = torch.rand(2, 2, 17, 3) * 30
    began = make("bf16")
    began(images, joints)
    save_checkpoint(tmp_path, began, [])
    went_on = make("fp32")
    load_checkpoint(tmp_path, went_on)
    assert went_on.precision == "bf16"
    for step in (began, went_on):
        step.read_metrics()
        step(images, joints)
    assert began.read_metrics()["loss"] == went_on.read_metrics()["loss"]


@pytest.mark.parametrize(("precision", "rounds"), [("fp32", False), ("tf32", True), ("bf16", True)])
def test_a_gpus_kernels_round_to_tf32_unless_in_fp32(precision: Precision, rounds: bool) -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn

    def flags() -> tuple[bool, bool, bool]:
        return matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark

    before = flags()
    with kernel_settings(precision, torch.device("cuda"), benchmark=True):
        assert flags() == (rounds, rounds, True)
        with kernel_settings("fp32", torch.device("cuda")):  # a validation within the training
            assert flags() == (False, False, False)
        assert flags() == (rounds, rounds, True)
    assert flags() == before
    with kernel_settings(precision, CPU, benchmark=True):
        assert flags() == before
