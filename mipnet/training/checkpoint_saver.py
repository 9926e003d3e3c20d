"""Rows of metrics, and the checkpoints that hold them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from mipnet.tracking.journal import Journal
from mipnet.training.checkpoint_report import CheckpointReporter
from mipnet.training.early_end import EarlyEnd, EarlyEndRule
from mipnet.training.inline_validation import WorkerValidation
from mipnet.training.interruptions import Interruptions
from mipnet.training.step import TrainStep

logger = logging.getLogger(__name__)

MetricsRow = dict[str, float]


class MetricLogger:
    """Adds rows of metrics to the history, which is part of every checkpoint, and to the journal.

    Args:
        history: rows of earlier processes; new ones are appended.
        journal: of the run, None for none.
        batch_size: of the global batch.
        step: number of steps done.
    """

    def __init__(
        self, history: list[MetricsRow], journal: Journal | None, batch_size: int, step: int
    ) -> None:
        self.history, self.journal, self.batch_size = history, journal, batch_size
        self.waited = 0.0  # seconds for data since the last row
        self._since, self._last = time.perf_counter(), step

    def add(self, step: int, metrics: MetricsRow) -> None:
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        rate, waited = (step - self._last) * self.batch_size / seconds, self.waited / seconds
        row = {"step": step, **metrics, "samples_per_second": rate, "waited_for_data": waited}
        row["time"] = int(time.time() * 1000)  # a row that is sent again is the same point for MLflow
        self._since, self._last, self.waited = now, step, 0.0
        self.history.append(row)
        if metrics["skipped"]:
            logger.warning("step %d: %g updates skipped: not finite", step, metrics["skipped"])
        if self.journal is not None:
            self.journal.add_row("training", row)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of the ``with`` block: of validation, which makes no steps."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - begin


@dataclass(frozen=True)
class CheckpointSaver:
    """Saves the checkpoints of a training process; all ranks make the same calls.

    Attributes:
        step, log, validation, reporter, early_end, interruptions: of this process.
    """

    step: TrainStep
    log: MetricLogger
    validation: WorkerValidation
    reporter: CheckpointReporter
    early_end: EarlyEndRule
    interruptions: Interruptions

    def save(self, *, last: bool) -> EarlyEnd | None:
        """Validate and report a checkpoint.

        Args:
            last: the training ends with it in any case.

        Returns:
            why patience ends the training with it; None if it does not.
        """
        step, validation = self.step, self.validation
        step.all_reduce_bn_buffers()
        with self.log.paused():
            here = last or self.early_end.may_end(step.step)
            metrics = validation.before_report(step, here)
        beside = validation.plan.beside(step.step) and not here
        afterwards = partial(validation.after_report, step.step, metrics)
        with self.interruptions.saving():
            self.reporter.report(
                step,
                self.log.history,
                metrics,
                beside=beside,
                before=validation.put_pictures,
                afterwards=afterwards,
            )
        return self.early_end.at_checkpoint(step.step, metrics)

    def after_step(self, *, saved: bool) -> None:
        """Save a checkpoint at a notice or a stop, see ``Interruptions.after_step``.

        Args:
            saved: there is a checkpoint of this step.
        """
        self.interruptions.after_step(self.step.step, partial(self._save_unplanned, saved))

    def _save_unplanned(self, saved: bool) -> None:
        """Have a checkpoint of this step stored; it changes nothing of what follows."""
        with self.log.paused():
            if not saved:
                with self.step.unplanned_checkpoint():
                    self.reporter.report(self.step, self.log.history, {}, beside=False)
            self.reporter.wait()
