"""When patience or the time limit ends a training: the same for all ranks, and again after a kill."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from mipnet.config.schema import TrainConfig
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.run_folder import TRAINING_FOLDER
from mipnet.storage import Folder
from mipnet.tracking.journal import Journal
from mipnet.training import early_end
from mipnet.training.checkpoint import checkpoint_name
from mipnet.training.early_end import EarlyEnd, EarlyEndRule, recorded_scores, validations_without_better
from mipnet.training.recovery import write_record
from mipnet.training.validation_plan import ValidationPlan


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], 0),
        ([0.2], 0),
        ([0.2, 0.2], 1),  # an equal one is not better
        ([0.2, 0.3, 0.1, 0.25], 2),
        ([0.2, 0.3, 0.1, 0.31], 0),
        ([0.2, math.nan], 1),
        ([math.nan, math.nan], 2),
        ([math.nan, 0.0], 0),
    ],
)
def test_validations_since_the_best(scores: list[float], expected: int) -> None:
    assert validations_without_better(dict(zip(range(10, 100, 10), scores, strict=False))) == expected


def test_they_count_in_the_order_of_their_steps() -> None:
    assert validations_without_better({30: 0.1, 10: 0.1, 20: 0.3}) == 1


@dataclass
class Training:
    """What a training loop asks of its rule, with a validation at every second checkpoint.

    Attributes:
        folder: of the run.
        aps: of the validations, by step.
        where: who validates.
        patience: of the run.
        validated: steps that the training processes validated themselves.
        pending: step that a task beside the training validates.
    """

    folder: Folder
    aps: dict[int, float]
    where: Literal["inline", "beside"]
    patience: int
    validated: list[int] = field(default_factory=list)
    pending: int = 0

    def __post_init__(self) -> None:
        self.plan = ValidationPlan(self.where, every=2, checkpoint_steps=10, end_step=205)

    def rule(self, rank: int = 0) -> EarlyEndRule:
        train = TrainConfig(patience=self.patience)
        return EarlyEndRule(train, self.plan, self.folder, rank, math.inf, self.settle)

    def record(self, step: int) -> dict[str, Any]:
        """Validate: what ``record_validation`` leaves in the journal."""
        metrics = {SELECTION_METRIC: self.aps[step]}
        journal = Journal(self.folder, "validation")
        journal.add_row("validation", {"step": step, **metrics})
        return metrics

    def run(self, begin: int = 0, until: int = 1000) -> tuple[int, EarlyEnd | None]:
        """Train from a checkpoint on; ``until``: the checkpoint after which the processes are killed."""
        self.settle()  # Ray validates again what was interrupted
        rule = self.rule()
        if ended := rule.at_checkpoint(begin, {}):
            return begin, ended
        for step in [*range(begin + 10, 205, 10), 205]:
            here = step == 205 or rule.may_end(step)
            metrics = {}
            if self.plan.inline(step) or here:
                self.validated.append(step)
                metrics = self.record(step)
            elif self.plan.beside(step):
                self.pending = step
            if ended := rule.at_checkpoint(step, metrics):
                return step, ended
            if step >= until:
                return step, None
        return 205, None

    def settle(self, *_: object) -> list[Any]:
        """As ``ValidationWait``: waits for the one that is being validated."""
        if not self.pending:
            return []
        found, self.pending = self.pending, 0
        path = f"/storage/{checkpoint_name(found)}"
        return [SimpleNamespace(checkpoint=SimpleNamespace(path=path), metrics=self.record(found))]


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Training]:
    """Makes a training in a folder of its own."""
    monkeypatch.setattr(early_end, "broadcast_from_rank_zero", lambda value: value)

    def make(
        scores: list[float], where: Literal["inline", "beside"] = "inline", patience: int = 2
    ) -> Training:
        aps = dict(zip([*range(20, 205, 20), 205], [*scores, *[0.9] * 20], strict=False))
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return Training(Folder.of(folder), aps, where, patience)

    return make


def test_it_ends_with_the_checkpoint_that_exhausts_patience(training: Callable[..., Training]) -> None:
    found = training([0.1, 0.3, 0.2, 0.25])
    assert found.run() == (80, EarlyEnd("no better occlusion AP for 2 validations", 2))


def test_beside_it_ends_one_validation_later_which_the_training_processes_make(
    training: Callable[..., Training],
) -> None:
    found = training([0.1, 0.3, 0.2, 0.25, 0.1], "beside")
    assert found.run() == (100, EarlyEnd("no better occlusion AP for 3 validations", 2))
    assert found.validated == [100]


def test_beside_it_goes_on_if_the_last_one_is_better(training: Callable[..., Training]) -> None:
    found = training([0.1, 0.3, 0.2, 0.25, 0.31, 0.3, 0.3, 0.3], "beside")
    assert found.run() == (160, EarlyEnd("no better occlusion AP for 3 validations", 2))
    assert found.validated == [100, 160]


@pytest.mark.parametrize("where", ["inline", "beside"])
def test_without_patience_and_with_enough_all_steps_are_made(
    training: Callable[..., Training], where: Literal["inline", "beside"]
) -> None:
    falling = [0.9, *[0.1] * 8]
    assert training(falling, where, patience=0).run() == (205, None)
    assert training(falling, where, patience=10).run() == (205, None)


@pytest.mark.parametrize("where", ["inline", "beside"])
@pytest.mark.parametrize("killed_at", range(10, 120, 10))
def test_a_killed_training_ends_at_the_same_step(
    training: Callable[..., Training], where: Literal["inline", "beside"], killed_at: int
) -> None:
    """Also if the checkpoint with which it ends is the one from which it goes on."""
    scores = [0.1, 0.3, 0.2, 0.25, 0.1]
    expected = training(scores, where).run()
    found = training(scores, where)
    found.run(until=killed_at)
    assert found.run(begin=min(killed_at, expected[0])) == expected


def test_a_validation_at_the_time_limit_does_not_count(training: Callable[..., Training]) -> None:
    """The plan does not have it: where the time is up depends on the machine."""
    found = training([0.1, 0.3, 0.2, 0.25])
    assert found.run(until=40) == (40, None)
    found.aps[44] = 0.0
    found.record(44)
    found.aps[48] = 0.5
    found.record(48)
    assert found.run(begin=40)[0] == 80


def test_after_more_patience_it_trains_on(training: Callable[..., Training]) -> None:
    found = training([0.1, 0.3, 0.2, 0.25, 0.1])
    assert found.run()[0] == 80
    found.patience = 3
    assert found.run(begin=80) == (100, EarlyEnd("no better occlusion AP for 3 validations", 3))


def test_all_ranks_do_what_rank_0_says(
    training: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = training([])
    monkeypatch.setattr(early_end, "broadcast_from_rank_zero", lambda value: 2)
    assert found.rule(rank=1).at_checkpoint(20, {}) is not None
    assert found.rule(rank=1).at_checkpoint(30, {}) is None  # no validation
    assert found.rule(rank=1).at_checkpoint(205, {}) is None  # the last step


def test_scores_outlive_their_checkpoints_and_a_journal_that_lost_them(tmp_path: Path) -> None:
    folder = Folder.of(tmp_path)
    assert recorded_scores(folder) == {}
    write_record(folder.join(TRAINING_FOLDER), {checkpoint_name(40): {"step": 40, SELECTION_METRIC: 0.4}})
    journal = Journal(folder, "validation")
    for ap in (0.2, 0.9):  # the first of a step counts
        journal.add_row("validation", {"step": 20, SELECTION_METRIC: ap})
    assert recorded_scores(folder) == {20: 0.2, 40: 0.4}


def test_time_is_up_where_metrics_are_logged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(early_end, "broadcast_from_rank_zero", lambda value: value)
    plan = ValidationPlan("inline", every=1, checkpoint_steps=10, end_step=100)
    train = TrainConfig(log_steps=25, max_hours=1.5)

    def rule(deadline: float) -> EarlyEndRule:
        return EarlyEndRule(train, plan, Folder.of(tmp_path), 0, deadline)

    now = time.time()
    past, future = rule(now - 1), rule(now + 1000)
    assert [step for step in range(1, 101) if past.at_deadline(step)] == [25, 50, 75]  # 100 is the end anyway
    assert past.at_deadline(25) == EarlyEnd("time limit of 1.5 hours")
    assert not any(future.at_deadline(step) for step in range(1, 101))
    monkeypatch.setattr(early_end, "broadcast_from_rank_zero", lambda value: pytest.fail("a barrier"))
    assert rule(math.inf).at_deadline(25) is None
    assert rule(now - 1).at_deadline(26) is None
