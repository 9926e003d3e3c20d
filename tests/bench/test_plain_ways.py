"""The plain ways of the benchmarks give what the fast ones give: that is what makes ratios mean something."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mipnet.bench.device import choose_device
from mipnet.bench.inference import difference, warmed_up_model, ways
from mipnet.bench.step import (
    PLAIN_VARIANT,
    RepeatedImagesNetwork,
    StepWorkload,
    gradient_difference,
    random_batch,
    step_flops,
    variants,
)
from mipnet.cli.main import main
from mipnet.config import Config, from_dict, preset
from mipnet.errors import ConfigError
from mipnet.training.checkpoint import model_from_config

CPU = torch.device("cpu")
SMALL = ["--model.width", "8", "--input.width", "32", "--input.height", "32"]


def small(**sections: object) -> Config:
    base = from_dict({"model": {"width": 8}, "input": {"width": 32, "height": 32}}, preset("debug"))
    return from_dict(dict(sections), base)


@pytest.mark.parametrize("instances", [2, 3])
def test_gradients_are_those_of_the_repeated_images(instances: int) -> None:
    assert 0 < gradient_difference(small(model={"instances": instances})) < 1e-9


def test_the_difference_of_other_gradients_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it would be if the plain way ran another network."""
    monkeypatch.setattr(RepeatedImagesNetwork, "forward", lambda self, images: self.model(images) * 1.001)
    assert gradient_difference(small()) > 1e-5


def test_ways_of_a_step_learn_the_same() -> None:
    ways = [StepWorkload(small(), v, 4, 2, CPU) for v in variants(CPU, compile=False)]
    assert ways[0].variant.name == PLAIN_VARIANT
    assert [way() for way in ways] == [8.0] * len(ways)
    losses = {way.variant.name: way.step.read_metrics()["loss"] for way in ways}
    for name, loss in losses.items():
        assert loss == pytest.approx(losses[PLAIN_VARIANT], rel=0.05 if "bf16" in name else 1e-4), name
    assert ways[0].step.memory_format != ways[2].step.memory_format


def test_operations_are_six_for_each_multiply_add() -> None:
    """Of HRNet-W32, 7.65 · 10⁹ multiply-adds for one λ, of which 62 % run once (the paper's network)."""
    assert step_flops(preset("coco-hrnet-w32-256x192")) == pytest.approx(6 * 7.65e9 * 1.38, rel=0.02)


@pytest.mark.parametrize("flip", [True, False])
def test_ways_to_heatmaps_agree(flip: bool) -> None:
    config = small()
    config = replace(config, evaluation=replace(config.evaluation, flip_test=flip))
    found = ways(config, warmed_up_model(config, CPU), CPU)
    crops, _ = random_batch(config, 3)
    expected = found[PLAIN_VARIANT](crops)
    assert expected.shape == (3, 2, 17, 8, 8)
    assert expected.abs().max() > 0.01
    assert next(iter(found)) == PLAIN_VARIANT
    for name, run in found.items():
        assert difference(run(crops), expected) < (0.1 if "bf16" in name else 1e-4), name


def test_trained_is_not_trivial_to_fold() -> None:
    model = warmed_up_model(small(), CPU)
    assert not model.training
    fresh = model_from_config(small())
    assert not torch.equal(model.backbone.stages[0].bn1.running_var, fresh.backbone.stages[0].bn1.running_var)


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match=r"--device: unknown device 'gpu'"):
        choose_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "step", "--preset", "debug", "--device", "cuda"]) == 2
    assert "--device: there is no GPU that PyTorch can use; choose --device cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "flags", "words"),
    [
        ("step", ["--batch", "2", "--device", "cpu"], ["gradients, fp64", "prefix once", "samples/s"]),
        ("inference", ["--batch", "2", "--device", "cpu"], ["batch norm folded", "crops/s", "heatmaps"]),
    ],
)
def test_commands(
    verb: str, flags: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    argv = ["bench", verb, "--preset", "debug", *SMALL, *flags, "--rounds", "2", "--json", str(file)]
    threads = torch.get_num_threads()
    try:
        assert main(argv) == 0
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr().out
    for word in words:
        assert word in said
    found = json.loads(file.read_text())
    assert all(len(way["ratios"]) == 2 for way in found["ways"].values())
    assert len(found["ways"]) >= 2
    assert "torch" in found["machine"]
