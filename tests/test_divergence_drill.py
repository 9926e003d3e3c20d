"""A training that diverges within few steps has failed: no result, no rank, no registered model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import clean_environment

pytestmark = [pytest.mark.drill, pytest.mark.ray, pytest.mark.slow]

ELEVEN_STEPS = ["--preset", "debug", "--epochs", "1", "--data.evaluate", "hard", "--data.boxes", "gt"]
SEARCH = str(Path(__file__).parents[1] / "tune" / "search.py")


def fails(*command: str, address: str) -> str:
    """Run a command that has to end with status 1; returns what it said."""
    done = subprocess.run(
        [sys.executable, *command],
        env=clean_environment(address),
        text=True,
        capture_output=True,
        timeout=900,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said
    return said


def registered(storage: Path) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    return [model.name for model in client.search_registered_models()]


@pytest.mark.parametrize("again", [False, True])
def test_a_training(tmp_path_factory: pytest.TempPathFactory, ray_address: str, again: bool) -> None:
    """Also if the same command is run once more."""
    storage = tmp_path_factory.getbasetemp() / "diverging"
    flags = [*ELEVEN_STEPS, "--train.learning-rate", "1e6", "--storage", str(storage)]
    said = fails("-m", "mipnet", "train", *flags, address=ray_address)
    assert "training stopped at step 11: " in said.splitlines()[-1]
    assert "lower --train.learning-rate" in said.splitlines()[-1]
    (run,) = (storage / "runs").iterdir()
    state = json.loads((run / "run.json").read_text())
    assert not state.keys() & {"trained", "evaluated", "finished", "version"}
    assert not (run / "model").exists()
    assert not (run / "summary.txt").exists()
    assert registered(storage) == []


def test_a_search_of_two_trials(tmp_path: Path, ray_address: str) -> None:
    (tmp_path / "rates.yaml").write_text("learning_rate: [1.0e+6, 2.0e+6]\n")
    storage = tmp_path / "storage"
    flags = [*ELEVEN_STEPS, "--space", str(tmp_path / "rates.yaml"), "--register-best"]
    said = fails(SEARCH, *flags, "--storage", str(storage), address=ray_address)
    (search,) = (storage / "searches").iterdir()
    found = json.loads((search / "search.json").read_text())
    assert [each["status"] for each in found["configurations"]] == ["failed", "failed"], said
    assert not (search / "best.yaml").exists()
    assert registered(storage) == []
