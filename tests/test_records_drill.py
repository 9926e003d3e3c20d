"""Trainings whose MLflow fails leave what an undisturbed one does: every point once, and the same bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import drills
from tests.helpers.drills import (
    Proxy,
    checkpoints,
    kill_all,
    left_behind,
    mlflow_server,
    only_run,
    recorded_steps,
    start,
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
    server.answer = lambda path: -1
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
    server.answer = lambda path: -1
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
