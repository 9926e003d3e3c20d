"""A training waits for the validations beside it, but not for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import ReportedCheckpointStatus as Status

from mipnet.storage import Folder
from mipnet.tracking.journal import Journal, JournalReader
from mipnet.training.checkpoint import checkpoint_name
from mipnet.training.validation_plan import ValidationPlan
from mipnet.training.validation_wait import LIMIT_IN_ESTIMATES, MIN_LIMIT_SECONDS, ValidationWait


class Reported:
    """Stands in for Ray Train and the clock: each look takes its time-out while one is pending.

    Attributes:
        pending: steps that are being validated, or wait for it.
        now: seconds.
    """

    def __init__(self, *pending: int) -> None:
        self.pending, self.now = list(pending), 0.0

    def __call__(self, timeout_s: float) -> list[SimpleNamespace]:
        self.now += timeout_s if self.pending else 0
        return [
            SimpleNamespace(
                checkpoint=SimpleNamespace(path=f"/storage/{checkpoint_name(step)}"),
                status=Status.PENDING_VALIDATION if step in self.pending else Status.VALIDATED,
            )
            for step in {0, *self.pending}
        ]


@pytest.fixture
def ray_train(monkeypatch: pytest.MonkeyPatch) -> Reported:
    found = Reported()
    monkeypatch.setattr("ray.train.get_all_reported_checkpoints", found)
    return found


@pytest.fixture
def make(tmp_path: Path, ray_train: Reported) -> Callable[..., ValidationWait]:
    def made(steps: float = 0.0, urgent: bool = False) -> ValidationWait:
        plan = ValidationPlan("beside", every=1, checkpoint_steps=10, end_step=95, beside_steps=steps)
        journal = Journal(Folder.of(tmp_path), "worker")
        return ValidationWait(plan, journal, lambda _: urgent, 0, lambda: ray_train.now)

    return made


def said(folder: Path) -> list[dict[str, Any]]:
    return [entry.record for entry in JournalReader(Folder.of(folder)).read()]


def test_a_validation_that_no_gpu_is_left_for_is_not_waited_for_twice(
    make: Callable[..., ValidationWait], ray_train: Reported, tmp_path: Path
) -> None:
    """But the next one is, when that one is done."""
    wait = make()
    ray_train.pending = [10]
    assert len(wait(20)) == 2
    assert MIN_LIMIT_SECONDS < ray_train.now < MIN_LIMIT_SECONDS + 10
    assert [(each["do"], each["step"]) for each in said(tmp_path)] == [("late", 10)]
    ray_train.pending, begin = [10, 20], ray_train.now
    wait(30)
    assert ray_train.now < begin + 10
    assert len(said(tmp_path)) == 1
    ray_train.pending = [20]
    wait(30)
    assert ray_train.now > begin + MIN_LIMIT_SECONDS
    assert [each["step"] for each in said(tmp_path)] == [10, 20]


def test_long_validations_have_several_times_their_estimate(
    make: Callable[..., ValidationWait], ray_train: Reported
) -> None:
    wait = make(steps=8)
    ray_train.now, ray_train.pending = 2000.0, [10]
    wait(20)  # 100 s a step
    limit = LIMIT_IN_ESTIMATES * 8 * 100
    assert 2000 + limit < ray_train.now < 2000 + limit + 10


def test_nothing_is_waited_for_without_need(
    make: Callable[..., ValidationWait], ray_train: Reported, tmp_path: Path
) -> None:
    make()(20)
    assert ray_train.now == 0
    ray_train.pending = [10]
    make(urgent=True)(20)
    assert ray_train.now == 0
    assert said(tmp_path) == []
