"""One MLflow run per training, written by a background thread, so that a dead server never blocks training.

Only the driver has a tracker. It puts records into a bounded queue; what could not be sent is spooled:
written to a file in the run's folder and sent by the next start of the same command.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipnet.errors import first_line
from mipnet.storage import Folder, default_storage
from mipnet.tracking.datasets import dataset_inputs

if TYPE_CHECKING:
    from mlflow import MlflowClient

SPOOL_FILE = "tracking.jsonl"  # in the run's folder: records that are not sent yet
SQLITE_PREFIX = "sqlite:///"
QUEUE_LENGTH = 2000
RETRY_DELAYS = (5.0, 15.0, 60.0)  # seconds, by number of failures in a row
# MLflow's limits: metrics; params, and characters of params and tags.
METRICS_PER_CALL = 1000
PARAMS_PER_CALL, MAX_VALUE_LENGTH = 100, 6000

Operation = dict[str, Any]
"""A record to send: "do" is its kind, the other keys depend on it; JSON, so that it can be spooled."""

logger = logging.getLogger(__name__)


def tracking_uri(storage: Folder) -> str:
    """MLFLOW_TRACKING_URI, else an SQLite file in the storage, or in the default one for object stores."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return uri
    home = storage if storage.is_local else default_storage()
    return f"{SQLITE_PREFIX}{home.local_path / 'mlflow.db'}"


def prepare_mlflow(storage: Folder) -> str:
    """Point this process's MLflow at the store, with short timeouts and no output; returns its URI."""
    uri = tracking_uri(storage)
    if uri.startswith(SQLITE_PREFIX):
        Path(uri.removeprefix(SQLITE_PREFIX)).parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    import mlflow

    for name in ("mlflow", "alembic"):  # after the import, which sets the levels
        logging.getLogger(name).setLevel(logging.ERROR)
    from_environment = "MLFLOW_TRACKING_URI" in os.environ
    mlflow.set_tracking_uri(uri)
    if not from_environment:  # set_tracking_uri sets it for subprocesses; another storage has another store
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    return uri


