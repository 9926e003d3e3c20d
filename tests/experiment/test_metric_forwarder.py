"""What the workers tell reaches MLflow, the run's notes and the terminal; restarts are events."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from mipnet.config import preset
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.experiment.metric_forwarder import MetricForwarder, event_line, log_events, note_event
from mipnet.experiment.progress import Progress
from mipnet.run_folder import Run, load_run, open_run
from mipnet.storage import Folder
from mipnet.tracking.journal import Journal, Record


class Recorder:
    """Stands in for the tracker."""

    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, float], int, int | None]] = []
        self.rows: list[dict[str, float]] = []
        self.tags: dict[str, str] = {}
        self.texts: dict[str, str] = {}

    def log_metrics(self, values: dict[str, float], step: int, *, once: str, time_ms: int | None) -> None:
        assert once == "restarts"
        self.logged.append((values, step, time_ms))

    def log_row(self, kind: str, row: dict[str, float]) -> None:
        assert kind == "training"
        self.rows.append(row)

    def set_tags(self, values: dict[str, str]) -> None:
        self.tags |= values

    def log_text(self, path: str, content: str) -> None:
        self.texts[path] = content


def row(step: int) -> dict[str, float]:
    return {
        "step": step,
        "time": 1000 + step,
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
    return MetricForwarder(run, tracker, Progress("training", "step"), 20)


def of_kind(kind: str, row: dict[str, float]) -> Record:
    return {"do": kind, "step": row["step"], "row": row}


STARTED = {"do": "started", "step": 0, "precision": "bf16", "device": "the CPU"}


def test_the_last_line_has_all_that_is_known(
    forwarder: MetricForwarder, capsys: pytest.CaptureFixture[str]
) -> None:
    forwarder.forward(of_kind("validation", validation(16, 0.125)))
    forwarder.forward(of_kind("training", row(20)))
    assert capsys.readouterr().out.splitlines() == [
        "step 16/20  validation occlusion AP 12.5",
        "step 20/20  loss 0.05000  40 samples/s  waiting for data 25%  validation occlusion AP 12.5",
    ]


def test_the_first_start_is_no_event_but_each_further_is(
    forwarder: MetricForwarder, run: Run, tracker: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    forwarder.forward(STARTED)
    assert "events" not in run.state
    forwarder.forward(of_kind("training", row(12)))
    forwarder.forward({"do": "failed", "cause": "worker 0: the node is gone"})
    forwarder.forward({**STARTED, "step": 8})
    forwarder.forward({**STARTED, "step": 16})
    assert capsys.readouterr().out.splitlines() == [
        "training in bf16 on the CPU",
        "workers failed: worker 0: the node is gone; waiting for room for 1 worker(s)",
        "workers restarted at step 8: worker 0: the node is gone",
        "workers restarted at step 16: no word of why",
    ]
    events = load_run(run.folder).state["events"]
    assert [(e["event"], e["step"]) for e in events] == [("restart", 8), ("restart", 16)]
    assert json.loads(tracker.texts["events.json"]) == events
    assert tracker.tags == {"restarts": "2"}


@pytest.mark.parametrize(("failures", "said"), [(1, 0), (2, 2), (5, 3)])
def test_a_failure_is_said_when_it_comes_unless_it_ends_the_training(
    forwarder: MetricForwarder, run: Run, failures: int, said: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error of the command says that."""
    resources = replace(run.config.resources, workers="2:4", max_failures=said)
    run.config = replace(run.config, resources=resources)
    for number in range(failures):
        forwarder.forward({"do": "failed", "cause": f"worker {number}: gone"})
    assert capsys.readouterr().out.splitlines() == [
        f"workers failed: worker {number}: gone; waiting for room for 2 to 4 worker(s)"
        for number in range(said)
    ]


@pytest.mark.parametrize(
    ("seconds", "length"), [(15, "of 15 s"), (-3, "of 0 s"), (None, "without a deadline")]
)
@pytest.mark.parametrize("gone", [False, True])
def test_a_restart_because_of_a_notice_names_node_workers_and_reason(
    forwarder: MetricForwarder,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    seconds: int | None,
    length: str,
    gone: bool,
) -> None:
    message = {"DeathReasonMessage": "AWS: spot" if gone else ""}
    nodes = [{"NodeID": "ab", "Alive": not gone, **message}, {"NodeID": "cd", "Alive": True, **message}]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    forwarder.forward(STARTED)
    noticed = [{"id": "ab", "address": "198.18.1.2", "ranks": [0, 1]}]
    forwarder.forward({"do": "notice", "nodes": noticed, "seconds": seconds})
    forwarder.forward({**STARTED, "step": 8})
    notice = f"notice {length} for 198.18.1.2 (worker 0, 1)"
    cause = f"{notice}: AWS: spot" if gone else notice
    assert capsys.readouterr().out.splitlines()[1:] == [notice, f"workers restarted at step 8: {cause}"]
    (event,) = load_run(run.folder).state["events"]
    assert (event["event"], event["step"], event["cause"]) == ("restart", 8, cause)
    forwarder.forward({"do": "failed", "cause": "worker 0: the node is gone"})  # nothing is left of it
    forwarder.forward({**STARTED, "step": 9})
    assert load_run(run.folder).state["events"][1]["cause"] == "worker 0: the node is gone"


