"""Forwards events of the training workers to MLflow, run.json and the terminal."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mipnet.console import say, say_once
from mipnet.errors import UserError
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.experiment.datasets import CorruptImageLog
from mipnet.experiment.progress import Progress
from mipnet.run_folder import Run

logger = logging.getLogger(__name__)

EVENTS_FILE = "events.json"
STEP_METRICS_GROUP = "learning"
"""MLflow groups metrics by what stands before the last slash, in alphabetical order: metrics over steps come
before ``results/``, which has a group for each line of the tables."""
LOSS_METRIC, RESTARTS_METRIC = f"{STEP_METRICS_GROUP}/loss", f"{STEP_METRICS_GROUP}/restarts"


@dataclass
class MetricForwarder:
    """Polls the workers' ``MetricsActor`` (mipnet.training.trainer) for the time of a ``with`` block, in a
    thread, and forwards its events.

    Attributes:
        metrics_actor: handle of the actor.
        run: gets validations, restarts and corrupt images.
        tracker: of the run: gets metrics, tags and events.
        progress: shows the last metrics.
        total_steps: of the training.
    """

    metrics_actor: Any
    run: Run
    tracker: Any
    progress: Progress
    total_steps: int
    _logged_step: int = -1
    _workers_started: bool = False
    _failure: str = ""
    _validation_line: str = ""
    _refused: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._corrupt_images = CorruptImageLog(self.run.folder)
        self._stop_requested = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="metrics", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop_requested.set()
        self._thread.join(60)

    def replay(self, history: list[dict[str, float]], logged: int) -> None:
        """Log the rows of an earlier start after step ``logged``, the last that MLflow has."""
        self._logged_step = logged
        for row in history:
            self._log_metrics(row)
        for row in self.run.state.get("validations", [])[-1:]:
            self._validation_line = validation_line(row)

    def _poll(self) -> None:
        import ray

        while True:
            stopping = self._stop_requested.wait(0.5)
            try:
                events = ray.get(self.metrics_actor.take.remote(), timeout=30)
            except ray.exceptions.RayError:
                logger.warning("no events from the metrics actor", exc_info=True)
                events = []
            for event in events:
                self._forward_safely(event)
            if stopping:
                return

    def _forward_safely(self, event: dict[str, Any]) -> None:
        """Forward an event; a storage that cannot be written does not end the training."""
        try:
            self.forward(event)
        except UserError as error:
            logger.warning("cannot forward %s", event, exc_info=True)
            if error.what not in self._refused:
                self._refused.add(error.what)
                say(f"warning: {error}")

    def forward(self, event: dict[str, Any]) -> None:
        """Handle one event or row of metrics, see ``mipnet.training.trainer.MetricsActor``."""
        if "failed" in event:
            self._failure = event["failed"]
        elif "unreadable" in event:
            self._corrupt_images(event["unreadable"])
        elif "unvalidated" in event:
            say_once(f"warning: step {event['unvalidated']} could not be validated: {event['cause']}")
        elif "started" in event:
            self._note_start(event)
        elif "loss" in event:
            self._log_metrics(event)
            self._show(event)
        else:
            self._log_validation(event)

    def _log_metrics(self, row: dict[str, float]) -> None:
        step = int(row["step"])
        if step > self._logged_step:
            self._logged_step = step
            self.tracker.log_metrics(mlflow_metrics(row), step)

    def _log_validation(self, row: dict[str, float]) -> None:
        """Log a validation; it arrives when it is done, so later than its step."""
        step = int(row["step"])
        self.tracker.log_metrics(mlflow_metrics(row), step)
        others = [v for v in self.run.state.get("validations", []) if v["step"] != step]
        self.run.note(validations=[*others, row])
        self._validation_line = validation_line(row)
        say(f"step {step}/{self.total_steps}  {self._validation_line}")

    def _note_start(self, event: dict[str, Any]) -> None:
        """Workers started; each start but the first of this process is a restart after a failure."""
        if not self._workers_started:
            say(f"training in {event['precision']} on {event['device']}")
        else:
            cause = self._failure or "no word of why"
            note_event(self.run, self.tracker, "restart", event["started"], cause)
        self._workers_started, self._failure = True, ""

    def _show(self, row: dict[str, float]) -> None:
        facts = f"loss {row['loss']:.5f}  {row['samples_per_second']:.0f} samples/s  "
        facts += f"waiting for data {row['waited_for_data']:.0%}"
        self.progress.update(int(row["step"]), self.total_steps, f"{facts}  {self._validation_line}".rstrip())


def mlflow_metrics(row: dict[str, float]) -> dict[str, float]:
    """A row's metrics under their names in MLflow; all of a step, loss/lambda0 too, are in one group."""
    named = {name.replace("loss/", "loss_"): value for name, value in row.items() if name != "step"}
    return {f"{STEP_METRICS_GROUP}/{name}": value for name, value in named.items()}


def validation_line(row: dict[str, float]) -> str:
    return f"validation occlusion AP {100 * row[SELECTION_METRIC]:.1f}"


def note_event(run: Run, tracker: Any, kind: str, step: int, cause: str) -> None:
    """Record a restart of the workers, or of the command (a resume), in run.json, MLflow and on the screen.

    Args:
        run: its run.json lists all events.
        tracker: of its MLflow run, which gets a metric, a tag and an artifact.
        kind: "restart" or "resume".
        step: the training continues from here.
        cause: one line.
    """
    when = datetime.now().astimezone().isoformat(timespec="seconds")
    events = [*run.state.get("events", []), {"time": when, "event": kind, "step": step, "cause": cause}]
    run.note(events=events)
    tracker.log_metrics({RESTARTS_METRIC: len(events)}, step)
    tracker.set_tags({"restarts": str(len(events))})
    tracker.log_text(EVENTS_FILE, json.dumps(events, indent=2) + "\n")
    say(event_line(events[-1]))


def event_line(event: dict[str, Any]) -> str:
    """E.g. "resumed at step 20: interrupted"."""
    what = "workers restarted" if event["event"] == "restart" else "resumed"
    return f"{what} at step {event['step']}: {event['cause']}"
