"""The folders of a search: what is found again, what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from mipnet.config import Config, from_dict
from mipnet.errors import UserError
from mipnet.run_folder import Run
from mipnet.storage import Folder
from tune.ranking import rank_points
from tune.search_space import Point
from tune.successive_halving import Score, Trial
from tune.summary import SearchSummary, search_json
from tune.trial_folders import (
    TRIAL_KEY,
    last_epoch_primary_loss,
    network_costs,
    note_failure,
    note_scores,
    open_search,
    open_trial,
    read_trials,
    search_name,
)

SEARCH_SPEC = {"space_name": "placement", "space": {}, "sampler": "grid", "halving": None}
POINT = Point(2, (1, 3), 4, 5e-3)


def test_the_same_question_is_the_same_search(debug: Config, tmp_path) -> None:
    storage = Folder.of(tmp_path)
    name = search_name(debug, "placement", SEARCH_SPEC)
    assert name.startswith("debug-placement-")
    first = open_search(storage, name, debug, SEARCH_SPEC, new=False)
    first.note(mlflow_run="abc")
    more_workers = from_dict({"resources": {"workers": 2}}, debug)
    again = open_search(storage, name, more_workers, SEARCH_SPEC, new=False)
    assert again.state["mlflow_run"] == "abc"
    assert again.config.resources.workers == 2
    assert search_name(more_workers, "placement", SEARCH_SPEC) == name
    other = open_search(storage, name, debug, SEARCH_SPEC, new=True)
    assert (other.name, other.state.get("mlflow_run")) == (f"{name}-2", None)


@pytest.mark.parametrize(("setting", "spec"), [({"train": {"epochs": 4}}, {}), ({}, {"sampler": "tpe"})])
def test_another_question_needs_another_name(debug: Config, tmp_path, setting: dict, spec: dict) -> None:
    storage = Folder.of(tmp_path)
    open_search(storage, "mine", debug, SEARCH_SPEC, new=False)
    config = from_dict(setting, debug)
    with pytest.raises(UserError, match="search mine exists with other settings; give another --name"):
        open_search(storage, "mine", config, {**SEARCH_SPEC, **spec}, new=False)
    assert search_name(config, "placement", {**SEARCH_SPEC, **spec}) != search_name(
        debug, "placement", SEARCH_SPEC
    )


def test_a_trial_is_read_back_as_it_was_noted(search: Run) -> None:
    trial = Trial(POINT, 3, 5, target_epochs=1)
    run = open_trial(search, trial)
    assert run.folder.uri == search.folder.path("runs/n2-p1.3-r4-lr0.005-s3")
    ((found, _),) = read_trials(search)
    assert (found, found.done) == (trial, False)

    history = [{"step": float(s), "loss": 1.0, "loss/lambda0": 1.0 / s} for s in range(1, 11)]
    choices = [
        {"discount": 0.9, "oks_nms": t, "occlusion_AP": ap, "metrics": {}}
        for t, ap in ((0.8, 0.1), (0.9, 0.2))
    ]
    note_scores(run, 1, 10, history, choices)
    ((found, _),) = read_trials(search)
    assert found.scores == {1: Score(0.2, pytest.approx(sum(1 / s for s in range(1, 11)) / 10))}
    assert found.done
    open_trial(search, replace(trial, target_epochs=3))  # promoted
    ((found, run),) = read_trials(search)
    assert (found.target_epochs, found.done, list(found.scores)) == (3, False, [1])
    assert run.state[TRIAL_KEY]["steps_per_epoch"] == 10


def test_failures_stay_unless_they_are_to_be_tried_again(search: Run) -> None:
    run = open_trial(search, Trial(POINT, 0, 0, 3))
    note_failure(run, "no\nmemory")
    ((found, _),) = read_trials(search)
    assert (found.failed, found.done) == ("no memory", True)
    ((found, _),) = read_trials(search, retry=True)
    assert (found.failed, found.done) == ("", False)
    ((found, _),) = read_trials(search)
    assert found.failed == ""


def test_a_folder_that_was_cut_off_while_it_was_made_is_no_trial(search: Run) -> None:
    open_trial(search, Trial(POINT, 0, 0, 3))
    state = search.folder.join("runs/n2-p1.3-r4-lr0.005-s0")
    state.remove("run.json")
    assert read_trials(search) == []
    open_trial(search, Trial(POINT, 0, 0, 3))
    assert len(read_trials(search)) == 1
    assert json.loads(state.read("run.json"))[TRIAL_KEY] == {"number": 0, "until": 3}


def test_the_loss_is_that_of_the_last_epoch(search: Run) -> None:
    rows = [{"step": 5.0, "loss/lambda0": 9.0}, {"step": 15.0, "loss/lambda0": 2.0}]
    rows += [{"step": 20.0, "loss/lambda0": 4.0}, {"step": 20.0, "loss/lambda0": math.nan}]
    assert last_epoch_primary_loss(rows, 10) == 3.0
    assert last_epoch_primary_loss([], 10) == math.inf


def test_costs_are_of_all_instances(debug: Config) -> None:
    one = network_costs(Point(1, (), 4, 5e-3).apply_to(debug, 0))
    two = network_costs(Point(2, (3,), 4, 5e-3).apply_to(debug, 0))
    early = network_costs(Point(2, (1,), 4, 5e-3).apply_to(debug, 0))
    assert one[0] < two[0] < early[0]
    assert early[0] < 2 * one[0] * 1.05
    assert one[1] < two[1]


def test_a_search_of_commit_3205fb3_is_read(search: Run) -> None:
    choice = {"discount": 0.9, "oks_nms": 0.9, "occlusion_AP": 0.2, "metrics": {"val/det5/merged/AP": 0.2}}
    scored = {
        "scores": {"3": [0.2, 0.01]},
        "choices": [choice],
        "steps_per_epoch": 10.0,
        "losses": [[0.5, 0.02]],
    }
    run = open_trial(search, Trial(POINT, 0, 0, 3))
    state = {
        "trial": {"number": 4, "until": 3, "evaluated": [0.9, 0.9], **scored},
        "seconds": {"training": 1.0},
    }
    run.folder.write("run.json", json.dumps(state))
    run.folder.write("results/metrics.json", "{}")
    search.folder.write("run.json", json.dumps({"asked": SEARCH_SPEC, "over": True, "mlflow_run": "abc"}))
    storage = Folder(search.folder.uri.rpartition("/searches/")[0])
    again = open_search(storage, search.name, search.config, SEARCH_SPEC, new=False)
    ((trial, _),) = read_trials(again)
    assert (trial.number, trial.done, trial.scores) == (4, True, {3: Score(0.2, 0.01)})
    found = json.loads(search_json(SearchSummary(again, rank_points(read_trials(again), again.config))))
    assert (found["finished"], found["sampler"], found["best"]) == (True, "grid", POINT.name)
