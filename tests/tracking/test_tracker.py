"""MLflow from a thread: a dead server holds up nothing and loses nothing."""

from __future__ import annotations

import json
import socket
import time

import pytest

from mipnet.storage import Folder
from mipnet.tracking.tracker import SPOOL, Tracker, prepare_mlflow, tracking_uri


@pytest.fixture
def storage(tmp_path, monkeypatch) -> Folder:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return Folder.of(tmp_path)


def tracker(storage: Folder, started: list[str], run_id: str = "") -> Tracker:
    folder = storage.join("run")
    return Tracker(storage, folder, "test", "a run", run_id, params={"a": 1}, on_started=started.append)


def client(storage: Folder):
    prepare_mlflow(storage)
    from mlflow import MlflowClient

    return MlflowClient()


def test_a_run_is_reopened_not_doubled(storage):
    started: list[str] = []
    first = tracker(storage, started)
    first.metrics({"loss": 3.0, "hidden": float("nan")}, 1)
    assert first.close("FAILED")
    second = tracker(storage, started, started[0])
    second.metrics({"loss": 2.0}, 2)
    second.text("notes/a.txt", "hello")
    assert second.last_step() in (1, 2)
    assert second.close("FINISHED")
    mlflow = client(storage)
    (run,) = mlflow.search_runs([e.experiment_id for e in mlflow.search_experiments()])
    assert started == [run.info.run_id]
    assert run.info.status == "FINISHED"
    assert run.data.params == {"a": "1"}
    history = mlflow.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 3.0), (2, 2.0)]
    assert "hidden" not in run.data.metrics


def test_a_dead_server_costs_no_time_and_loses_nothing(storage, monkeypatch, tmp_path):
    with socket.socket() as reserved:  # a port that nobody listens on
        reserved.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{reserved.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        dead = tracker(storage, [])
        begin = time.monotonic()
        for step in range(2500):  # more than the queue takes
            dead.metrics({"loss": 1.0 / (step + 1)}, step)
        assert time.monotonic() - begin < 5
        assert not dead.close("FINISHED", patience=20)
        assert dead.problem
    spooled = [json.loads(line) for line in storage.join("run").read(SPOOL).splitlines()]
    assert sorted(o["step"] for o in spooled if o["do"] == "metrics") == list(range(2500))

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    started: list[str] = []
    alive = tracker(storage, started)
    assert alive.close("FINISHED", patience=300)
    history = client(storage).get_metric_history(started[0], "loss")
    assert sorted(m.step for m in history) == list(range(2500))
    assert client(storage).get_run(started[0]).info.status == "FINISHED"
    assert not storage.join("run").exists(SPOOL)


def test_the_embedded_store_lies_in_the_storage(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(Folder.of(tmp_path)) == f"sqlite:///{tmp_path / 'mlflow.db'}"
