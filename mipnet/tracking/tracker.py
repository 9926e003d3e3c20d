"""One MLflow run per training, written by a thread of its own so that a dead server cannot hold up anything.

Only the driver has a tracker. Everything it is told is put into a bounded queue; what the server does not
take is kept in the run's folder and sent when the same command runs again.
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

SPOOL = "tracking.jsonl"
SQLITE = "sqlite:///"
QUEUE_LENGTH = 2000
RETRY_SECONDS = (5.0, 15.0, 60.0)
# MLflow's limits: of metrics; of params and tags.
METRICS_PER_CALL = 1000
VALUES_PER_CALL, LONGEST_VALUE = 100, 6000

Operation = dict[str, Any]


def tracking_uri(storage: Folder) -> str:
    """MLFLOW_TRACKING_URI, else an SQLite file in the storage (on object stores: beside the default one)."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return uri
    home = storage if storage.is_local else default_storage()
    return f"{SQLITE}{home.local_path / 'mlflow.db'}"


def prepare_mlflow(storage: Folder) -> str:
    """Point this process's MLflow at the tracking store, quietly and with short patience; returns its URI."""
    uri = tracking_uri(storage)
    if uri.startswith(SQLITE):
        Path(uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
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

    for name in ("mlflow", "alembic"):  # after the import, which sets them anew
        logging.getLogger(name).setLevel(logging.ERROR)
    named = "MLFLOW_TRACKING_URI" in os.environ
    mlflow.set_tracking_uri(uri)
    if not named:  # MLflow has set it for subprocesses, but the next storage has a store of its own
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    return uri


class Tracker:
    """The MLflow run of a training.

    Args:
        storage: where the embedded store and its artifacts lie.
        folder: the run's folder; what could not be sent waits there.
        experiment: is made if it does not exist.
        name: of the run.
        run_id: of the MLflow run to reopen; "" starts one.
        tags: set at every start: they say what the run is carried out with now.
        params: set once, when the run is started.
        on_started: told the MLflow run's id as soon as there is one.
    """

    def __init__(
        self,
        storage: Folder,
        folder: Folder,
        experiment: str,
        name: str,
        run_id: str = "",
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        on_started: Callable[[str], None] = lambda run_id: None,
    ) -> None:
        self.storage, self.folder = storage, folder
        self.experiment, self.name, self.run_id = experiment, name, run_id
        self.tags, self.params, self._on_started = dict(tags or {}), dict(params or {}), on_started
        self.problem = ""
        self.refused: list[str] = []
        self._opened = False
        self._queue: queue.Queue[Operation | None] = queue.Queue(QUEUE_LENGTH)
        self._spooled = self._read_spool()
        self._unsent: list[Operation] = list(self._spooled)
        self._failures, self._not_before = 0, 0.0
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers; returns at once."""
        stamp = int(time.time() * 1000)
        self._put({"do": "metrics", "values": dict(values), "step": step, "time": stamp})

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags; returns at once."""
        self._put({"do": "tags", "values": dict(values)})

    def inputs(self, datasets: Sequence[Mapping[str, str]]) -> None:
        """Name the data sets that go into the run (``mipnet.tracking.datasets``); returns at once."""
        self._put({"do": "inputs", "datasets": [dict(dataset) for dataset in datasets]})

    def text(self, path: str, content: str) -> None:
        """Keep a text as an artifact; returns at once."""
        self._put({"do": "text", "path": path, "content": content})

    def artifacts(self, folder: Folder, path: str) -> None:
        """Keep the files of a folder as artifacts; returns at once."""
        self._put({"do": "artifacts", "folder": folder.uri, "path": path})

    def close(self, status: str, patience: float = 60.0) -> bool:
        """End the run; what is not sent within ``patience`` seconds is kept for the next time.

        Args:
            status: FINISHED, FAILED or RUNNING (to be continued).

        Returns:
            Whether everything was sent.
        """
        self._put({"do": "end", "status": status})
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=patience)
        self._thread.join(patience)
        left = [*self._unsent, *self._drain()]
        if left:
            self.folder.write(SPOOL, "".join(json.dumps(o) + "\n" for o in left))
        else:
            self.folder.remove(SPOOL)
        return not left

    def _put(self, operation: Operation) -> None:
        try:
            self._queue.put_nowait(operation)
        except queue.Full:  # the server hangs; the thread must not be waited for
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
            lines = self.folder.read(SPOOL).decode().splitlines()
        except FileNotFoundError:
            return []
        return [o for o in map(json.loads, lines) if o["do"] != "end"]

    def _work(self) -> None:
        while (operation := self._queue.get()) is not None:
            self._unsent.append(operation)
            self._send_unsent()
        self._not_before = 0.0
        self._send_unsent()

    def _send_unsent(self) -> None:
        """Send in order until something fails; then wait before the next try."""
        if time.monotonic() < self._not_before:
            return
        try:
            client = self._open()
            most = METRICS_PER_CALL
            while self._unsent:
                batch = _first_batch(self._unsent, most)
                try:
                    self._send(client, batch)
                except Exception as error:
                    if not _is_refusal(error):
                        raise
                    if len(batch) > 1:  # find the one that it is about
                        most = 1
                        continue
                    self.refused.append(first_line(error))  # or all that comes after it would wait for ever
                del self._unsent[: len(batch)]
            self._failures = 0
        except Exception as error:  # whatever the server does, training goes on
            self.problem = first_line(error)
            self._not_before = time.monotonic() + RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)]
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
                place = None if where.startswith("http") else self.storage.join("mlartifacts").uri
                with contextlib.suppress(MlflowException):  # somebody else was quicker
                    client.create_experiment(self.experiment, artifact_location=place)
                found = client.get_experiment_by_name(self.experiment)
            run = client.create_run(found.experiment_id, run_name=self.name, tags=self.tags)
            self.run_id = run.info.run_id
            self._on_started(self.run_id)
            self._unsent.insert(0, {"do": "params", "values": {k: str(v) for k, v in self.params.items()}})
        self._opened = True
        return client

    def _send(self, client: MlflowClient, batch: list[Operation]) -> None:
        """Send one operation, or several of metrics."""
        from mlflow.entities import Metric, Param, RunTag

        operation = batch[0]
        kind = operation["do"]
        if kind == "metrics":
            metrics = [
                Metric(key, value, row["time"], row["step"])
                for row in batch
                for key, value in row["values"].items()
                if value == value  # MLflow takes no nan
            ]
            client.log_batch(self.run_id, metrics=metrics)
        elif kind == "params":
            params = [Param(k, v[:LONGEST_VALUE]) for k, v in operation["values"].items()]
            for begin in range(0, len(params), VALUES_PER_CALL):
                client.log_batch(self.run_id, params=params[begin : begin + VALUES_PER_CALL])
        elif kind == "tags":
            tags = [RunTag(k, v[:LONGEST_VALUE]) for k, v in operation["values"].items()]
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
        """The last step of a metric that the server has or is about to get; -1 if none is known."""
        waiting = [o["step"] for o in self._spooled if o["do"] == "metrics" and key in o["values"]]
        return max(self._step_on_server(key), *waiting, -1)

    def _step_on_server(self, key: str) -> int:
        if not self.run_id:
            return -1
        try:
            prepare_mlflow(self.storage)
            from mlflow import MlflowClient

            history = MlflowClient().get_metric_history(self.run_id, key)
        except Exception:
            return -1
        return max((metric.step for metric in history), default=-1)


def _first_batch(operations: list[Operation], most: int) -> list[Operation]:
    """The first operation, with those of metrics that come right after it and fit into one call."""
    count, metrics = 0, 0
    for operation in operations:
        if operation["do"] != "metrics":
            break
        metrics += len(operation["values"])
        if metrics > most:
            break
        count += 1
    return operations[: max(count, 1)]


def _is_refusal(error: Exception) -> bool:
    """Whether the server understood and will never take it, or what was to be sent is no longer there."""
    invalid = getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE"
    return invalid or isinstance(error, FileNotFoundError)
