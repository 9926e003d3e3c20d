"""When a notice or a stop has a checkpoint saved, and when no further step is made."""

from __future__ import annotations

from typing import Any

import pytest
from ray.train import PreemptionInfo

from mipnet.training.interruptions import (
    MAX_QUESTION_SHARE,
    MAX_SECONDS_BETWEEN_QUESTIONS,
    NO_DEADLINE_SECONDS,
    RESERVE_SECONDS,
    Decision,
    Planner,
)

CHECKPOINT_SECONDS = 2.0


class Training:
    """A training that makes a step in so many seconds, and asks after each step that it is told to."""

    def __init__(self, step_seconds: float = 0.1) -> None:
        self.now, self.step, self.step_seconds = 1000.0, 7, step_seconds
        self.planner = Planner(self.step, lambda: self.now)
        self.saved: list[float] = []

    def ask(self, notice: PreemptionInfo | None, steps: int = 1, **others: Any) -> Decision:
        self.step, self.now = self.step + steps, self.now + steps * self.step_seconds
        facts = {"stop": False, "question_seconds": 0.003, "checkpoint_seconds": CHECKPOINT_SECONDS, **others}
        return self.planner.decide(self.step, notice, **facts)

    def run(self, notice: PreemptionInfo | None, seconds: float) -> bool:
        """Train on for so long, or until no further step is made; whether that is so."""
        end, steps = self.now + seconds, 1
        while self.now < end:
            decision = self.ask(notice, steps)
            if decision.save:
                self.saved.append(self.now)
                self.now += CHECKPOINT_SECONDS
            if decision.hold:
                return True
            steps = decision.next_step - self.step
        return False


def notice_at(deadline: float | None, node: str = "a") -> PreemptionInfo:
    return PreemptionInfo(None if deadline is None else round(deadline * 1000), {node: [0]})


@pytest.mark.parametrize("step_seconds", [0.001, 0.02, 0.3, 3.0])
def test_it_is_asked_about_once_a_second(step_seconds: float) -> None:
    decision = (training := Training(step_seconds)).ask(None)
    steps = decision.next_step - training.step
    assert steps == max(round(1 / step_seconds), 1)
    assert decision == Decision(save=False, hold=False, next_step=training.step + steps)


def test_a_question_that_takes_long_is_asked_less_often() -> None:
    training = Training(0.1)
    steps = training.ask(None, question_seconds=0.03).next_step - training.step
    assert 0.03 / (steps * 0.1) == pytest.approx(MAX_QUESTION_SHARE)
    steps = training.ask(None, question_seconds=0.5).next_step - training.step
    assert steps * 0.1 == pytest.approx(MAX_SECONDS_BETWEEN_QUESTIONS)


@pytest.mark.parametrize("seconds", [15, 60, 3600])
def test_a_checkpoint_at_the_notice_and_one_before_the_deadline(seconds: float) -> None:
    training = Training()
    assert not training.run(None, 30)
    begin = training.now
    assert training.run(notice_at(begin + seconds), 2 * seconds)
    first, last = training.saved
    assert first == pytest.approx(begin, abs=1)
    spare = begin + seconds - (last + CHECKPOINT_SECONDS)
    assert spare == pytest.approx(RESERVE_SECONDS, abs=1.5)


@pytest.mark.parametrize("seconds", [-60, 0, 3, RESERVE_SECONDS + CHECKPOINT_SECONDS])
def test_a_deadline_too_near_for_a_second_checkpoint_or_past(seconds: float) -> None:
    training = Training()
    assert training.run(notice_at(training.now + seconds), 10)
    assert len(training.saved) == 1


def test_a_notice_without_a_deadline_is_one_that_ray_train_waits_out() -> None:
    training = Training()
    begin = training.now
    assert training.run(notice_at(None), 200)
    first, last = training.saved
    assert first == pytest.approx(begin, abs=1)
    assert last < begin + NO_DEADLINE_SECONDS - RESERVE_SECONDS


def test_of_two_notices_each_has_a_checkpoint_and_the_nearer_deadline_counts() -> None:
    training = Training()
    begin = training.now
    first, second = notice_at(begin + 60), notice_at(begin + 25, "b")
    assert not training.run(first, 5)
    assert not training.run(first, 5)
    assert len(training.saved) == 1, "the same notice again is none"
    assert training.run(second, 60)
    assert len(training.saved) == 3
    assert training.saved[-1] < begin + 25 - RESERVE_SECONDS


def test_a_later_deadline_does_not_put_off_an_earlier_one() -> None:
    training = Training()
    begin = training.now
    assert not training.run(notice_at(begin + 25), 5)
    assert training.run(notice_at(begin + 90, "b"), 60)
    assert training.saved[-1] < begin + 25 - RESERVE_SECONDS


def test_a_stop_saves_a_checkpoint_and_makes_no_further_step() -> None:
    training = Training()
    decision = training.ask(None, stop=True)
    assert decision.save
    assert decision.hold


def test_a_stop_does_not_wait_for_the_deadline_of_a_notice() -> None:
    training = Training()
    notice = notice_at(training.now + 60)
    assert not training.run(notice, 5)
    assert training.ask(notice, stop=True).hold
