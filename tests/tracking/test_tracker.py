"""MLflow from a thread: a dead server holds up nothing and loses nothing."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from mipnet.storage import Folder
from mipnet.tracking.tracker import SPOOL_FILE, Tracker, first_batch, prepare_mlflow, tracking_uri


@pytest.fixture
def storage(tmp_path, monkeypatch) -> Folder:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return Folder.of(tmp_path)


def tracker(storage: Folder, started: list[str], run_id: str = "") -> Tracker:
    folder = storage.join("run")
    return Tracker(
        storage, folder, "test", "a run", run_id=run_id, params={"a": 1}, on_started=started.append
    )


def client(storage: Folder):
    prepare_mlflow(storage)
    from mlflow import MlflowClient

    return MlflowClient()


def test_a_run_is_reopened_not_doubled(storage):
    started: list[str] = []
    first = tracker(storage, started)
    first.log_metrics({"loss": 3.0, "hidden": float("nan")}, 1)
    assert first.close("FAILED")
    second = tracker(storage, started, started[0])
    assert second.last_step("loss") == 1
    second.log_metrics({"loss": 2.0}, 2)
    second.log_text("notes/a.txt", "hello")
    assert second.close("FINISHED")
    assert second.last_step("loss") == 2
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
        answers = threading.Event()
        answered: list[bool] = []

        def hanging_mlflow(storage: Folder) -> str:
            answered.append(answers.wait(60))
            return prepare_mlflow(storage)

        monkeypatch.setattr("mipnet.tracking.tracker.prepare_mlflow", hanging_mlflow)
        dead = tracker(storage, [])
        for step in range(2500):  # more than the queue takes
            dead.log_metrics({"loss": 1.0 / (step + 1)}, step)
        assert not answered  # no record has waited for the server
        answers.set()
        assert not dead.close("FINISHED", timeout=20)
        assert dead.last_error
    spooled = [json.loads(line) for line in storage.join("run").read(SPOOL_FILE).splitlines()]
    assert sorted(o["step"] for o in spooled if o["do"] == "metrics") == list(range(2500))

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    started: list[str] = []
    alive = tracker(storage, started)
    assert alive.close("FINISHED", timeout=300)
    history = client(storage).get_metric_history(started[0], "loss")
    assert sorted(m.step for m in history) == list(range(2500))
    assert client(storage).get_run(started[0]).info.status == "FINISHED"
    assert not storage.join("run").exists(SPOOL_FILE)


DATASET = {
    "name": "coco/val2017",
    "digest": "0123456789ab",
    "source_type": "local",
    "source": '{"uri": "/data/person_keypoints_val2017.json"}',
    "schema": '{"mlflow_colspec": []}',
    "profile": '{"people": 3}',
    "context": "validation, evaluation",
}


def test_all_kinds_of_records_wait_for_the_server_and_reach_it(storage, monkeypatch, tmp_path):
    pictures = storage.join("run/pictures")
    pictures.write("crops.jpg", b"picture")

    def tell(one: Tracker) -> None:
        one.log_inputs([DATASET])
        one.set_tags({"restarts": "1", "long": "x" * 10_000})
        one.log_text("events.json", "[]")
        one.log_artifacts(pictures, "pictures")

    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{reserved.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        dead = tracker(storage, [])
        tell(dead)
        assert not dead.close("FAILED", timeout=20)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    started: list[str] = []
    alive = tracker(storage, started)
    tell(alive)  # the next start tells the same again
    assert alive.close("FINISHED", timeout=60)
    assert not alive.rejected
    found = client(storage).get_run(started[0])
    (dataset,) = found.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("coco/val2017", "0123456789ab")
    assert (dataset.dataset.source, dataset.dataset.profile) == (DATASET["source"], DATASET["profile"])
    assert [(t.key, t.value) for t in dataset.tags] == [("mlflow.data.context", "validation, evaluation")]
    assert found.data.tags["restarts"] == "1"
    assert found.data.tags["long"].startswith("x" * 5000)
    files = {
        a.path for folder in ("", "pictures") for a in client(storage).list_artifacts(started[0], folder)
    }
    assert files == {"events.json", "pictures", "pictures/crops.jpg"}


def test_what_is_refused_holds_up_nothing(storage):
    """A name that no server takes, and pictures that are no longer there."""
    pytest.importorskip("fsspec")
    started: list[str] = []
    one = tracker(storage, started)
    one.log_metrics({"a name: with | what | no name has": 1.0}, 1)
    one.log_artifacts(Folder.of("fsspec+memory://mlflow-test/gone"), "pictures")
    one.log_metrics({"loss": 0.5}, 2)
    assert one.close("FINISHED")
    assert len(one.rejected) == 2
    assert "a name: with" in one.rejected[0]
    history = client(storage).get_metric_history(started[0], "loss")
    assert [m.step for m in history] == [2]


def test_tags_follow_each_start_and_params_stay(storage):
    started: list[str] = []
    for commit in ("aaa", "bbb"):
        one = Tracker(
            storage,
            storage.join("run"),
            "test",
            "a run",
            run_id=started[0] if started else "",
            tags={"mlflow.user": "me", "mlflow.source.git.commit": commit},
            params={f"setting.{n}": f"{commit}{n}" for n in range(150)},  # more than one call takes
            on_started=started.append,
        )
        assert one.close("KILLED")
    found = client(storage).get_run(started[0])
    assert found.info.user_id == "me"
    assert found.data.tags["mlflow.source.git.commit"] == "bbb"
    assert found.data.params == {f"setting.{n}": f"aaa{n}" for n in range(150)}


def test_a_server_that_dies_while_the_run_begins_leaves_one_run_and_its_params(storage, monkeypatch):
    from mlflow import MlflowClient

    log_batch = MlflowClient.log_batch
    answers = iter([False])

    def dies_once(self, *args, **kwargs):
        if next(answers, True):
            return log_batch(self, *args, **kwargs)
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(MlflowClient, "log_batch", dies_once)
    started: list[str] = []
    first = tracker(storage, started)
    assert first.close("FINISHED")  # which tries once more
    assert first.last_error == "the server is gone"
    second = tracker(storage, started, started[0])
    assert second.close("FINISHED")
    assert len(started) == 1
    assert client(storage).get_run(started[0]).data.params == {"a": "1"}


def test_rows_that_wait_in_the_spool_count_as_logged(storage):
    """Or the history in the checkpoint would send them a second time."""
    lines = [{"do": "metrics", "values": {"loss": 1.0}, "step": n, "time": 1} for n in (4, 8)]
    lines.append({"do": "metrics", "values": {"system/cpu": 1.0}, "step": 99, "time": 1})
    storage.join("run").write(SPOOL_FILE, "".join(json.dumps(line) + "\n" for line in lines))
    one = tracker(storage, [])
    assert one.last_step("loss") == 8
    assert one.close("FINISHED")


def test_the_embedded_store_lies_in_the_storage(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(Folder.of(tmp_path)) == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_metrics_travel_together_but_the_order_stays():
    metrics = [{"do": "metrics", "values": dict.fromkeys("abc", 1.0), "step": n} for n in range(5)]
    text = {"do": "text"}
    assert first_batch([*metrics, text], 12) == metrics[:4]
    assert first_batch([*metrics, text], 100) == metrics
    assert first_batch([*metrics, text], 1) == metrics[:1]
    assert first_batch([text, *metrics], 100) == [text]
    assert first_batch([text, text], 100) == [text]
    nothing = {"do": "metrics", "values": {}, "step": 9}
    assert first_batch([nothing, text], 100) == [nothing]
