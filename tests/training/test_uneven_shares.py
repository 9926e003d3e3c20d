"""Ranks whose shares of the batch differ by a sample make the update of one rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mipnet.config import Config
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.models.normalization import normalize
from mipnet.training import step as step_module
from mipnet.training.checkpoint import model_from_config
from mipnet.training.step import TrainStep
from tests.helpers.networks import tiny
from tests.helpers.steps import CPU, batch, run_ranks

BATCH, RANKS = 16, 3
"""Shares of 6, 5 and 5 samples."""
CORRUPT = torch.arange(BATCH) % 5 == 0


def one_update(config: Config, start: dict[str, Tensor], share: range) -> dict[str, Any]:
    """What a rank sees of a step in float64, with its share of the batch."""
    model = model_from_config(config).double()
    model.load_state_dict(start)
    step = TrainStep(model, config, 40, CPU, "fp32")
    images, joints = batch(BATCH)
    mine = slice(share.start, share.stop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "normalize", lambda pixels: normalize(pixels).double())
        step(images[mine], joints[mine].double(), CORRUPT[mine])
    seen = {
        "gradients": {
            name: p.grad.clone() for name, p in step.model.named_parameters() if p.grad is not None
        },
        "metrics": step.read_metrics(),
    }
    step.all_reduce_bn_buffers()
    return {**seen, "statistics": step.bn_buffers.clone(), "state": list(step.model.state_dict())}


def all_updates(rank: int, folder: str, config: Config, device: torch.device) -> dict[str, Any]:
    """An update with each of ``OPTIONS``, all from one start."""
    start = torch.load(f"{folder}/start.pt", weights_only=True)
    share = SampleSchedule(np.array([0, BATCH]), 0, 1, BATCH, 1).shares(RANKS)[rank]
    return {name: one_update(options(name), start, share) for name in OPTIONS}


OPTIONS: dict[str, dict[str, Any]] = {
    "frozen": {"freeze_batchnorm": True},
    "frozen, in parts": {"freeze_batchnorm": True, "gradient_accumulation_steps": 4},
    "synchronised": {"sync_batchnorm": True},
    "synchronised, recomputed": {"sync_batchnorm": True, "activation_checkpointing": True},
}


def options(name: str) -> Config:
    return tiny(train={"clip_norm": 0, "batch_size": BATCH, **OPTIONS[name]})


@pytest.fixture(scope="module")
def start() -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = model_from_config(options("frozen")).double()
    nn.init.normal_(model.backbone.head.weight, std=0.1)  # the head starts near zero
    return model.state_dict()


@pytest.fixture(scope="module")
def by_rank(start: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the ranks saw: started once, because that takes longer than all the rest."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(start, folder / "start.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return run_ranks(folder, options("frozen"), all_updates, ranks=RANKS)


@pytest.mark.parametrize("name", OPTIONS)
def test_three_uneven_ranks_make_the_gradient_of_one(
    name: str, start: dict[str, Tensor], by_rank: list[dict[str, Any]]
) -> None:
    alone = one_update(options(name), start, range(BATCH))
    largest = max(g.abs().max().item() for g in alone["gradients"].values())
    for seen in (updates[name] for updates in by_rank):
        assert seen["state"] == alone["state"]
        assert seen["gradients"].keys() == alone["gradients"].keys()
        for parameter, gradient in alone["gradients"].items():
            error = (seen["gradients"][parameter] - gradient).abs().max().item()
            assert error < 1e-9 * largest, parameter
        torch.testing.assert_close(seen["statistics"], alone["statistics"], rtol=1e-9, atol=1e-9)
        for metric, value in alone["metrics"].items():
            assert seen["metrics"][metric] == pytest.approx(value, rel=1e-5), metric
        assert seen["metrics"]["corrupt"] == 4


def test_uneven_micro_batches_make_the_gradient_of_one(start: dict[str, Tensor]) -> None:
    frozen = {"freeze_batchnorm": True, "clip_norm": 0, "batch_size": BATCH}
    whole = one_update(tiny(train=frozen), start, range(BATCH))
    parts = one_update(tiny(train={**frozen, "gradient_accumulation_steps": 5}), start, range(BATCH))
    for name, gradient in whole["gradients"].items():
        torch.testing.assert_close(parts["gradients"][name], gradient, rtol=1e-9, atol=1e-12)
