"""What the workers tell reaches MLflow, the run's notes and the terminal; restarts are events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mipnet.config import preset
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.experiment.metric_forwarder import MetricForwarder, event_line, note_event
from mipnet.experiment.progress import Progress
from mipnet.run_folder import Run, load_run, open_run
from mipnet.storage import Folder


class Recorder:
    """Stands in for the tracker."""

    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, float], int]] = []
        self.tags: dict[str, str] = {}
        self.texts: dict[str, str] = {}

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.logged.append((values, step))

    def set_tags(self, values: dict[str, str]) -> None:
        self.tags |= values

    def log_text(self, path: str, content: str) -> None:
        self.texts[path] = content


def row(step: int) -> dict[str, float]:
    return {
        "step": step,
        "loss": 1 / step,
        "loss/lambda0": 2 / step,
        "samples_per_second": 40.0,
        "waited_for_data": 0.25,
    }


def validation(step: int, score: float) -> dict[str, float]:
    return {"step": step, SELECTION_METRIC: score, "val/det5/merged/AP": score}


@pytest.fixture
def run(tmp_path: Any) -> Run:
    return open_run(Folder.of(tmp_path), preset("debug"), "mine")


@pytest.fixture
def tracker() -> Recorder:
    return Recorder()


@pytest.fixture
def forwarder(run: Run, tracker: Recorder) -> MetricForwarder:
    return MetricForwarder(None, run, tracker, Progress("training", "step"), 20)


STARTED = {"started": 0, "precision": "bf16", "device": "the CPU"}


def test_metrics_have_the_names_that_the_pages_group_by(
    forwarder: MetricForwarder, tracker: Recorder
) -> None:
    forwarder.forward(row(4))
    forwarder.forward(validation(4, 0.5))
    assert tracker.logged == [
        (
            {
                "learning/loss": 0.25,
                "learning/loss_lambda0": 0.5,
                "learning/samples_per_second": 40.0,
                "learning/waited_for_data": 0.25,
            },
            4,
        ),
        ({f"learning/{SELECTION_METRIC}": 0.5, "learning/val/det5/merged/AP": 0.5}, 4),
    ]


def test_the_last_line_has_all_that_is_known(
    forwarder: MetricForwarder, capsys: pytest.CaptureFixture[str]
) -> None:
    forwarder.forward(validation(16, 0.125))
    forwarder.forward(row(20))
    assert capsys.readouterr().out.splitlines() == [
        "step 16/20  validation occlusion AP 12.5",
        "step 20/20  loss 0.05000  40 samples/s  waiting for data 25%  validation occlusion AP 12.5",
    ]


def test_the_first_start_is_no_event_but_each_further_is(
    forwarder: MetricForwarder, run: Run, tracker: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    forwarder.forward(STARTED)
    assert "events" not in run.state
    forwarder.forward(row(12))
    forwarder.forward({"failed": "worker 0: the node is gone"})
    forwarder.forward({**STARTED, "started": 8})
    forwarder.forward({**STARTED, "started": 16})
    assert capsys.readouterr().out.splitlines() == [
        "training in bf16 on the CPU",
        "workers restarted at step 8: worker 0: the node is gone",
        "workers restarted at step 16: no word of why",
    ]
    events = load_run(run.folder).state["events"]
    assert [(e["event"], e["step"]) for e in events] == [("restart", 8), ("restart", 16)]
    assert json.loads(tracker.texts["events.json"]) == events
    assert tracker.tags == {"restarts": "2"}
    assert tracker.logged[1:] == [({"learning/restarts": 1}, 8), ({"learning/restarts": 2}, 16)]


def test_rows_that_come_again_after_a_restart_are_logged_once(
    forwarder: MetricForwarder, tracker: Recorder
) -> None:
    for step in (4, 8, 12):
        forwarder.forward(row(step))
    forwarder.forward({**STARTED, "started": 4})
    for step in (8, 12, 16):
        forwarder.forward(row(step))
    assert [step for values, step in tracker.logged if "learning/loss" in values] == [4, 8, 12, 16]


def test_a_replay_sends_what_the_server_lacks_and_knows_the_last_validation(
    forwarder: MetricForwarder, run: Run, tracker: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    run.note(validations=[validation(4, 0.1), validation(8, 0.25)])
    forwarder.replay([row(4), row(8)], logged=4)
    assert [step for _, step in tracker.logged] == [8]
    forwarder.forward(row(20))
    assert capsys.readouterr().out.rstrip().endswith("validation occlusion AP 25.0")


def test_a_validation_that_is_made_again_replaces_the_first(forwarder: MetricForwarder, run: Run) -> None:
    for step, score in ((4, 0.1), (8, 0.2), (4, 0.3)):
        forwarder.forward(validation(step, score))
    assert sorted((v["step"], v[SELECTION_METRIC]) for v in run.state["validations"]) == [(4, 0.3), (8, 0.2)]


def test_a_resume_says_where_and_why(run: Run, tracker: Recorder) -> None:
    note_event(run, tracker, "resume", 12, "interrupted")
    assert event_line(run.state["events"][0]) == "resumed at step 12: interrupted"
    assert run.state["events"][0]["time"][:2] == "20"