def test_another_number_of_workers_is_the_cause_of_a_restart_or_stands_beside_it(
    forwarder: MetricForwarder, run: Run
) -> None:
    for workers in (1, 2, 2):
        forwarder.forward({**STARTED, "workers": workers})
    forwarder.forward({"do": "failed", "cause": "worker 1: the node is gone"})
    forwarder.forward({**STARTED, "workers": 1})
    assert [event["cause"] for event in run.state["events"]] == [
        "2 worker(s) instead of 1",
        "no word of why",
        "worker 1: the node is gone; 1 worker(s) instead of 2",
    ]


def test_restarts_are_the_same_points_whenever_they_are_logged_and_no_step_has_two(
    run: Run, tracker: Recorder
) -> None:
    run.note(begun=12.5)
    for step in (0, 0, 20, 20):
        note_event(run, tracker, "resume", step, "killed")
    logged = tracker.logged[-5:]
    assert [(*values.values(), step) for values, step, _ in logged] == [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 20),
        (4, 21),
    ]
    assert logged[0][2] == 12_500
    when = datetime.fromisoformat(run.state["events"][3]["time"])
    assert logged[4][2] == when.timestamp() * 1000
    log_events(run, tracker)
    assert tracker.logged[-5:] == logged


def test_what_was_recorded_before_is_not_shown_but_validations_are_noted(
    run: Run, tracker: Recorder, forwarder: MetricForwarder, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process that should have noted them was killed."""
    run.note(validations=[validation(4, 0.1)])
    earlier = Journal(run.folder, "validation")
    for score, step in ((0.9, 4), (0.25, 8)):
        earlier.add_row("validation", validation(step, score))
    earlier.add("started", step=0, precision="bf16", device="the CPU")
    with forwarder:
        Journal(run.folder, "worker").add_row("training", row(20))
    noted = [(v["step"], v[SELECTION_METRIC]) for v in load_run(run.folder).state["validations"]]
    assert noted == [(4, 0.1), (8, 0.25)]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("step 20/20")
    assert line.endswith("validation occlusion AP 25.0")


def test_the_first_validation_of_a_step_counts_and_rows_that_come_again_are_shown(
    run: Run, forwarder: MetricForwarder, capsys: pytest.CaptureFixture[str]
) -> None:
    with forwarder:
        for _ in range(2):
            again = Journal(run.folder, "worker")
            again.add_row("validation", validation(4, 0.5))
            again.add_row("training", row(20))
    said = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in said] == ["step 4/20", "step 20/20"]
    assert len(run.state["validations"]) == 1
    assert forwarder.progress.done == 20


def test_a_gap_between_journal_and_history_is_filled(
    run: Run, tracker: Recorder, forwarder: MetricForwarder
) -> None:
    journal = Journal(run.folder, "worker")
    journal.add_row("training", row(4))
    journal.add_row("validation", validation(4, 0.5))
    old = {name: value for name, value in row(2).items() if name != "time"}  # of an older version
    forwarder.settle([old, row(4), row(8), row(12)])
    assert tracker.rows == [row(8), row(12)]
    assert [v["step"] for v in run.state["validations"]] == [4]


@pytest.mark.parametrize(
    "odd", [{"do": "training"}, {"do": "training", "row": 3}, {"do": "validation", "row": {"step": "x"}}]
)
def test_an_odd_record_is_named_and_ends_nothing(
    run: Run, forwarder: MetricForwarder, capsys: pytest.CaptureFixture[str], odd: Record
) -> None:
    odd = {**odd, "note": str(run.folder)}
    with forwarder:
        journal = Journal(run.folder, "worker")
        journal.add(**{"kind" if name == "do" else name: value for name, value in odd.items()})
        journal.add_row("training", row(20))
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("step 20/20")
    assert forwarder.progress.done == 20


def test_a_validation_that_does_not_come_is_named(
    forwarder: MetricForwarder, capsys: pytest.CaptureFixture[str]
) -> None:
    forwarder.forward({"do": "late", "step": 8, "seconds": 605})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(
        "warning: step 8 is not validated after 605 s of waiting (no free GPU?): the training goes"
    )


def test_a_resume_says_where_and_why(run: Run, tracker: Recorder) -> None:
    note_event(run, tracker, "resume", 12, "interrupted")
    assert event_line(run.state["events"][0]) == "resumed at step 12: interrupted"
    assert run.state["events"][0]["time"][:2] == "20"
