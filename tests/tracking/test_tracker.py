"""MLflow from a thread: a dead server holds up nothing and loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest

from mipnet.storage import Folder
from mipnet.tracking import sender
from mipnet.tracking.journal import JOURNAL_FOLDER, Entry, Journal
from mipnet.tracking.sender import first_batch
from mipnet.tracking.store import prepare_mlflow, tracking_uri
from mipnet.tracking.tracker import OLD_SPOOL, Tracker


@pytest.fixture(scope="module")
def new_database(tmp_path_factory) -> Path:
    """A database with MLflow's tables, which take seconds to make, and nothing in them."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("database")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        client(Folder.of(folder)).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def storage(tmp_path, new_database, monkeypatch) -> Folder:
    shutil.copy(new_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return Folder.of(tmp_path)


def tracker(storage: Folder, started: list[str], run_id: str = "") -> Tracker:
    one = Tracker(
        storage,
        storage.join("run"),
        "test",
        "a run",
        run_id=run_id,
        identity="abc",
        on_started=started.append,
    )
    one.log_params({"a": 1})
    return one


@pytest.mark.parametrize("broken", [False, True])
def test_only_what_is_on_the_disk_is_sent(tmp_path: Path, monkeypatch, broken: bool) -> None:
    """Else a power cut takes steps from the journal that MLflow has, and they come again."""
    order: list[str] = []

    def sync(file: int) -> None:
        order.append(os.readlink(f"/proc/self/fd/{file}"))
        if broken:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("mipnet.tracking.journal.os.fsync", sync)
    folder = Folder.of(tmp_path)
    Journal(folder, "worker").add("metrics", values={"loss": 1.0}, step=1)
    Journal(folder, "artifacts").add("text", path="a", content="b")
    one = sender.Sender(folder, "records", {"metrics"}, lambda: "id", lambda sent: order.append("sent"))
    assert one.close(60) is not broken
    (written,) = (tmp_path / JOURNAL_FOLDER).glob("*-worker-*")
    assert order[0] == str(written)
    assert set(order) == {str(written)} | ({"sent"} if not broken else set())


def points(storage: Folder, run_id: str, key: str = "loss") -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client(storage).get_metric_history(run_id, key)]


@contextmanager
def dead_server(monkeypatch):
    """MLFLOW_TRACKING_URI names a port that nobody listens on."""
    with socket.socket() as reserved, monkeypatch.context() as patch:
        reserved.bind(("127.0.0.1", 0))
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{reserved.getsockname()[1]}")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        yield


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
    second.log_metrics({"loss": 2.0}, 2)
    second.log_text("notes/a.txt", "hello")
    assert second.close("FINISHED")
    mlflow = client(storage)
    (run,) = mlflow.search_runs([e.experiment_id for e in mlflow.search_experiments()])
    kind = mlflow.get_experiment(run.info.experiment_id).tags["mlflow.experimentKind"]
    assert kind == "custom_model_development"  # MLflow's pages show trainings
    assert started == [run.info.run_id]
    assert run.info.status == "FINISHED"
    assert run.data.params == {"a": "1"}
    history = mlflow.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 3.0), (2, 2.0)]
    assert "hidden" not in run.data.metrics


def test_a_dead_server_costs_no_time_and_loses_nothing(storage, monkeypatch):
    answers = threading.Event()
    answered: list[bool] = []

    def hanging_mlflow(storage: Folder) -> str:
        answered.append(answers.wait(60))
        return prepare_mlflow(storage)

    with dead_server(monkeypatch), monkeypatch.context() as patch:
        patch.setattr("mipnet.tracking.store.prepare_mlflow", hanging_mlflow)
        dead = tracker(storage, [])
        for step in range(1500):
            dead.log_metrics({"loss": 1.0 / (step + 1)}, step)
        assert not answered  # no record has waited for the server
        answers.set()
        assert not dead.close("FINISHED", timeout=20)
        assert dead.last_error

    started: list[str] = []
    alive = tracker(storage, started)
    assert alive.close("FINISHED", timeout=300)
    assert sorted(step for step, _ in points(storage, started[0])) == list(range(1500))
    assert client(storage).get_run(started[0]).info.status == "FINISHED"


DATASET = {
    "name": "coco/val2017",
    "digest": "0123456789ab",
    "source_type": "local",
    "source": '{"uri": "/data/person_keypoints_val2017.json"}',
    "schema": '{"mlflow_colspec": []}',
    "profile": '{"people": 3}',
    "context": "validation, evaluation",
}


