"""Sends a part of a run's journal to MLflow from a thread, and keeps how far it has come."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Collection

from mipnet.errors import UserError, causes, first_line
from mipnet.storage import Folder
from mipnet.tracking.journal import JOURNAL_FOLDER, Entry, JournalReader, Record, seconds_between_reads
from mipnet.tracking.points import metrics_of

SECONDS_BETWEEN_POSITIONS = 5.0
RETRY_DELAYS = (5.0, 15.0, 60.0)  # seconds, by number of failures in a row
POINTS_PER_CALL = 1000
"""MLflow's limit; a record of more is sent in several calls."""
STORE_PACKAGES = ("mlflow", "sqlalchemy", "requests", "urllib3", "boto3", "botocore", "google", "azure")
"""Packages that speak to MLflow's server, its database and the stores of artifacts."""

logger = logging.getLogger(__name__)


def is_external_failure(error: Exception) -> bool:
    """Whether a server, a store or a disk failed, not this code; each client has own errors."""
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | UserError) or package in STORE_PACKAGES


def failure_reason(error: Exception) -> str:
    """Why something could not be sent, in one line; of a database, what it says itself."""
    found = [cause.orig for cause in causes(error) if hasattr(cause, "orig")]  # SQLAlchemy's attribute
    return first_line(found[0] if found else error)


class Sender:
    """A queue of its own for one kind of records: what waits in another does not hold it up.

    Where it has come to is kept in the journal's folder with the MLflow run's id, so that the next start goes
    on there, and sends all of it to another MLflow run. What was sent after the position was last kept is
    sent again, which changes nothing.

    Args:
        run_folder: of the run.
        name: of the file with the position.
        kinds: of records to send.
        open_run: creates or opens the MLflow run, and returns its id.
        send: sends one record, or several with metrics. What it raises is tried again later.
        in_order: nothing is sent before what failed; else the others are.

    Attributes:
        last_error: of the last failed attempt, in one line; "" if none failed.
        failures: number of failed attempts since the last that did not.
    """

    def __init__(
        self,
        run_folder: Folder,
        name: str,
        kinds: Collection[str],
        open_run: Callable[[], str],
        send: Callable[[list[Record]], object],
        *,
        in_order: bool = True,
    ) -> None:
        self.folder, self._position_file = run_folder, f"{JOURNAL_FOLDER}/sent-{name}.json"
        self._kinds, self._open_run, self._send, self._in_order = kinds, open_run, send, in_order
        self.last_error = ""
        self._run_id, self._waiting, self._sent = "", list[Entry](), dict[str, int]()
        self._reader = JournalReader(run_folder)
        self.failures, self._not_before = 0, 0.0
        self._kept, self._kept_at, self._progress = "", 0.0, time.monotonic()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"mlflow {name}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Ask the thread to end, if nobody has yet."""
        if not self._ending.is_set():
            self._progress = time.monotonic()
            self._ending.set()

    def close(self, timeout: float) -> bool:
        """End when everything is sent, an attempt fails, or nothing was sent for ``timeout`` seconds.

        Returns:
            whether everything was sent.
        """
        self.end()
        while self._thread.is_alive() and time.monotonic() - self._progress < timeout:
            self._thread.join(0.1)
        if self._thread.is_alive():
            self.failures, self.last_error = self.failures + 1, self.last_error or "no answer"
        return not self.failures

    @property
    def damaged(self) -> list[str]:
        """Places in the journal that hold no record."""
        return self._reader.damaged

    def _work(self) -> None:
        ending = False
        while not ending:
            self._round()
            ending = self._ending.wait(seconds_between_reads(self.folder))
        self._not_before = 0.0
        self._round(last=True)

    def _round(self, last: bool = False) -> None:
        """Send what there is; after a failure, not again before the retry delay is over."""
        if time.monotonic() < self._not_before:
            return
        try:
            self._send_all()
            self.failures = 0
        except Exception as error:
            if not is_external_failure(error):
                logger.exception("cannot send to MLflow")  # a bug: it costs records, not the training
            self.last_error = failure_reason(error)
            delay = RETRY_DELAYS[min(self.failures, len(RETRY_DELAYS) - 1)]
            logger.info("MLflow: tried again after %g s (%s)", delay, error, exc_info=True)
            self._not_before = time.monotonic() + delay
            self.failures += 1
        self._keep_position([], now=last)

    def _send_all(self) -> None:
        if (run_id := self._open_run()) != self._run_id:
            self._begin(run_id)
        if not self._waiting:
            for entry in self._reader.read():
                new = entry.begin >= self._sent.get(entry.file, 0) and not entry.repeated
                if new and entry.record["do"] in self._kinds:
                    self._waiting.append(entry)
        # What MLflow has must outlive a power cut in the journal, too: else these steps are made and sent
        # again, with another time. Not done where they are recorded, because the training would wait for it.
        self._reader.sync({entry.file for entry in self._waiting})
        kept: list[Entry] = []
        failure: Exception | None = None
        try:
            while self._waiting:
                batch = first_batch(self._waiting)
                try:
                    self._send([entry.record for entry in batch])
                    self._progress = time.monotonic()
                except Exception as error:
                    if self._in_order:
                        raise
                    kept, failure = [*kept, *batch], error
                del self._waiting[: len(batch)]
                self._keep_position(kept)
        finally:
            self._waiting = [*kept, *self._waiting]
        if failure is not None:
            raise failure

    def _begin(self, run_id: str) -> None:
        """Go on where the last start has come to, or at the journal's begin if the MLflow run is another."""
        kept = {}
        if self.folder.exists(self._position_file):
            with contextlib.suppress(ValueError):  # a damaged one: all is sent again
                kept = json.loads(self.folder.read(self._position_file))
        self._sent = kept["files"] if kept.get("run") == run_id else {}
        self._run_id, self._waiting, self._reader = run_id, [], JournalReader(self.folder)

    def _keep_position(self, failed: list[Entry], now: bool = False) -> None:
        """Write down which records of each file are sent, every few seconds or ``now``."""
        if not self._run_id or not (now or time.monotonic() - self._kept_at > SECONDS_BETWEEN_POSITIONS):
            return
        files = dict(self._reader.positions)
        for entry in reversed([*failed, *self._waiting]):
            files[entry.file] = entry.begin
        content = json.dumps({"run": self._run_id, "files": files})
        if content == self._kept:
            return
        try:
            self.folder.write(self._position_file, content, durable=False)
            self._kept, self._kept_at = content, time.monotonic()
        except (OSError, UserError):  # then some are sent again, which changes nothing
            logger.info("cannot keep what is sent", exc_info=True)


def first_batch(waiting: list[Entry]) -> list[Entry]:
    """The first entry; if it has metrics, with those after it that fit into one call."""
    count, points = 0, 0
    for entry in waiting:
        points += len(metrics_of(entry.record))
        if not metrics_of(entry.record) or points > POINTS_PER_CALL:
            break
        count += 1
    return waiting[: max(count, 1)]
