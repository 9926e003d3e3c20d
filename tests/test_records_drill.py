"""Trainings whose MLflow fails leave what an undisturbed one does: every point once, and the same bits."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import drills
from tests.helpers.drills import (
    GONE,
    HANG,
    Proxy,
    checkpoints,
    kill_all,
    left_behind,
    mlflow_run,
    mlflow_server,
    only_run,
    recorded_steps,
    start,
    training_rows,
    wait_for,
)

pytestmark = [pytest.mark.drill, pytest.mark.ray, pytest.mark.slow]

TRAIN = ["train", "--preset", "debug", "--epochs", "6", "--train.checkpoint-steps", "20"]
TRAIN += ["--data.evaluate", "hard", "--data.boxes", "gt"]


def finish(storage: Path, uri: str = "", status: int = 0) -> str:
    """Run the command to its end."""
    return drills.finish([*TRAIN, "--storage", str(storage)], uri, status)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    storage = tmp_path_factory.mktemp("undisturbed")
    finish(storage)
    found = left_behind(storage)
    assert set(found["times sent"].values()) == {1}
    assert (found["status"], found["finished"], found["version"]) == ("FINISHED", (True, False), True)
    return storage, found


@pytest.fixture
def storage(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """Another storage, which has the rendered data."""
    shutil.copytree(undisturbed[0] / "data", tmp_path / "storage" / "data")
    return tmp_path / "storage"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Proxy]:
    folder = tmp_path / "server"
    folder.mkdir()
    with mlflow_server(folder) as proxy:
        yield proxy


def test_no_server_at_the_start(
    storage: Path, undisturbed: tuple[Path, dict[str, Any]], server: Proxy
) -> None:
    server.answer = lambda path: GONE
    said = finish(storage, server.url, status=1)
    assert "the same command sends them" in said
    assert "weights   " in said  # the summary: the run itself is finished
    server.answer = lambda path: 0
    said = finish(storage, server.url)
    assert "step 4/" not in said  # nothing is trained again
    assert left_behind(storage, server.url) == undisturbed[1]


def test_a_server_that_is_gone_while_the_run_is_resumed(
    storage: Path, undisturbed: tuple[Path, dict[str, Any]], server: Proxy
) -> None:
    driver = start([*TRAIN, "--storage", str(storage)], server.url)
    wait_for(driver, lambda: checkpoints(storage))
    kill_all(driver)
    server.answer = lambda path: GONE
    driver = start([*TRAIN, "--storage", str(storage)], server.url)
    before = len(recorded_steps(storage))
    wait_for(driver, lambda: len(recorded_steps(storage)) > before + 2)
    server.answer = lambda path: 0
    said, _ = driver.communicate(timeout=1500)
    if driver.returncode:  # it came back too late for this one
        assert "the same command" in said
        finish(storage, server.url)
    assert left_behind(storage, server.url) == undisturbed[1]


def test_a_deleted_experiment(storage: Path, undisturbed: tuple[Path, dict[str, Any]], server: Proxy) -> None:
    from mlflow import MlflowClient

    driver = start([*TRAIN, "--storage", str(storage)], server.url)
    wait_for(driver, lambda: checkpoints(storage))
    client = MlflowClient(server.url)
    client.delete_experiment(client.get_experiment_by_name("mipnet").experiment_id)
    said, _ = driver.communicate(timeout=1500)
    assert driver.returncode == 0, said
    assert "restored" in said
    assert left_behind(storage, server.url) == undisturbed[1]


@pytest.mark.parametrize("status", [500, 403, 413])
def test_refused_artifacts(
    storage: Path, undisturbed: tuple[Path, dict[str, Any]], server: Proxy, status: int
) -> None:
    server.answer = lambda path: status if "mlflow-artifacts" in path else 0
    said = finish(storage, server.url, status=1)
    assert "not registered" in said
    assert "the same command sends them" in said
    from mlflow import MlflowClient

    run_id = json.loads((only_run(storage) / "run.json").read_text())["mlflow_run"]
    found = MlflowClient(server.url).get_run(run_id)
    assert found.info.status == "FINISHED"  # with all of its metrics
    assert found.data.metrics.keys() >= {name for name, _ in undisturbed[1]["times sent"]}
    server.answer = lambda path: 0
    finish(storage, server.url)
    assert left_behind(storage, server.url) == undisturbed[1]
    files = {file.path for file in MlflowClient(server.url).list_artifacts(run_id)}
    assert files >= {"config.yaml", "pictures", "results", "report.html"}


def test_a_server_that_is_gone_for_a_minute(
    storage: Path, undisturbed: tuple[Path, dict[str, Any]], server: Proxy
) -> None:
    driver = start([*TRAIN, "--storage", str(storage)], server.url)
    wait_for(driver, lambda: recorded_steps(storage))
    server.answer = lambda path: GONE
    with contextlib.suppress(subprocess.TimeoutExpired):  # it may end before, and owes the rest then
        driver.wait(60)
    server.answer = lambda path: 0
    said, _ = driver.communicate(timeout=1500)
    if driver.returncode:
        assert "the same command" in said
        finish(storage, server.url)
    assert left_behind(storage, server.url) == undisturbed[1]


def test_a_server_that_hangs(storage: Path, undisturbed: tuple[Path, dict[str, Any]], server: Proxy) -> None:
    """From the first checkpoint to the end."""
    driver = start([*TRAIN, "--storage", str(storage)], server.url)
    wait_for(driver, lambda: checkpoints(storage))
    server.answer = lambda path: HANG
    said, _ = driver.communicate(timeout=1500)
    assert driver.returncode == 1, said
    assert "the same command sends them" in said
    assert "weights   " in said
    server.answer = lambda path: 0
    finish(storage, server.url)
    assert left_behind(storage, server.url) == undisturbed[1]


@pytest.mark.parametrize("for_good", [False, True])
def test_a_deleted_run(
    storage: Path, undisturbed: tuple[Path, dict[str, Any]], server: Proxy, tmp_path: Path, for_good: bool
) -> None:
    from mlflow import MlflowClient

    driver = start([*TRAIN, "--storage", str(storage)], server.url)
    wait_for(driver, lambda: checkpoints(storage) and mlflow_run(storage))
    run_id = mlflow_run(storage)
    if for_good:  # the training restores a deleted run: not before this one is gone for good
        server.answer = lambda path: GONE if path.endswith("/runs/restore") else 0
    MlflowClient(server.url).delete_run(run_id)
    if for_good:
        place = f"sqlite:///{tmp_path / 'server' / 'server.db'}"
        command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", place, "--run-ids", run_id]
        env = {**os.environ, "MLFLOW_TRACKING_URI": server.url}
        subprocess.run(command, env=env, check=True, capture_output=True)
        server.answer = lambda path: 0
    said, _ = driver.communicate(timeout=1500)
    assert driver.returncode == 0, said
    assert ("another one gets all of its records" if for_good else "this run was deleted in MLflow") in said
    assert (mlflow_run(storage) != run_id) == for_good
    assert left_behind(storage, server.url) == undisturbed[1]


def test_a_registry_of_many_models(
    storage: Path, undisturbed: tuple[Path, dict[str, Any]], server: Proxy
) -> None:
    """More than a page of MLflow's answers, before ours in their order."""
    from mlflow import MlflowClient

    for number in range(120):
        MlflowClient(server.url).create_registered_model(f"another-{number:03}")
    finish(storage, server.url)
    assert left_behind(storage, server.url) == undisturbed[1]
    listed = start(["registry", "list", "--storage", str(storage)], server.url)
    said, _ = listed.communicate(timeout=600)
    assert listed.returncode == 0, said
    assert only_run(storage).name in said


