"""Patience and the time limit end real trainings, which the same command then trains on to the same end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.training.early_end import validations_without_better
from tests.helpers.drills import (
    finish,
    kill_all,
    left_behind,
    only_run,
    start,
    wait_for,
)

pytestmark = [pytest.mark.drill, pytest.mark.ray, pytest.mark.slow]

LOG_STEPS, CHECKPOINT_STEPS, PATIENCE = 16, 6, 2
TRAIN = ["train", "--preset", "debug", "--data.evaluate", "hard", "--data.boxes", "gt"]
TRAIN += ["--train.log-steps", str(LOG_STEPS), "--train.checkpoint-steps", str(CHECKPOINT_STEPS)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    storage = tmp_path_factory.mktemp("undisturbed")
    finish([*TRAIN, "--storage", str(storage)])
    return left_behind(storage)


def patience_ends_at(undisturbed: dict[str, Any], count: int) -> int:
    """The first step with so many validations in a row without a better one."""
    scores = {int(step): row[SELECTION_METRIC] for step, row in undisturbed["validations"].items()}
    until = {step: {s: ap for s, ap in scores.items() if s <= step} for step in sorted(scores)}
    return next(step for step, found in until.items() if validations_without_better(found) >= count)


def state_of(storage: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((only_run(storage) / "run.json").read_text())
    return state


def versions(storage: Path) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    return sorted(str(each.version) for each in client.search_model_versions("name = 'mipnet'"))


def check_early(storage: Path, said: str, step: int, why: str, undisturbed: dict[str, Any]) -> None:
    """It is finished, evaluated and registered, and all places say why it ended."""
    from mlflow import MlflowClient

    state = state_of(storage)
    assert (state["finished"], state["owed"], state["trained"]["steps"]) == (True, False, step)
    assert f"training ended early at step {step}: {why}" in said
    assert f"ended early: {why}" in said  # of the summary
    run = only_run(storage)
    assert why in (run / "model" / "model-card.md").read_text()
    assert why in (run / "report.html").read_text()
    found = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}").get_run(state["mlflow_run"])
    assert (found.info.status, found.data.tags["training.ended"]) == ("FINISHED", why)
    assert max(s for name, s in left_behind(storage)["values"] if name == "learning/loss") == step
    assert state["version"] == versions(storage)[-1]


def check_end(storage: Path, undisturbed: dict[str, Any], early: int) -> None:
    """As the undisturbed run ended, and every point once; beside what was found at the early end."""
    found = left_behind(storage)
    assert set(found["times sent"].values()) == {1}

    def same(key: tuple[str, int]) -> bool:
        return key[1] != early or key in undisturbed["values"]

    assert {k: v for k, v in found["values"].items() if same(k)} == undisturbed["values"]
    more = {name.partition("/")[0] for name, step in found["values"].keys() - undisturbed["values"].keys()}
    assert more <= {"results", "learning"}
    for name in ("best", "weights", "status", "finished", "version"):
        assert found[name] == undisturbed[name], name
    assert "ended" not in state_of(storage)["trained"]


def test_patience(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    step = patience_ends_at(undisturbed, PATIENCE)
    command = [*TRAIN, "--storage", str(tmp_path), "--train.patience"]
    why = f"no better occlusion AP for {PATIENCE} validations"
    said = finish([*command, str(PATIENCE)])
    check_early(tmp_path, said, step, why, undisturbed)
    before = state_of(tmp_path)
    said = finish([*command, str(PATIENCE)])
    assert f"is finished: {why}; --train.patience {PATIENCE + 1} or more, or 0, trains on" in said
    assert state_of(tmp_path) == before
    said = finish([*command, "0"])
    assert f"resumed at step {step}: {why}" in said
    check_end(tmp_path, undisturbed, step)
    assert versions(tmp_path) == ["1", "2"]


@pytest.mark.parametrize("where", ["inline", "beside"])
def test_patience_after_a_kill(where: str, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """It ends at the step at which it would have ended, with the undisturbed run's figures of each step."""
    allowed = PATIENCE + (where == "beside")
    step = patience_ends_at(undisturbed, allowed)
    command = [*TRAIN, "--storage", str(tmp_path), "--validation", where, "--train.patience", str(PATIENCE)]
    driver = start(command)
    wait_for(driver, lambda: list(tmp_path.glob(f"runs/*/training/step-{step - CHECKPOINT_STEPS:08d}")))
    kill_all(driver)
    assert "trained" not in state_of(tmp_path), "the kill came too late to show anything"
    said = finish(command)
    assert "resumed at step" in said
    check_early(tmp_path, said, step, f"no better occlusion AP for {allowed} validations", undisturbed)
    values = left_behind(tmp_path)["values"]
    assert set(left_behind(tmp_path)["times sent"].values()) == {1}
    trained = {key: value for key, value in values.items() if key[0].startswith("learning/")}
    assert trained == {key: value for key, value in undisturbed["values"].items() if key in trained}


def test_time_limit(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """So short that each call of the command ends where it looks at the clock first."""
    command = [*TRAIN, "--storage", str(tmp_path), "--train.max-hours", "0.0001"]
    why = "time limit of 0.0001 hours"
    said = finish(command)
    check_early(tmp_path, said, LOG_STEPS, why, undisturbed)
    said = finish(command)
    assert f"resumed at step {LOG_STEPS}: {why}" in said
    check_end(tmp_path, undisturbed, LOG_STEPS)
    assert versions(tmp_path) == ["1", "2"]
    assert "is finished; --new starts another" in finish(command)
