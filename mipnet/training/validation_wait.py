"""Waiting for the validations that a task makes beside the training: never for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray.train
from ray.train import ReportedCheckpointStatus

from mipnet.tracking.journal import Journal
from mipnet.training.checkpoint import step_from_path
from mipnet.training.validation_plan import ValidationPlan

SECONDS_BETWEEN_LOOKS = 5.0
"""Before it is asked again whether a checkpoint is urgent."""
MIN_LIMIT_SECONDS = 600.0
LIMIT_IN_ESTIMATES = 5.0
"""How long to wait at most, in estimated times of a validation. One that takes so long has no GPU: another
job holds those that the training has left free."""


class ValidationWait:
    """Waits until no checkpoint is being validated; for rank 0.

    Args:
        plan: of the run.
        journal: of the run; is told of a validation that does not come.
        urgent: takes the seconds that work will take; whether a checkpoint has to be saved before.
        step: number of steps done.
        clock: seconds.
    """

    def __init__(
        self,
        plan: ValidationPlan,
        journal: Journal,
        urgent: Callable[[float], bool],
        step: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan, self._journal, self._urgent, self._clock = plan, journal, urgent, clock
        self._last_step, self._last_time = step, clock()
        self._late = -1

    def __call__(self, step: int) -> list[Any]:
        """Wait, unless a checkpoint is urgent, or the validation that is next was waited for in vain before.

        Args:
            step: number of steps done.

        Returns:
            all reported checkpoints; none if one is urgent.
        """
        begin = self._clock()
        seconds_per_step = (begin - self._last_time) / max(step - self._last_step, 1)
        limit = max(MIN_LIMIT_SECONDS, LIMIT_IN_ESTIMATES * self._plan.beside_steps * seconds_per_step)
        found: list[Any] = []
        while not self._urgent(SECONDS_BETWEEN_LOOKS):
            found = ray.train.get_all_reported_checkpoints(timeout_s=SECONDS_BETWEEN_LOOKS)
            pending = [each for each in found if each.status is ReportedCheckpointStatus.PENDING_VALIDATION]
            # Ray validates one after the other.
            first = min((step_from_path(str(each.checkpoint.path)) for each in pending), default=-1)
            if not pending or first == self._late:
                break
            if (waited := self._clock() - begin) > limit:
                self._late = first
                self._journal.add("late", step=first, seconds=round(waited))
                break
        self._last_step, self._last_time = step, self._clock()
        return found
