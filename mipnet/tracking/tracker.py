"""One MLflow run per training, written by background threads, so that a dead server never blocks training.

Only the driver has a tracker. It sends the run's journal, into which all processes of the run write; what a
server does not take is sent by the next start of the same command.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipnet.console import say
from mipnet.errors import first_line
from mipnet.storage import Folder
from mipnet.tracking.datasets import dataset_inputs
from mipnet.tracking.journal import JOURNAL_FOLDER, Journal, Record
from mipnet.tracking.points import ROW_KINDS, points_of
from mipnet.tracking.sender import POINTS_PER_CALL, Sender, failure_reason, is_external_failure
from mipnet.tracking.store import prepare_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Metric

PARAMS_PER_CALL, MAX_VALUE_LENGTH = 100, 6000
"""MLflow's limits: parameters in one call, characters of their values and of those of tags."""
IDENTITY_TAG = "mipnet.run"
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""MLflow's pages show such an experiment as trainings and models; without, as traces of an application."""
OLD_SPOOL = "tracking.jsonl"
"""In the folders of runs of commit 6e7076c and before: what was not sent."""
RECORD_KINDS = ("metrics", *ROW_KINDS, "tags", "params", "inputs")
ARTIFACT_KINDS = ("text", "file", "artifacts")

logger = logging.getLogger(__name__)


