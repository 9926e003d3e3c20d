"""A checkpoint at a step that has none by plan changes nothing, where it is made and where it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mipnet.config import Config
from mipnet.training.checkpoint import model_from_config
from mipnet.training.step import TrainStep
from tests.helpers.networks import tiny
from tests.helpers.steps import CORRUPT, CPU, batch, different, make, run_ranks, snapshot


def new_step(config: Config) -> TrainStep:
    torch.manual_seed(0)
    return TrainStep(model_from_config(config), config, 40, CPU, "fp32")


def train(step: TrainStep, seeds: range, rank: int) -> None:
    """A step for each seed, with a rank's part of its batch."""
    mine = slice(2 * rank, 2 * rank + 2)
    for seed in seeds:
        images, keypoints = batch(seed=seed)
        step(images[mine], keypoints[mine], CORRUPT[mine])


def unplanned(step: TrainStep, file: Path, rank: int = 0) -> None:
    with step.unplanned_checkpoint():
        if rank == 0:
            torch.save(step.state_dict(), file)
        if step.distributed:
            dist.barrier()


def loaded(config: Config, file: Path) -> TrainStep:
    step = new_step(config)
    step.load_state_dict(torch.load(file, weights_only=True))
    return step


def undisturbed_and_others(rank: int, folder: str, config: Config, device: torch.device) -> dict[str, Any]:
    """What differs after five steps if there was a checkpoint after the third: for those that saved it, and
    for those that went on from it."""
    undisturbed, disturbed = new_step(config), new_step(config)
    train(undisturbed, range(5), rank)
    train(disturbed, range(3), rank)
    before = disturbed.bn_buffers.clone()
    file = Path(folder) / "state.pt"
    unplanned(disturbed, file, rank)
    kept = torch.equal(before, disturbed.bn_buffers)
    continued = loaded(config, file)
    train(disturbed, range(3, 5), rank)
    train(continued, range(3, 5), rank)
    after = snapshot(undisturbed), undisturbed.read_metrics()
    found: dict[str, Any] = {"kept": kept, "differs": [], "metrics": []}
    for step in (disturbed, continued):
        found["differs"] += different(after[0], snapshot(step))
        found["metrics"].append(step.read_metrics() == after[1])
    saved = torch.load(file, weights_only=True)  # by rank 0
    return {**found, "own": before, "rank_states": saved["rank_states"], "model": saved["model"]}


def test_two_ranks_go_on_as_if_nothing_had_been_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    first, second = run_ranks(tmp_path, tiny(train={"batch_size": 4}), undisturbed_and_others)
    for found in (first, second):
        assert found["kept"]
        assert found["differs"] == []
        assert found["metrics"] == [True, True]
    buffers = len(first["own"])
    assert not torch.equal(first["own"], second["own"]), "nothing could be lost"
    assert torch.equal(first["rank_states"][:, :buffers], torch.stack([first["own"], second["own"]]))

    # Another number of ranks takes the average of the buffers, and means of the sums.
    torch.save({**state_of_one(), **{k: first[k] for k in ("model", "rank_states")}}, tmp_path / "one.pt")
    one = loaded(tiny(), tmp_path / "one.pt")
    assert torch.allclose(one.bn_buffers, (first["own"] + second["own"]) / 2)
    metrics = one.read_metrics()
    assert metrics["corrupt"] == 3 * int(CORRUPT.sum())
    assert metrics["skipped"] == 0


def state_of_one() -> dict[str, Any]:
    step = new_step(tiny())
    train(step, range(3), 0)
    return step.state_dict()


@pytest.mark.parametrize("steps", [1, 3])
def test_the_sums_of_metrics_are_a_part_of_it(steps: int, tmp_path: Path) -> None:
    step, file = make(tiny()), tmp_path / "state.pt"
    train(step, range(steps), 0)
    unplanned(step, file)
    other = loaded(tiny(), file)
    assert "rank_states" not in step.state_dict(), "a planned checkpoint has none"
    assert other.read_metrics() == step.read_metrics()
