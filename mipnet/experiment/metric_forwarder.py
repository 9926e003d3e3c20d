"""What the training's processes tell while they run, on its way to MLflow, run.json and the terminal."""

from __future__ import annotations

import json
import threading
from datetime import datetime
from typing import Any

from mipnet.console import say, say_once
from mipnet.errors import UserError
from mipnet.evaluation.occlusion import SCORE
from mipnet.experiment.corrupt_images import Unreadable
from mipnet.experiment.progress import Progress
from mipnet.run_folder import Run

EVENTS = "events.json"
LEARNING = "learning"
"""MLflow shows metrics in groups by what stands before the last slash, in the order of the alphabet: what is
seen over the steps comes before ``results/``, which has a group for each line of the tables."""
RESTARTS = f"{LEARNING}/restarts"


class RowPump(threading.Thread):
    """Carries what the workers' actor holds (``mipnet.training.trainer.Rows``) to where it is wanted."""

    def __init__(self, rows: Any, run: Run, tracker: Any, progress: Progress, total_steps: int) -> None:
        super().__init__(name="rows", daemon=True)
        self.rows, self.run_of, self.tracker, self.progress = rows, run, tracker, progress
        self.total_steps = total_steps
        self._stop_asked = threading.Event()
        self._logged = -1
        self._begun = False
        self._failure = ""
        self._validated = ""
        self._refused: set[str] = set()
        self._unreadable = Unreadable(run.folder)

    def replay(self, history: list[dict[str, float]], logged: int) -> None:
        """Send what an interrupted start had logged but MLflow did not get."""
        self._logged = logged
        for row in history:
            self._log_metrics(row)
        for row in self.run_of.state.get("validations", [])[-1:]:
            self._validated = validated(row)

    def run(self) -> None:
        import ray

        while True:
            stopping = self._stop_asked.wait(0.5)
            try:
                rows = ray.get(self.rows.take.remote(), timeout=30)
            except ray.exceptions.RayError:
                rows = []
            for row in rows:
                self._take_safely(row)
            if stopping:
                return

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(60)

    def _take_safely(self, row: dict[str, Any]) -> None:
        """A storage that refuses a note does not end the training, which may need none for hours."""
        try:
            self._take(row)
        except UserError as error:
            if error.what not in self._refused:
                self._refused.add(error.what)
                say(f"warning: {error}")

    def _take(self, row: dict[str, Any]) -> None:
        if "failed" in row:
            self._failure = row["failed"]
        elif "unreadable" in row:
            self._unreadable(row["unreadable"])
        elif "unvalidated" in row:
            say_once(f"warning: step {row['unvalidated']} could not be validated: {row['cause']}")
        elif "started" in row:
            self._note_start(row)
        elif "loss" in row:
            self._log_metrics(row)
            self._show(row)
        else:
            self._log_validation(row)

    def _log_metrics(self, row: dict[str, float]) -> None:
        step = int(row["step"])
        if step > self._logged:
            self._logged = step
            self.tracker.metrics(learning(row), step)

    def _log_validation(self, row: dict[str, float]) -> None:
        """A validation comes when it is done, so later than its step."""
        step = int(row["step"])
        self.tracker.metrics(learning(row), step)
        others = [v for v in self.run_of.state.get("validations", []) if v["step"] != step]
        self.run_of.note(validations=[*others, row])
        self._validated = validated(row)
        say(f"step {step}/{self.total_steps}  {self._validated}")

    def _note_start(self, row: dict[str, Any]) -> None:
        """The workers began; if not for the first time in this process, something made them."""
        if not self._begun:
            say(f"training in {row['precision']} on {row['device']}")
        else:
            cause = self._failure or "no word of why"
            note_event(self.run_of, self.tracker, "restart", row["started"], cause)
        self._begun, self._failure = True, ""

    def _show(self, row: dict[str, float]) -> None:
        facts = (
            f"loss {row['loss']:.5f}  {row['samples_per_second']:.0f} samples/s  "
            f"waiting for data {row['waited_for_data']:.0%}"
        )
        self.progress.update(int(row["step"]), self.total_steps, f"{facts}  {self._validated}".rstrip())


def learning(row: dict[str, float]) -> dict[str, float]:
    """A row's metrics under their names in MLflow; those of a step, loss/lambda0 too, are one group."""
    return {
        f"{LEARNING}/{name.replace('loss/', 'loss_')}": value for name, value in row.items() if name != "step"
    }


def validated(row: dict[str, float]) -> str:
    return f"validation occlusion AP {100 * row[SCORE]:.1f}"


def note_event(run: Run, tracker: Any, kind: str, step: int, cause: str) -> None:
    """Keep a restart of the workers, or of the command (a resume), where people look for it.

    Args:
        run: its notes list all events.
        tracker: of its MLflow run: a metric, a tag and an artifact.
        kind: "restart" or "resume".
        step: from which the training goes on.
        cause: in one line.
    """
    when = datetime.now().astimezone().isoformat(timespec="seconds")
    events = [*run.state.get("events", []), {"time": when, "event": kind, "step": step, "cause": cause}]
    run.note(events=events)
    tracker.metrics({RESTARTS: len(events)}, step)
    tracker.set_tags({"restarts": str(len(events))})
    tracker.text(EVENTS, json.dumps(events, indent=2) + "\n")
    say(event_line(events[-1]))


def event_line(event: dict[str, Any]) -> str:
    """E.g. "resumed at step 20: interrupted"."""
    what = "workers restarted" if event["event"] == "restart" else "resumed"
    return f"{what} at step {event['step']}: {event['cause']}"
