"""A run that ended early is finished, and the same command trains it on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mipnet.config import Config, preset
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.experiment import training_run
from mipnet.experiment.early_end import EARLIER_VERSIONS
from mipnet.experiment.training_run import complete_run, finish
from mipnet.registry.model_card import CardFacts, model_card
from mipnet.run_folder import RESULTS_FOLDER, Run, load_run, open_run
from mipnet.storage import Folder

TIME = {"why": "time limit of 2 hours", "patience": 0}
PATIENCE = {"why": "no better occlusion AP for 3 validations", "patience": 3}


def config(**train: Any) -> Config:
    base = preset("debug")
    tracking = replace(base.tracking, register=False)
    return replace(base, tracking=tracking, train=replace(base.train, **train))


def finished(storage: Folder, ended: dict[str, Any] | None, settings: Config) -> Run:
    run = open_run(storage, settings)
    run.folder.write(f"{RESULTS_FOLDER}/table.txt", "AP 50.0")
    trained = {"steps": 4, "best": {"step": 4, SELECTION_METRIC: 0.5}, **({"ended": ended} if ended else {})}
    run.note(trained=trained, evaluated=True, seconds={"training": 60.0}, begun=1.0, version="7")
    finish(run, storage, sent=True)
    return run


@pytest.mark.parametrize(
    ("ended", "first", "now", "goes_on"),
    [
        (None, {}, {}, False),
        (TIME, {"max_hours": 2.0}, {"max_hours": 2.0}, True),
        (TIME, {"max_hours": 2.0}, {}, True),
        (PATIENCE, {"patience": 3}, {"patience": 3}, False),
        (PATIENCE, {"patience": 3}, {"patience": 2}, False),
        (PATIENCE, {"patience": 3}, {"patience": 4}, True),
        (PATIENCE, {"patience": 3}, {}, True),
        (PATIENCE, {"patience": 3}, {"patience": 3, "max_hours": 1.0}, False),
    ],
)
def test_the_same_command_trains_on_where_that_makes_steps(
    ended: dict[str, Any] | None,
    first: dict[str, Any],
    now: dict[str, Any],
    goes_on: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    storage = Folder.of(tmp_path)
    reopened: list[dict[str, Any]] = []

    def run_phases(run: Run, *_: Any) -> bool:
        reopened.append(dict(load_run(run.folder).state))
        run.note(trained={"steps": 8, "best": {"step": 4, SELECTION_METRIC: 0.5}}, version="8")
        return True

    monkeypatch.setattr(training_run, "run_phases", run_phases)
    made = finished(storage, ended, config(**first))
    summary = made.folder.read("summary.txt").decode()
    assert ("ended early: " + (ended["why"] if ended else "") in summary) == bool(ended)
    again = complete_run(config(**now), storage, "", False, verbose=False)
    assert again.name == made.name
    assert bool(reopened) == goes_on
    if goes_on:
        assert ended is not None
        (state,) = reopened
        assert not state.keys() & {"trained", "evaluated", "finished", "owed", "version"}
        assert (state["ended"], state[EARLIER_VERSIONS]) == (ended["why"], ["7"])
        assert again.state["version"] == "8"
        assert "ended early" not in again.folder.read("summary.txt").decode()
        reopened.clear()
        complete_run(config(**now), storage, "", False, verbose=False)
        assert not reopened  # all of its steps are made
    said = capsys.readouterr().out
    assert ("is finished; --new starts another" in said) == (ended is None or goes_on)
    how = "is finished: no better occlusion AP for 3 validations; --train.patience 4 or more, or 0, trains on"
    assert (how in said) == (not goes_on and ended == PATIENCE)


def test_the_model_card_says_it() -> None:
    trained = {"steps": 4, "best": {"step": 4}, "ended": PATIENCE}
    found = CardFacts("mine", config(), {"trained": trained}, {"hard/det5/merged/AP": 0.5})
    assert PATIENCE["why"] in model_card(found, "mine")
    assert PATIENCE["why"] not in model_card(replace(found, state={"trained": {"steps": 4}}), "mine")
