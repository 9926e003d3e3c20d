"""When a training stops itself, and what it tells of images that it could not read."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch

from mipnet.config import Config, preset
from mipnet.data.sample_schedule import WindowPlan
from mipnet.training.worker import Guard, Unread

FIRST = np.array([0, 2, 3, 6, 10])  # people of four images


class Sink:
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.add = SimpleNamespace(remote=self.rows.append)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch, sink: Sink) -> Unread:
    images = SimpleNamespace(uris=np.array([f"{i}.jpg" for i in range(4)]))
    cutter = SimpleNamespace(people=SimpleNamespace(first=FIRST, images=images))
    monkeypatch.setattr(ray, "get", lambda reference: cutter if reference == "cutter" else None)
    return Unread("cutter", sink)


def batch(samples: list[int], corrupt: list[bool]) -> dict[str, torch.Tensor]:
    return {"sample": torch.tensor(samples), "corrupt": torch.tensor(corrupt)}


def test_each_image_is_told_once(unread: Unread, sink: Sink) -> None:
    unread.look_at(batch([0, 2, 5], [False, False, False]))
    assert sink.rows == []
    unread.look_at(batch([0, 3, 5, 9], [False, True, True, True]))
    unread.look_at(batch([4, 8, 1], [True, True, True]))  # the next epoch
    assert sink.rows == [{"unreadable": ["2.jpg", "3.jpg"]}, {"unreadable": ["0.jpg"]}]


def config(max_bad_share: float) -> Config:
    base = preset("debug")
    data = dataclasses.replace(base.data, max_bad_share=max_bad_share)
    return dataclasses.replace(
        base, data=data, train=dataclasses.replace(base.train, batch_size=5, epochs=20)
    )


def metrics(corrupt: int = 0, skipped: int = 0, loss: float = 1.0) -> dict[str, float]:
    return {"corrupt": corrupt, "skipped": skipped, "loss": loss}


def guard(unread: Unread, max_bad_share: float, begin: int = 0) -> Guard:
    settings = config(max_bad_share)
    return Guard(settings, WindowPlan(FIRST, 0, 20, 5, 1), unread, begin)


@pytest.mark.parametrize("begin", [0, 7])
def test_too_many_unreadable_samples_stop_within_the_epoch(unread: Unread, begin: int) -> None:
    judge = guard(unread, 0.2, begin)  # 2 of 10
    unread.look_at(batch([9], [True]))
    assert judge.reason_to_stop(begin + 1, metrics(corrupt=2)) == ""
    reason = judge.reason_to_stop(begin + 2, metrics(corrupt=1))
    message = (
        "3 of 10 samples have images that cannot be read (3.jpg); mend them, or raise --data.max-bad-share"
    )
    assert reason == message


def test_the_same_images_may_come_in_every_epoch(unread: Unread) -> None:
    judge = guard(unread, 0.2)
    assert not any(judge.reason_to_stop(step, metrics(corrupt=1)) for step in range(1, 41))
    assert judge.reason_to_stop(41, metrics(corrupt=5))


def test_a_training_whose_updates_are_not_finite_stops(unread: Unread) -> None:
    judge = guard(unread, 1.0)
    nan = float("nan")
    assert judge.reason_to_stop(10, metrics(skipped=10, loss=nan)) == ""
    reason = judge.reason_to_stop(20, metrics(skipped=10, loss=nan))
    assert reason == (
        "the last 20 updates were not finite; lower --train.learning-rate or set --train.clip-norm"
    )
