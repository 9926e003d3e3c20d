"""Whether a training ends before its last step: by ``train.patience``, or by ``train.max_hours``.

Patience depends only on the validations that the plan makes in any case, so that a training that was killed
and goes on ends at the same step. Only a validation beside the training that does not come in time, because
others hold its GPU, is not waited for: it counts when it comes. Rank 0 decides, and tells the others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ray.train.collective import broadcast_from_rank_zero

from mipnet.config.schema import TrainConfig
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.run_folder import TRAINING_FOLDER
from mipnet.storage import Folder
from mipnet.tracking.journal import JournalReader, first_rows
from mipnet.training.checkpoint import step_from_path
from mipnet.training.recovery import read_record, score
from mipnet.training.validation_plan import ValidationPlan


@dataclass(frozen=True)
class EarlyEnd:
    """Why a training ended before its last step.

    Attributes:
        why: one clause.
        patience: the one that was exhausted; 0 if it was the time.
    """

    why: str
    patience: int = 0


class EarlyEndRule:
    """Decides at which step a training ends early. All ranks make the same calls, in the same order.

    Args:
        train: has the limits.
        plan: which checkpoints are validated; without one, there is no patience.
        run_folder: has the validations of earlier processes.
        rank: of this process.
        deadline: in seconds since 1970, by the clock of the driver's node, with which the others' agree to
            seconds; inf is none.
        wait: see ``ValidationWait``.
    """

    def __init__(
        self,
        train: TrainConfig,
        plan: ValidationPlan | None,
        run_folder: Folder,
        rank: int,
        deadline: float,
        wait: Callable[[int], Iterable[Any]] = lambda step: (),
    ) -> None:
        self.plan, self.rank, self.deadline, self._wait = plan, rank, deadline, wait
        self.patience = train.patience if plan else 0
        self.log_steps, self.max_hours = train.log_steps, train.max_hours
        self.scores = recorded_scores(run_folder) if self.patience and rank == 0 else {}

    def at_deadline(self, step: int) -> EarlyEnd | None:
        """Whether the training ends with this step because the time is up.

        It can only where metrics are logged, so that the rows of metrics are those of an undisturbed run; so
        each call of the command makes at least these steps.
        """
        if self.deadline == math.inf or step % self.log_steps or (self.plan and step == self.plan.end_step):
            return None
        if not broadcast_from_rank_zero(time.time() >= self.deadline):
            return None
        return EarlyEnd(f"time limit of {self.max_hours:g} hour{'s' * (self.max_hours != 1)}")

    def may_end(self, step: int) -> bool:
        """Whether patience ends the training with this checkpoint unless it is better than all before.

        Then it has to be validated before the training goes on. Only asks where a task of its own validates:
        its results come later, at the latest when the next checkpoint is due, unless they do not come.
        """
        if not self.patience or self.plan is None or not self.plan.beside(step):
            return False
        if self.rank == 0:
            for each in self._wait(step):
                self._add(step_from_path(str(each.checkpoint.path)), each.metrics)
        return bool(broadcast_from_rank_zero(self._without_better(step) >= self.patience))

    def at_checkpoint(self, step: int, metrics: Mapping[str, Any]) -> EarlyEnd | None:
        """Whether patience ends the training with this checkpoint, which is reported.

        Args:
            step: of the checkpoint, also of one from which the training goes on.
            metrics: of its validation on rank 0; empty if there was none, or if they are known.
        """
        if not self.patience or self.plan is None:
            return None
        if step == self.plan.end_step or not self.plan.scheduled(step):
            return None
        self._add(step, metrics)
        # The result of a task beside the training has come one checkpoint late.
        allowed = self.patience + (self.plan.where == "beside")
        found = broadcast_from_rank_zero(self._without_better(step))
        if found < allowed:
            return None
        why = f"no better occlusion AP for {found} validation{'s' * (found != 1)}"
        return EarlyEnd(why, self.patience)

    def _add(self, step: int, metrics: Mapping[str, Any]) -> None:
        if SELECTION_METRIC in metrics:
            self.scores[step] = score(metrics)

    def _without_better(self, step: int) -> int:
        """On rank 0; one where the time was up is left out, because undisturbed there is none."""
        assert self.plan is not None
        return validations_without_better(
            {s: ap for s, ap in self.scores.items() if s <= step and self.plan.scheduled(s)}
        )


def recorded_scores(run_folder: Folder) -> dict[int, float]:
    """Step -> occlusion AP, 0 to 1 or nan, of all validations of a run, those of removed checkpoints too."""
    recorded = {
        step_from_path(name): score(metrics)
        for name, metrics in read_record(run_folder.join(TRAINING_FOLDER)).items()
        if SELECTION_METRIC in metrics
    }
    rows = first_rows(JournalReader(run_folder), "validation")
    return recorded | {int(row["step"]): score(row) for row in rows}


def validations_without_better(scores: Mapping[int, float]) -> int:
    """How many validations in a row, up to the last, found no better AP than one before.

    Args:
        scores: step -> occlusion AP; nan is not better than anything.
    """
    best, count = -math.inf, 0
    for _, ap in sorted(scores.items()):
        best, count = (ap, 0) if ap > best else (best, count + 1)
    return count
