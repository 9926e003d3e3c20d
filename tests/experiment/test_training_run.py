"""A finished run of which MLflow lacks a part: the same command sends that, without Ray."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from mipnet.config import Config, preset
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.experiment import final_phases, training_run
from mipnet.experiment.training_run import complete_run, finish, new_tracker, summarise
from mipnet.run_folder import RESULTS_FOLDER, Run, load_run, open_run
from mipnet.storage import Folder


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Folder.of(tmp_path)


@pytest.fixture
def config() -> Config:
    base = preset("debug")
    return replace(base, tracking=replace(base.tracking, register=False))


@pytest.fixture
def run(storage: Folder, config: Config) -> Run:
    """Trained and evaluated."""
    made = open_run(storage, config)
    made.folder.write(f"{RESULTS_FOLDER}/table.txt", "AP 50.0")
    best = {"step": 4, SELECTION_METRIC: 0.5}
    made.note(trained={"steps": 4, "best": best}, evaluated=True, seconds={"training": 60.0}, begun=1.0)
    return made


def test_what_is_owed_is_sent_by_the_same_command_without_ray(
    storage: Folder,
    config: Config,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mlflow import MlflowClient

    def refuse(*arguments: object) -> None:
        raise ConnectionError("413 too large")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_text", refuse)
        tracker = new_tracker(run, storage)
        tracker.log_row("training", {"step": 4, "loss": 0.5, "time": 7})
        tracker.log_text("note.txt", "hello")
        sent = training_run.close_tracker(tracker, "FINISHED")
        finish(run, storage, sent)
    assert (
        "MLflow lacks records of this run (413 too large); the same command sends them"
        in capsys.readouterr().out
    )
    noted = load_run(run.folder)
    assert (noted.finished, noted.owed) == (True, True)
    assert "best at step 4" in run.folder.read("summary.txt").decode()

    monkeypatch.setattr(training_run, "run_phases", None)  # nothing is trained again
    again = complete_run(config, storage, "", False, verbose=False)
    assert not again.owed
    client = MlflowClient()
    run_id = again.state["mlflow_run"]
    assert [(p.step, p.timestamp) for p in client.get_metric_history(run_id, "learning/loss")] == [(4, 7)]
    assert [file.path for file in client.list_artifacts(run_id)] == ["note.txt"]
    assert client.get_run(run_id).info.status == "FINISHED"
    complete_run(config, storage, "", False, verbose=False)
    assert "is finished; --new starts another" in capsys.readouterr().out


@pytest.mark.parametrize(("sent", "registered"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_run_is_finished_whatever_mlflow_takes(
    run: Run, storage: Folder, sent: bool, registered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Run] = []

    def register(run: Run, storage: Folder) -> bool:
        asked.append(run)
        return registered

    monkeypatch.setattr(final_phases, "register_phase", register)
    run.config = replace(run.config, tracking=replace(run.config.tracking, register=True))
    finish(run, storage, sent)
    assert (run.finished, run.owed) == (True, not (sent and registered))
    assert asked == [run]  # records that are owed do not keep a model from its registry


@pytest.mark.parametrize("version", [None, 3])
def test_the_commands_that_a_summary_ends_with_can_be_pasted(version: int | None, tmp_path: Path) -> None:
    storage = Folder.of(tmp_path / "a storage & more")
    run = open_run(storage, preset("debug"))
    run.note(seconds={"train": 60.0}, trained={"steps": 9, "best": {"step": 9, SELECTION_METRIC: 0.5}})
    if version:
        run.note(version=version)
    run.folder.write(f"{RESULTS_FOLDER}/table.txt", "table")
    look, predict = summarise(run, storage).splitlines()[-2:]
    assert shlex.split(look)[1:] == ["mipnet", "ui", "--storage", storage.uri]
    model = ["models:/mipnet@candidate", "--storage", storage.uri] if version else [run.folder.path("model")]
    assert shlex.split(predict)[1:] == ["mipnet", "predict", "PICTURES", "--model", *model]
