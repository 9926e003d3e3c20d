"""When a training stops itself, and what it reports of images that it could not read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch

from mipnet.config import Config, preset
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.storage import Folder
from mipnet.tracking.journal import Journal, JournalReader
from mipnet.training.guards import MAX_LOSS, CorruptImageTracker, Guard, divergence
from tests.helpers.networks import tiny
from tests.helpers.steps import batch as training_batch
from tests.helpers.steps import make, poison_activation, poison_gradient

FIRST = np.array([0, 2, 3, 6, 10])  # people of four images


def recorded(folder: Folder) -> list[list[str]]:
    return [entry.record["names"] for entry in JournalReader(folder).read()]


@pytest.fixture
def run_folder(tmp_path: Path) -> Folder:
    return Folder.of(tmp_path)


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch, run_folder: Folder) -> CorruptImageTracker:
    images = SimpleNamespace(uris=np.array([f"{i}.jpg" for i in range(4)]))
    crop_loader = SimpleNamespace(people=SimpleNamespace(image_offsets=FIRST, images=images))
    monkeypatch.setattr(ray, "get", lambda reference: crop_loader if reference == "crop_loader" else None)
    return CorruptImageTracker("crop_loader", Journal(run_folder, "worker"))


def batch(samples: list[int], corrupt: list[bool]) -> dict[str, torch.Tensor]:
    return {"sample": torch.tensor(samples), "corrupt": torch.tensor(corrupt)}


def test_corrupt_image_tracker_reports_each_image_once(
    tracker: CorruptImageTracker, run_folder: Folder
) -> None:
    tracker.update(batch([0, 2, 5], [False, False, False]))
    assert recorded(run_folder) == []
    tracker.update(batch([0, 3, 5, 9], [False, True, True, True]))
    tracker.update(batch([4, 8, 1], [True, True, True]))  # the next epoch
    assert recorded(run_folder) == [["2.jpg", "3.jpg"], ["0.jpg"]]


def config(max_bad_share: float) -> Config:
    base = preset("debug")
    data = dataclasses.replace(base.data, max_bad_share=max_bad_share)
    return dataclasses.replace(
        base, data=data, train=dataclasses.replace(base.train, batch_size=5, epochs=20)
    )


def metrics(corrupt: int = 0, skipped: int = 0, loss: float = 1.0) -> dict[str, float]:
    return {"corrupt": corrupt, "skipped": skipped, "loss": loss}


def guard(tracker: CorruptImageTracker, max_bad_share: float, begin: int = 0) -> Guard:
    settings = config(max_bad_share)
    return Guard(settings, SampleSchedule(FIRST, 0, 20, 5, 1), tracker, begin)


@pytest.mark.parametrize("begin", [0, 7])
def test_guard_stops_within_the_epoch_at_too_many_corrupt_samples(
    tracker: CorruptImageTracker, begin: int
) -> None:
    stop_guard = guard(tracker, 0.2, begin)  # 2 of 10
    tracker.update(batch([9], [True]))
    assert stop_guard.reason_to_stop(begin + 1, metrics(corrupt=2)) == ""
    reason = stop_guard.reason_to_stop(begin + 2, metrics(corrupt=1))
    message = (
        "3 of 10 samples have images that cannot be read (3.jpg); mend them, or raise --data.max-bad-share"
    )
    assert reason == message


def test_guard_offers_no_limit_where_no_sample_could_be_read(tracker: CorruptImageTracker) -> None:
    reason = guard(tracker, 0.2).reason_to_stop(1, metrics(corrupt=5))
    assert reason.endswith("; mend them")


def test_guard_allows_the_same_images_in_every_epoch(tracker: CorruptImageTracker) -> None:
    stop_guard = guard(tracker, 0.2)
    assert not any(stop_guard.reason_to_stop(step, metrics(corrupt=1)) for step in range(1, 41))
    assert stop_guard.reason_to_stop(41, metrics(corrupt=5))


def test_guard_stops_when_updates_are_not_finite(tracker: CorruptImageTracker) -> None:
    stop_guard = guard(tracker, 1.0)
    nan = float("nan")
    assert stop_guard.reason_to_stop(10, metrics(skipped=10, loss=nan)) == ""
    reason = stop_guard.reason_to_stop(20, metrics(skipped=10, loss=nan))
    assert reason == (
        "the last 20 updates were not finite; lower --train.learning-rate or set --train.clip-norm"
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_ordinary_training_has_a_result(precision: Any) -> None:
    step = make(tiny(train={"ema": 0.9}), precision=precision)
    for _ in range(3):
        step(*training_batch())
    assert divergence(step, step.read_metrics()) == ""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("poison", [poison_gradient, poison_activation])
def test_a_last_update_that_was_not_finite_is_no_result(poison: Any, precision: Any) -> None:
    """Though it was left out, and the row's mean loss is that of the updates before."""
    step = make(tiny(), precision=precision)
    step(*training_batch())
    handle = poison(step)
    step(*training_batch())
    metrics = step.read_metrics()
    assert metrics["loss"] < MAX_LOSS
    assert "the last update or the weights are not finite; lower" in divergence(step, metrics)
    handle.remove()
    step(*training_batch())
    assert divergence(step, step.read_metrics()) == ""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("rate", [1e3, 1e6, 1e30])
@pytest.mark.parametrize("steps", [2, 11])
def test_a_training_that_explodes_is_no_result_whatever_its_length(
    steps: int, rate: float, precision: Any
) -> None:
    step = make(tiny(train={"learning_rate": rate, "warmup": 0}), steps, precision)
    for _ in range(steps):
        step(*training_batch())
    assert divergence(step, step.read_metrics()) != ""


@pytest.mark.parametrize("place", ["parameters", "ema_params"])
def test_weights_that_are_not_finite_are_no_result(place: str) -> None:
    step = make(tiny(train={"ema": 0.9}))
    step(*training_batch())
    with torch.no_grad():
        getattr(step, place)[0].fill_(float("inf"))
    assert "not finite" in divergence(step, step.read_metrics())


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1.6e21, 1.01])
def test_a_checkpoint_of_the_last_step_is_judged_by_its_last_row(loss: float) -> None:
    """A run that goes on at its end makes no update."""
    assert "the training has diverged, its last loss is" in divergence(make(tiny()), metrics(loss=loss))
    assert divergence(make(tiny()), metrics(loss=0.9)) == ""