class Tracker:
    """The MLflow run of a training.

    What is logged goes into the run's journal, which no failure loses. Two threads send it, one what is in
    MLflow's database, one artifacts; neither waits for the other, and nobody for them.

    Args:
        storage: where the embedded store and its artifacts lie.
        folder: the run's folder, which has the journal.
        experiment: name; created if it does not exist.
        name: of the run.
        run_id: of the MLflow run to reopen; "" starts one.
        identity: of this run among all of the experiment; by it a MLflow run is found again that was created
            when nobody was left to note its id. "" has none.
        tags: set now, also if the MLflow run is there already.
        on_started: called with the MLflow run's id as soon as there is one.

    Attributes:
        run_id: of the MLflow run; "" as long as there is none.
        rejected: names and errors of the records that the server will never take, which are left out.
    """

    def __init__(
        self,
        storage: Folder,
        folder: Folder,
        experiment: str,
        name: str,
        *,
        run_id: str = "",
        identity: str = "",
        tags: Mapping[str, str] | None = None,
        on_started: Callable[[str], None] = lambda run_id: None,
    ) -> None:
        self.storage, self.folder = storage, folder
        self.experiment, self.name, self.run_id = experiment, name, run_id
        self.tags, self._on_started = dict(tags or {}), on_started
        if identity:
            self.tags[IDENTITY_TAG] = identity
        self.rejected: list[str] = []
        self._opened, self._lock = False, threading.Lock()
        adopt_spool(folder)
        self._records, self._artifacts = Journal(folder, "driver"), Journal(folder, "artifacts")
        if tags:
            self.set_tags(tags)
        self._senders = [
            Sender(folder, "records", RECORD_KINDS, self._open, self._send_records),
            Sender(folder, "artifacts", ARTIFACT_KINDS, self._open, self._send_artifact, in_order=False),
        ]

    @property
    def last_error(self) -> str:
        """Of the last failed attempt to send, in one line; "" if none failed."""
        failing_first = sorted(self._senders, key=lambda sender: not sender.failures)
        return next((sender.last_error for sender in failing_first if sender.last_error), "")

    def log_metrics(
        self, values: Mapping[str, float], step: int, *, once: str = "", time_ms: int | None = None
    ) -> None:
        """Log metrics; does not wait for MLflow.

        Args:
            values: metrics by name.
            step: of the metrics.
            once: if not "", then later metrics of the same ``once`` and step are left out.
            time_ms: when they were measured, in ms since 1970; by default now.
        """
        more: dict[str, Any] = {"once": once} if once else {}
        more |= {"time": time_ms} if time_ms is not None else {}
        self._records.add("metrics", values=dict(values), step=step, **more)

    def log_row(self, kind: str, row: Mapping[str, float]) -> None:
        """Log the metrics of a step, see ``Journal.add_row``; does not wait for MLflow."""
        self._records.add_row(kind, row)

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags; does not wait for MLflow."""
        self._records.add("tags", values=dict(values))

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log parameters, of which MLflow keeps the first value; does not wait for MLflow."""
        self._records.add("params", values={name: str(value) for name, value in values.items()})

    def log_inputs(self, datasets: Sequence[Mapping[str, str]]) -> None:
        """Log the data sets of the run, as from ``describe_datasets``; does not wait for MLflow."""
        self._records.add("inputs", datasets=[dict(dataset) for dataset in datasets])

    def log_text(self, path: str, content: str) -> None:
        """Log a text as an artifact; does not wait for MLflow."""
        self._artifacts.add("text", path=path, content=content)

    def log_file(self, name: str) -> None:
        """Log a file of the run's folder as an artifact of the same name; does not wait for MLflow."""
        self._artifacts.add("file", name=name)

    def log_artifacts(self, folder: Folder, path: str) -> None:
        """Log the files of a folder as artifacts under ``path``; does not wait for MLflow."""
        self._artifacts.add("artifacts", folder=folder.uri, path=path)

    def close(self, status: str, timeout: float = 60.0) -> bool:
        """End the run. What MLflow does not take is sent by the next start.

        Args:
            status: FINISHED, FAILED or RUNNING (to be continued).
            timeout: seconds without progress after which it is given up.

        Returns:
            whether everything was sent.
        """
        written = [journal.flush() for journal in (self._records, self._artifacts)]
        for sender in self._senders:
            sender.end()
        sent = [sender.close(timeout) for sender in self._senders]
        self.rejected += [f"{place}: no record" for place in self._senders[0].damaged]
        if sent[0]:  # a server that answered
            try:
                from mlflow import MlflowClient

                self._call(MlflowClient().set_terminated, status)
            except Exception as error:
                if not is_external_failure(error):
                    raise
                logger.info("MLflow has not ended the run", exc_info=True)
                self._senders[0].last_error = failure_reason(error)
                return False
        return all(written) and all(sent)

    def _open(self) -> str:
        """Create or reopen the MLflow run, if that is not done yet; returns its id."""
        with self._lock:
            if self._opened:
                return self.run_id
            where = prepare_mlflow(self.storage)
            from mlflow import MlflowClient

            client = MlflowClient()
            if not self.run_id or not exists(client, self.run_id):
                self.run_id = self._find_or_create(client, where)
                self._on_started(self.run_id)
            restore(client, self.run_id)
            client.set_terminated(self.run_id, "RUNNING", end_time=0)
            self._opened = True
            return self.run_id

    def _find_or_create(self, client: MlflowClient, where: str) -> str:
        from mlflow.entities import ViewType
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            location = None if where.startswith("http") else self.storage.join("mlartifacts").uri
            with contextlib.suppress(MlflowException):  # another process has created it
                client.create_experiment(self.experiment, artifact_location=location, tags=EXPERIMENT_TAGS)
            found = client.get_experiment_by_name(self.experiment)
        restore_experiment(client, found)
        if identity := self.tags.get(IDENTITY_TAG):
            query = f"tags.`{IDENTITY_TAG}` = '{identity}'"
            runs = client.search_runs([found.experiment_id], query, ViewType.ALL, max_results=1)
            if runs:
                return str(runs[0].info.run_id)
        tags = {name: value[:MAX_VALUE_LENGTH] for name, value in self.tags.items()}
        return str(client.create_run(found.experiment_id, run_name=self.name, tags=tags).info.run_id)

    def _send_records(self, records: list[Record]) -> None:
        """Send records with metrics together, or one of another kind."""
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        client, kind = MlflowClient(), records[0]["do"]
        if kind == "metrics" or kind in ROW_KINDS:
            points: list[Metric] = []
            for record in records:
                try:
                    points += points_of(record)
                except (TypeError, ValueError, KeyError) as error:
                    self._reject(f"{kind} of step {record.get('step')}", error)
            self._send_points(client, points)
            return

        values = {k: str(v)[:MAX_VALUE_LENGTH] for k, v in records[0].get("values", {}).items()}
        try:
            if kind == "tags":
                self._call(client.log_batch, tags=[RunTag(k, v) for k, v in values.items()])
            elif kind == "inputs":
                self._call(client.log_inputs, dataset_inputs(records[0]["datasets"]))
            else:
                known = client.get_run(self.run_id).data.params
                params = [Param(k, v) for k, v in values.items() if k not in known]
                for begin in range(0, len(params), PARAMS_PER_CALL):
                    self._call(client.log_batch, params=params[begin : begin + PARAMS_PER_CALL])
        except Exception as error:
            self._reject(kind, error)

    def _send_points(self, client: MlflowClient, points: list[Metric]) -> None:
        """Send points; where MLflow takes none because of one, all but that one."""
        if not points:
            return
        try:
            self._call(client.log_batch, metrics=points[:POINTS_PER_CALL])
        except Exception as error:
            if len(points) == 1:
                self._reject(f"{points[0].key} of step {points[0].step}", error)
                return
            self._raise_unless_refused(error)
            half = min(len(points), POINTS_PER_CALL) // 2
            self._send_points(client, points[:half])
            self._send_points(client, points[half:])
            return
        self._send_points(client, points[POINTS_PER_CALL:])

    def _send_artifact(self, records: list[Record]) -> None:
        from mlflow import MlflowClient

        client, record = MlflowClient(), records[0]
        try:
            if record["do"] == "text":
                client.log_text(self.run_id, record["content"], record["path"])
            elif record["do"] == "file":
                folder, _, name = record["name"].rpartition("/")
                with tempfile.TemporaryDirectory() as scratch:
                    (Path(scratch) / name).write_bytes(self.folder.read(record["name"]))
                    client.log_artifact(self.run_id, str(Path(scratch) / name), folder or None)
            else:
                with tempfile.TemporaryDirectory() as scratch:
                    local = Folder(record["folder"]).download(Path(scratch))
                    client.log_artifacts(self.run_id, str(local), record["path"] or None)
        except Exception as error:
            self._reject(record.get("path") or record.get("name") or record["do"], error)

    def _call(self, method: Callable[..., object], *arguments: object, **named: object) -> None:
        """Call one of the client's methods for the run, once more if the run was deleted meanwhile."""
        try:
            method(self.run_id, *arguments, **named)
        except Exception as error:
            if not is_invalid(error) or not restore(method.__self__, self.run_id):  # type: ignore[attr-defined]
                raise
            method(self.run_id, *arguments, **named)

    def _reject(self, what: str, error: Exception) -> None:
        """Leave out what no server will ever take.

        Raises:
            Exception: ``error``, if another attempt may help.
        """
        self._raise_unless_refused(error)
        logger.warning("MLflow does not take %s", what, exc_info=error)
        self.rejected.append(f"{what}: {first_line(error)}")

    def _raise_unless_refused(self, error: Exception) -> None:
        if is_external_failure(error) and not is_invalid(error) and not isinstance(error, FileNotFoundError):
            self._opened = False  # by the next attempt it may be another server, or without the run
            raise error