class Tracker:
    """The MLflow run of a training.

    Args:
        storage: where the embedded store and its artifacts lie.
        folder: the run's folder, which has the spool.
        experiment: name; created if it does not exist.
        name: of the run.
        run_id: of the MLflow run to reopen; "" starts one.
        tags: set at every start.
        params: set once, when the MLflow run is created.
        on_started: called with the MLflow run's id as soon as there is one.

    Attributes:
        run_id: of the MLflow run; "" as long as there is none.
        last_error: of the last failed attempt to send, in one line; "" if none failed.
        rejected: errors of the records that the server will never take, which are left out.
    """

    def __init__(
        self,
        storage: Folder,
        folder: Folder,
        experiment: str,
        name: str,
        *,
        run_id: str = "",
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        on_started: Callable[[str], None] = lambda run_id: None,
    ) -> None:
        self.storage, self.folder = storage, folder
        self.experiment, self.name, self.run_id = experiment, name, run_id
        self.tags, self.params, self._on_started = dict(tags or {}), dict(params or {}), on_started
        self.last_error = ""
        self.rejected: list[str] = []
        self._opened = False  # whether this start has created or reopened the MLflow run
        self._queue: queue.Queue[Operation | None] = queue.Queue(QUEUE_LENGTH)
        self._spooled = self._read_spool()
        self._unsent: list[Operation] = list(self._spooled)
        self._failures, self._not_before = 0, 0.0
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics; does not block."""
        stamp = int(time.time() * 1000)
        self._put({"do": "metrics", "values": dict(values), "step": step, "time": stamp})

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags; does not block."""
        self._put({"do": "tags", "values": dict(values)})

    def log_inputs(self, datasets: Sequence[Mapping[str, str]]) -> None:
        """Log the data sets of the run, as from ``describe_datasets``; does not block."""
        self._put({"do": "inputs", "datasets": [dict(dataset) for dataset in datasets]})

    def log_text(self, path: str, content: str) -> None:
        """Log a text as an artifact; does not block."""
        self._put({"do": "text", "path": path, "content": content})

    def log_artifacts(self, folder: Folder, path: str) -> None:
        """Log the files of a folder as artifacts under ``path``; does not block."""
        self._put({"do": "artifacts", "folder": folder.uri, "path": path})

    def close(self, status: str, timeout: float = 60.0) -> bool:
        """End the run; records that are not sent within ``timeout`` seconds are spooled.

        Args:
            status: FINISHED, FAILED or RUNNING (to be continued).

        Returns:
            whether everything was sent.
        """
        self._put({"do": "end", "status": status})
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout)
        self._thread.join(timeout)
        left = [*self._unsent, *self._drain()]
        if left:
            logger.info("%d records are not sent, kept in %s", len(left), self.folder.path(SPOOL_FILE))
            self.folder.write(SPOOL_FILE, "".join(json.dumps(o) + "\n" for o in left))
        else:
            self.folder.remove(SPOOL_FILE)
        return not left

    def _put(self, operation: Operation) -> None:
        try:
            self._queue.put_nowait(operation)
        except queue.Full:  # the server hangs; do not block
            self._unsent.append(operation)

    def _drain(self) -> Iterator[Operation]:
        while True:
            try:
                operation = self._queue.get_nowait()
            except queue.Empty:
                return
            if operation is not None:
                yield operation

    def _read_spool(self) -> list[Operation]:
        try:
            lines = self.folder.read(SPOOL_FILE).decode().splitlines()
        except FileNotFoundError:
            return []
        logger.info("%d records of an earlier start are sent again", len(lines))
        return [o for o in map(json.loads, lines) if o["do"] != "end"]

    def _work(self) -> None:
        while (operation := self._queue.get()) is not None:
            self._unsent.append(operation)
            self._send_unsent()
        self._not_before = 0.0
        self._send_unsent()

    def _send_unsent(self) -> None:
        """Send in order until an attempt fails; then not again before the retry delay is over."""
        if time.monotonic() < self._not_before:
            return
        try:
            client = self._open()
            max_metrics = METRICS_PER_CALL
            while self._unsent:
                batch = first_batch(self._unsent, max_metrics)
                try:
                    self._send(client, batch)
                except Exception as error:
                    if not _is_permanent(error):
                        raise
                    if len(batch) > 1:  # send one at a time to find the rejected record
                        max_metrics = 1
                        continue
                    # Skip it: the queue is ordered, one rejected record would block the rest.
                    self.rejected.append(first_line(error))
                    logger.warning("MLflow rejects a record (%s): %s", batch[0]["do"], first_line(error))
                del self._unsent[: len(batch)]
            self._failures = 0
        except Exception as error:  # a server's failure must not end the training
            self.last_error = first_line(error)
            delay = RETRY_DELAYS[min(self._failures, len(RETRY_DELAYS) - 1)]
            waiting = len(self._unsent)
            logger.info("MLflow: %d records wait for %g s (%s)", waiting, delay, error, exc_info=True)
            self._not_before = time.monotonic() + delay
            self._failures += 1

    def _open(self) -> MlflowClient:
        where = prepare_mlflow(self.storage)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient()
        if self._opened:
            return client
        if self.run_id:
            client.set_terminated(self.run_id, "RUNNING", end_time=0)
            self._send(client, [{"do": "tags", "values": self.tags}])
        else:
            found = client.get_experiment_by_name(self.experiment)
            if found is None:
                location = None if where.startswith("http") else self.storage.join("mlartifacts").uri
                with contextlib.suppress(MlflowException):  # another process has created it
                    client.create_experiment(self.experiment, artifact_location=location)
                found = client.get_experiment_by_name(self.experiment)
            run = client.create_run(found.experiment_id, run_name=self.name, tags=self.tags)
            self.run_id = run.info.run_id
            self._on_started(self.run_id)
            self._unsent.insert(0, {"do": "params", "values": {k: str(v) for k, v in self.params.items()}})
        self._opened = True
        return client

    def _send(self, client: MlflowClient, batch: list[Operation]) -> None:
        """Send one operation, or several of kind metrics."""
        from mlflow.entities import Metric, Param, RunTag

        operation = batch[0]
        kind = operation["do"]
        if kind == "metrics":
            metrics = [
                Metric(key, value, row["time"], row["step"])
                for row in batch
                for key, value in row["values"].items()
                if value == value  # MLflow rejects nan
            ]
            client.log_batch(self.run_id, metrics=metrics)
        elif kind == "params":
            params = [Param(k, v[:MAX_VALUE_LENGTH]) for k, v in operation["values"].items()]
            for begin in range(0, len(params), PARAMS_PER_CALL):
                client.log_batch(self.run_id, params=params[begin : begin + PARAMS_PER_CALL])
        elif kind == "tags":
            tags = [RunTag(k, v[:MAX_VALUE_LENGTH]) for k, v in operation["values"].items()]
            client.log_batch(self.run_id, tags=tags)
        elif kind == "inputs":
            client.log_inputs(self.run_id, dataset_inputs(operation["datasets"]))
        elif kind == "text":
            client.log_text(self.run_id, operation["content"], operation["path"])
        elif kind == "artifacts":
            with tempfile.TemporaryDirectory() as scratch:
                local = Folder(operation["folder"]).download(Path(scratch))
                client.log_artifacts(self.run_id, str(local), operation["path"] or None)
        elif kind == "end":
            client.set_terminated(self.run_id, operation["status"])

    def last_step(self, key: str) -> int:
        """The last step of a metric on the server or in the spool; -1 if none is known."""
        spooled = [o["step"] for o in self._spooled if o["do"] == "metrics" and key in o["values"]]
        return int(max(self._step_on_server(key), *spooled, -1))

    def _step_on_server(self, key: str) -> int:
        if not self.run_id:
            return -1
        try:
            prepare_mlflow(self.storage)
            from mlflow import MlflowClient

            history = MlflowClient().get_metric_history(self.run_id, key)
        except Exception as error:
            logger.info("no history of %s on the server (%s)", key, error, exc_info=True)
            return -1
        return max((int(metric.step) for metric in history), default=-1)


def first_batch(operations: list[Operation], max_metrics: int) -> list[Operation]:
    """The first operation; if it is of kind metrics, with those after it that fit into one call."""
    count, metrics = 0, 0
    for operation in operations:
        if operation["do"] != "metrics":
            break
        metrics += len(operation["values"])
        if metrics > max_metrics:
            break
        count += 1
    return operations[: max(count, 1)]


def _is_permanent(error: Exception) -> bool:
    """Whether sending again is useless: the server rejects the record, or its files are gone."""
    invalid = getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE"
    return invalid or isinstance(error, FileNotFoundError)