def test_a_training_keeps_its_speed(storage: Path, server: Proxy) -> None:
    """Beside a server that is gone or hangs: median of five ratios within one run.

    Each is of eight blocks of seconds for each state, in turns, so that other load meets all alike.
    """
    flags = [*TRAIN, "--epochs", "1000", "--train.checkpoint-steps", "1000000", "--train.log-steps", "1"]
    driver = start([*flags, "--storage", str(storage)], server.url)
    turns, ratios = [0, GONE, HANG], {GONE: list[float](), HANG: list[float]()}
    try:
        wait_for(driver, lambda: len(recorded_steps(storage)) > 5 and mlflow_run(storage))
        for _ in range(5):
            steps, seconds = dict.fromkeys(turns, 0.0), dict.fromkeys(turns, 0.0)
            for _ in range(8):
                for state in turns:
                    server.answer = lambda path, state=state: state
                    rows = next_rows(driver, storage)
                    steps[state] += rows[-1]["step"] - rows[0]["step"]
                    seconds[state] += (rows[-1]["time"] - rows[0]["time"]) / 1000
                turns.reverse()
            for state, found in ratios.items():
                found.append(steps[state] / seconds[state] / (steps[0] / seconds[0]))
    finally:
        server.answer = lambda path: GONE
        kill_all(driver)
    for name, state in (("gone", GONE), ("hung", HANG)):
        print(f"\nsamples/s, MLflow {name} : answering:", *(f"{ratio:.3f}" for ratio in ratios[state]))
    assert all(statistics.median(found) > 0.9 for found in ratios.values()), ratios


def next_rows(driver: subprocess.Popen[str], storage: Path) -> list[dict[str, float]]:
    """The rows of the next 4 s, eight at least."""
    before, end = len(training_rows(storage)), time.monotonic() + 4
    wait_for(driver, lambda: time.monotonic() > end and len(training_rows(storage)) >= before + 8)
    return training_rows(storage)[before:]