def test_all_kinds_of_records_wait_for_the_server_and_reach_it(storage, monkeypatch):
    pictures = storage.join("run/pictures")
    pictures.write("crops.jpg", b"picture")
    storage.join("run").write("run.json", "{}")

    def tell(one: Tracker) -> None:
        one.log_inputs([DATASET])
        one.set_tags({"restarts": "1", "long": "x" * 10_000})
        one.log_text("events.json", "[]")
        one.log_file("run.json")
        one.log_artifacts(pictures, "pictures")

    with dead_server(monkeypatch):
        dead = tracker(storage, [])
        tell(dead)
        assert not dead.close("FAILED", timeout=20)

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
    assert files == {"events.json", "run.json", "pictures", "pictures/crops.jpg"}


@pytest.mark.parametrize(
    ("odd", "name"),
    [({"x" * 300: 1.0}, "x" * 300), ({"loss": "three"}, "metrics of step 1"), (None, "metrics of step 1")],
)
def test_an_odd_record_costs_itself_and_is_named(storage, odd, name):
    started: list[str] = []
    one = tracker(storage, started)
    for step in (0, 2):
        one.log_metrics({"loss": step / 2, "other": 1.0}, step)
    Journal(storage.join("run"), "worker").add("metrics", values=odd, step="one" if odd is None else 1)
    if odd is None:
        Journal(storage.join("run"), "worker").add("metrics", values={"loss": 1.0}, step="1.5")
        name = "metrics of step 1.5"
    one.log_metrics({"loss": 1.5}, 3)
    assert one.close("FINISHED")
    (rejected,) = one.rejected
    assert rejected.startswith(name[:100])
    assert points(storage, started[0]) == [(0, 0.0), (2, 1.0), (3, 1.5)]
    assert len(points(storage, started[0], "other")) == 2


def test_one_point_that_is_refused_costs_no_other_of_its_record(storage):
    started: list[str] = []
    one = tracker(storage, started)
    one.log_metrics({**{f"m{n}": float(n) for n in range(1500)}, "y" * 300: 1.0}, 1)
    assert one.close("FINISHED")
    assert len(one.rejected) == 1
    assert len(client(storage).get_run(started[0]).data.metrics) == 1500


def test_artifacts_that_are_gone_are_named(storage):
    pytest.importorskip("fsspec")
    one = tracker(storage, [])
    one.log_artifacts(Folder.of("fsspec+memory://mlflow-test/gone"), "pictures")
    one.log_file("nothing.html")
    assert one.close("FINISHED")
    assert [line.partition(":")[0] for line in one.rejected] == ["pictures", "nothing.html"]


