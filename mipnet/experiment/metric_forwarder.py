"""Forwards what the processes of a training record to run.json and terminal; the tracker sends it."""

from __future__ import annotations

import json
import logging
import math
import threading
from datetime import datetime
from typing import Any

import ray

from mipnet.console import say, say_once
from mipnet.errors import UserError
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.experiment.datasets import CorruptImageLog
from mipnet.experiment.progress import Progress
from mipnet.run_folder import Run
from mipnet.tracking.journal import JournalReader, Record, first_rows, seconds_between_reads
from mipnet.tracking.points import STEP_METRICS_GROUP

logger = logging.getLogger(__name__)

EVENTS_FILE = "events.json"
RESTARTS_METRIC = f"{STEP_METRICS_GROUP}/restarts"
MS_PER_SECOND = 1000


class MetricForwarder:
    """Reads the run's journal for the time of a ``with`` block, in a thread, and forwards what is new.

    What is there already was recorded in earlier starts: only validations of it are noted, which the process
    that should have done so may not have lived to do.

    Args:
        run: gets validations, restarts and corrupt images.
        tracker: of the run: gets restarts.
        progress: shows the last metrics.
        total_steps: of the training.
    """

    def __init__(self, run: Run, tracker: Any, progress: Progress, total_steps: int) -> None:
        self.run, self.tracker, self.progress, self.total_steps = run, tracker, progress, total_steps
        self.reader = JournalReader(run.folder)
        self._workers, self._failure, self._validation_line = 0, "", ""
        self._failures = 0
        self._notice: Record | None = None
        self._corrupt_images = CorruptImageLog(run.folder)
        self._stop_requested = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="metrics", daemon=True)

    def __enter__(self) -> None:
        self._note_validations(first_rows(self.reader, "validation"))
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop_requested.set()
        self._thread.join(60)

    def settle(self, history: list[dict[str, float]]) -> None:
        """Compare what is recorded with a checkpoint's history, and record what is missing.

        Args:
            history: all rows of metrics up to the last step; rows without a time are of older versions, which
                have sent them.
        """
        reader = JournalReader(self.run.folder)
        recorded = {int(row["step"]) for row in first_rows(reader, "training")}
        missing = [row for row in history if int(row["step"]) not in recorded and "time" in row]
        for row in missing:
            self.tracker.log_row("training", row)
        if missing:
            logger.warning("%d rows of the history were not recorded, and are now", len(missing))
        self._note_validations(first_rows(JournalReader(self.run.folder), "validation"))

    def _poll(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stop_requested.wait(seconds_between_reads(self.run.folder))
            try:
                for entry in self.reader.read():
                    self._forward_safely(entry.record, entry.repeated)
            except (OSError, UserError) as error:  # a storage that does not answer is asked again
                self._say_refusal(error)

    def _forward_safely(self, record: Record, repeated: bool) -> None:
        """Forward a record; one that is odd, or a storage that cannot be written, ends nothing."""
        try:
            self.forward(record, repeated)
        except (UserError, OSError) as error:
            self._say_refusal(error)
        except (KeyError, TypeError, ValueError):
            logger.warning("an odd record: %s", record, exc_info=True)
            say_once(f"warning: an odd record of kind {record['do']} is left out")

    def _say_refusal(self, error: Exception) -> None:
        logger.warning("cannot forward all records", exc_info=True)
        say_once(f"warning: {error}")

    def forward(self, record: Record, repeated: bool = False) -> None:
        """Handle one record of the journal.

        Args:
            record: "training" and "validation" have a ``row`` of metrics; "started" the ``step`` from which
                workers go on, ``precision``, ``device`` and their number ``workers``; "failed" the ``cause``;
                "notice" the ``nodes`` that will be taken away, in so many ``seconds`` or None; "unreadable"
                ``names`` of images; "unvalidated" ``step`` and ``cause``; "late" the ``step`` that was waited
                for, and ``seconds``; "file", if there is a ``step``, the ``name`` of the pictures of its
                validation. Others are for MLflow alone.
            repeated: the step was recorded before.
        """
        match record["do"]:
            case "failed":
                self._note_failure(record["cause"])
            case "notice":
                self._notice = record
                say(notice_line(record))
            case "unreadable":
                self._corrupt_images(record["names"])
            case "unvalidated":
                say_once(f"warning: step {record['step']} could not be validated: {record['cause']}")
            case "late":
                say(late_line(record))
            case "started":
                self._note_start(record)
            case "training":
                self._show(record["row"])
            case "validation" if not repeated:
                step = int(record["row"]["step"])
                self._note_validations([record["row"]])
                say(f"step {step}/{self.total_steps}  {self._validation_line}")
            case "file" if "step" in record:
                say(f"poses of step {record['step']}: {self.run.folder.path(record['name'])}")

    def _note_validations(self, rows: list[dict[str, float]]) -> None:
        """Note validations in run.json, of each step the first."""
        known = self.run.state.get("validations", [])
        new = [row for row in rows if row["step"] not in {v["step"] for v in known}]
        if new:
            self.run.note(validations=[*known, *new])
        for row in self.run.state.get("validations", [])[-1:]:
            self._validation_line = validation_line(row)

    def _note_failure(self, cause: str) -> None:
        """Workers failed; they start again when there is room for them, which may take long."""
        self._failure, self._failures = cause, self._failures + 1
        resources = self.run.config.resources
        if self._failures <= resources.max_failures:  # else it ends the training, which says why
            say(f"workers failed: {cause}; waiting for room for {resources.workers_in_words} worker(s)")

    def _note_start(self, record: Record) -> None:
        """Workers started; each start but the first is a restart, after a failure or with another number."""
        before, self._workers = self._workers, record.get("workers", self._workers or 1)
        if not before:
            say(f"training in {record['precision']} on {record['device']}")
        else:
            changed = f"{self._workers} worker(s) instead of {before}" if self._workers != before else ""
            # A node that is taken away may take its workers along before they are stopped.
            notice = ""
            if self._notice:
                notice = ": ".join(filter(None, (notice_line(self._notice), drain_reason(self._notice))))
            cause = "; ".join(filter(None, (notice, self._failure, changed))) or "no word of why"
            note_event(self.run, self.tracker, "restart", record["step"], cause)
        self._failure, self._notice = "", None

    def _show(self, row: dict[str, float]) -> None:
        facts = f"loss {row['loss']:.5f}  {row['samples_per_second']:.0f} samples/s  "
        facts += f"waiting for data {row['waited_for_data']:.0%}"
        self.progress.update(int(row["step"]), self.total_steps, f"{facts}  {self._validation_line}".rstrip())


def notice_line(record: Record) -> str:
    """E.g. "notice of 15 s for 198.18.1.2 (worker 0, 1)"."""
    nodes = [f"{n['address']} (worker {', '.join(map(str, n['ranks']))})" for n in record["nodes"]]
    seconds = record["seconds"]
    length = "without a deadline" if seconds is None else f"of {max(seconds, 0)} s"
    return f"notice {length} for {', '.join(nodes)}"


def late_line(record: Record) -> str:
    """Of a validation beside the training that has not come."""
    late = f"step {record['step']} is not validated after {record['seconds']} s of waiting"
    goes_on = "the training goes on, and it is made up for after the last step at the latest"
    return f"warning: {late} (no free GPU?): {goes_on}; --validation inline needs no other GPU"


def drain_reason(record: Record) -> str:
    """Why the nodes of a notice were drained; Ray only says it of nodes that are gone."""
    noticed = {node["id"] for node in record["nodes"]}
    gone = [node for node in ray.nodes() if node["NodeID"] in noticed and not node["Alive"]]
    reasons = {" ".join(str(node.get("DeathReasonMessage") or "").split()) for node in gone}
    return ", ".join(sorted(reasons - {""}))


def validation_line(row: dict[str, float]) -> str:
    return f"validation occlusion AP {100 * row.get(SELECTION_METRIC, math.nan):.1f}"


def note_event(run: Run, tracker: Any, kind: str, step: int, cause: str) -> None:
    """Record a restart of the workers, or of the command (a resume), in run.json, MLflow and on the screen.

    Args:
        run: its run.json lists all events.
        tracker: of its MLflow run, see ``log_events``.
        kind: "restart" or "resume".
        step: the training continues from here.
        cause: one line.
    """
    when = datetime.now().astimezone().isoformat(timespec="seconds")
    events = [*run.state.get("events", []), {"time": when, "event": kind, "step": step, "cause": cause}]
    run.note(events=events)
    log_events(run, tracker)
    say(event_line(events[-1]))


def log_events(run: Run, tracker: Any) -> None:
    """Log all events of run.json to MLflow: a point of a metric for each, a tag and an artifact.

    Those that were logged before are the same points again. A point stands at its event's step, or right
    behind the point before, so that no step has two.
    """
    at, begun = 0, round(run.state.get("begun", 0) * MS_PER_SECOND)
    tracker.log_metrics({RESTARTS_METRIC: 0}, 0, once="restarts", time_ms=begun)
    events = run.state.get("events", [])
    for number, event in enumerate(events, 1):
        at = max(int(event["step"]), at + 1)
        when = int(datetime.fromisoformat(event["time"]).timestamp() * MS_PER_SECOND)
        tracker.log_metrics({RESTARTS_METRIC: number}, at, once="restarts", time_ms=when)
    tracker.set_tags({"restarts": str(len(events))})
    if events:
        tracker.log_text(EVENTS_FILE, json.dumps(events, indent=2) + "\n")


def event_line(event: dict[str, Any]) -> str:
    """E.g. "resumed at step 20: interrupted"."""
    what = "workers restarted" if event["event"] == "restart" else "resumed"
    return f"{what} at step {event['step']}: {event['cause']}"