def is_invalid(error: Exception) -> bool:
    """Whether MLflow says that a value is wrong, or that the run is deleted."""
    return getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE"


def exists(client: MlflowClient, run_id: str) -> bool:
    """Whether the server has a MLflow run, deleted or not; raises an error if it does not answer."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        say("MLflow no longer has this run; another one gets all of its records")
        return False
    return True


def restore(client: MlflowClient, run_id: str) -> bool:
    """Undo the deletion of a MLflow run or of its experiment; whether there was one."""
    info = client.get_run(run_id).info
    if restore_experiment(client, client.get_experiment(info.experiment_id)):
        return True
    if info.lifecycle_stage == "active":
        return False
    client.restore_run(run_id)
    say("this run was deleted in MLflow: restored, because it goes on")
    return True


def restore_experiment(client: MlflowClient, experiment: Experiment) -> bool:
    """Undo the deletion of an experiment: it keeps its name, so no other one can have it."""
    if experiment.lifecycle_stage == "active":
        return False
    client.restore_experiment(experiment.experiment_id)
    say(f"the experiment {experiment.name!r} was deleted in MLflow: restored, because this run belongs to it")
    return True


def adopt_spool(folder: Folder) -> None:
    """Move records that an older version could not send into the journal."""
    if folder.exists(OLD_SPOOL):
        folder.write(f"{JOURNAL_FOLDER}/000000-spool-00000000.jsonl", folder.read(OLD_SPOOL))
        folder.remove(OLD_SPOOL)