def test_a_store_that_refuses_artifacts_holds_up_no_metric(storage, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def refuse(*arguments: object) -> None:
        raise MlflowException("403: not with this key")

    started: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifacts", refuse)
        one = tracker(storage, started)
        one.log_artifacts(storage.join("run"), "refused")
        one.log_text("taken.txt", "hello")  # the other way to send artifacts is not refused
        one.log_metrics({"loss": 1.0}, 1)
        assert not one.close("FINISHED")
        assert "403" in one.last_error
        assert not one.rejected
    run = client(storage).get_run(started[0])
    assert (run.data.metrics, run.info.status) == ({"loss": 1.0}, "FINISHED")
    assert {a.path for a in client(storage).list_artifacts(started[0])} == {"taken.txt"}
    assert tracker(storage, started, started[0]).close("FINISHED")
    assert {a.path for a in client(storage).list_artifacts(started[0])} == {"taken.txt", "refused"}
    assert points(storage, started[0]) == [(1, 1.0)]


def delete_run(mlflow, run_id: str) -> None:
    mlflow.delete_run(run_id)


def delete_experiment(mlflow, run_id: str) -> None:
    mlflow.delete_experiment(mlflow.get_run(run_id).info.experiment_id)


@pytest.mark.parametrize("delete", [delete_run, delete_experiment])
@pytest.mark.parametrize("when", ["between starts", "meanwhile"])
def test_what_is_deleted_in_mlflow_is_restored_by_a_run_that_goes_on(
    storage: Folder, delete: Callable[[object, str], None], when: str, capsys
) -> None:
    started: list[str] = []
    one = tracker(storage, started)
    one.log_metrics({"loss": 1.0}, 1)
    if when == "between starts":
        assert one.close("FAILED")
        delete(client(storage), started[0])
        one = tracker(storage, started, started[0])
    else:
        while not (started and points(storage, started[0])):
            threading.Event().wait(0.05)
        delete(client(storage), started[0])
    one.log_metrics({"loss": 2.0}, 2)
    assert one.close("FINISHED")
    assert not one.rejected
    assert points(storage, started[0]) == [(1, 1.0), (2, 2.0)]
    assert "restored" in capsys.readouterr().out
    assert len(started) == 1


def test_another_store_gets_all_records_again(storage, new_database, tmp_path, monkeypatch, capsys):
    started: list[str] = []
    one = tracker(storage, started)
    one.log_metrics({"loss": 1.0}, 1)
    assert one.close("FAILED")
    shutil.copy(new_database, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    two = tracker(storage, started, started[0])
    two.log_metrics({"loss": 2.0}, 2)
    assert two.close("FINISHED")
    assert points(storage, started[1]) == [(1, 1.0), (2, 2.0)]
    assert "another one gets all of its records" in capsys.readouterr().out


def test_an_unknown_run_is_not_a_missing_one(storage, monkeypatch):
    """A server that does not answer is not asked for another run."""
    started: list[str] = []
    assert tracker(storage, started).close("FAILED")
    with dead_server(monkeypatch):
        assert not tracker(storage, started, started[0]).close("FAILED", timeout=20)
    assert tracker(storage, started, started[0]).close("FINISHED")
    assert len(started) == 1


def test_what_is_sent_again_is_the_same_point(storage):
    """Killed before it could keep how far it had come, or between the server's answer and that."""
    started: list[str] = []
    one = tracker(storage, started)
    for step in range(5):
        one.log_metrics({"loss": 1.0 / (step + 1)}, step)
    assert one.close("FAILED")
    storage.join("run").remove("records/sent-records.json")
    assert tracker(storage, started, started[0]).close("FINISHED")
    counts = Counter(step for step, _ in points(storage, started[0]))
    assert counts == Counter(range(5))


def test_what_is_sent_is_not_sent_again(storage, monkeypatch):
    from mlflow import MlflowClient

    started: list[str] = []
    one = tracker(storage, started)
    one.log_metrics({"loss": 1.0}, 1)
    assert one.close("FAILED")
    sent: list[object] = []
    log_batch = MlflowClient.log_batch
    monkeypatch.setattr(
        MlflowClient,
        "log_batch",
        lambda self, *a, **k: (sent.append(k.get("metrics")), log_batch(self, *a, **k)),
    )
    two = tracker(storage, started, started[0])
    two.log_metrics({"loss": 2.0}, 2)
    assert two.close("FINISHED")
    assert [m.step for metrics in sent for m in metrics or ()] == [2]


def test_a_run_that_nobody_noted_is_found_again(storage):
    """Killed between MLflow's answer and the note, or the answer never came."""
    first, second = list[str](), list[str]()
    assert tracker(storage, first).close("FAILED")
    assert tracker(storage, second).close("FINISHED")
    assert first == second


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
            on_started=started.append,
        )
        one.log_params({f"setting.{n}": f"{commit}{n}" for n in range(150)})  # more than one call takes
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
    monkeypatch.setattr(sender, "seconds_between_reads", lambda folder: 60)  # only the end tries again
    first = tracker(storage, started)
    first.close("FINISHED")
    assert first.last_error == "the server is gone"
    second = tracker(storage, started, started[0])
    assert second.close("FINISHED")
    assert len(started) == 1
    assert client(storage).get_run(started[0]).data.params == {"a": "1"}


def test_the_spool_of_an_older_version_is_sent(storage):
    lines = [{"do": "metrics", "values": {"loss": 1.0}, "step": n, "time": 7 + n} for n in (4, 8)]
    lines += [{"do": "tags", "values": {"a": "b"}}, {"do": "text", "path": "a.txt", "content": "hello"}]
    lines.append({"do": "end", "status": "FAILED"})
    storage.join("run").write(OLD_SPOOL, "".join(json.dumps(line) + "\n" for line in lines))
    started: list[str] = []
    for _ in range(2):
        assert tracker(storage, started, started[0] if started else "").close("FINISHED")
    assert points(storage, started[0]) == [(4, 1.0), (8, 1.0)]
    assert client(storage).get_run(started[0]).data.tags["a"] == "b"
    assert client(storage).get_run(started[0]).info.status == "FINISHED"
    assert not storage.join("run").exists(OLD_SPOOL)


def test_the_embedded_store_lies_in_the_storage(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(Folder.of(tmp_path)) == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_metrics_travel_together_but_the_order_stays(monkeypatch):
    def entry(**record: object) -> Entry:
        return Entry("file", 0, dict(record), False)

    metrics = [entry(do="metrics", values=dict.fromkeys("abc", 1.0), step=n) for n in range(5)]
    text, nothing = entry(do="tags", values={"a": "b"}), entry(do="metrics", values={}, step=9)
    for limit, waiting, wanted in (
        (12, [*metrics, text], metrics[:4]),
        (100, [*metrics, text], metrics),
        (1, [*metrics, text], metrics[:1]),
        (100, [text, *metrics], [text]),
        (100, [text, text], [text]),
        (100, [nothing, text], [nothing]),
    ):
        monkeypatch.setattr(sender, "POINTS_PER_CALL", limit)
        assert first_batch(waiting) == wanted
