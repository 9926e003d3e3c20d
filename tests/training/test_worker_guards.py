"""When a training stops itself, and what it reports of images that it could not read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch

from mipnet.config import Config, preset
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.storage import Folder
from mipnet.tracking.journal import Journal, JournalReader
from mipnet.training.worker import CorruptImageTracker, Guard

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
