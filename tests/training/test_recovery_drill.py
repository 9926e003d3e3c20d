"""A killed run whose files were damaged ends with the bits of an undisturbed one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.storage import Folder
from mipnet.training.checkpoint import checkpoint_name
from mipnet.training.recovery import (
    RECORD_FILE,
    best_checkpoint,
    checkpoint_names,
    read_record,
    write_record,
)
from tests.helpers.commands import clean_environment, command

TRAIN = ["train", "--preset", "debug", "--epochs", "6", "--train.checkpoint-steps", "10"]
TRAIN += ["--data.evaluate", "hard", "--data.boxes", "gt"]


def training_of(storage: Path) -> Folder:
    (run,) = (storage / "runs").iterdir()
    return Folder.of(run / "training")


def weights(storage: Path) -> list[str]:
    """SHA-256 of the best and of the last weights."""
    training = training_of(storage)
    last = training.join(checkpoint_names(training)[-1])
    return [
        folder.sha256("weights.safetensors")
        for folder in (Folder.of(training.local_path.parent / "model"), last)
    ]


@pytest.fixture(scope="module")
def undisturbed(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("undisturbed")
    done = command(*TRAIN, "--storage", str(storage), address=ray_address)
    assert done.returncode == 0, done.stderr
    return storage


@pytest.fixture(scope="module")
def killed(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A storage, and its copy as it was when everything was killed with three checkpoints recorded."""
    storage = tmp_path_factory.mktemp("killed")
    shutil.copytree(undisturbed / "data", storage / "data")
    argv = [sys.executable, "-m", "mipnet", *TRAIN, "--storage", str(storage)]
    driver = subprocess.Popen(argv, env=clean_environment(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not storage.glob("runs/*/training") or len(recorded(storage)) < 3:
        assert driver.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no three checkpoints within five minutes"
        time.sleep(0.02)
    for process in [*psutil.Process(driver.pid).children(recursive=True), psutil.Process(driver.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            os.kill(process.pid, signal.SIGKILL)
    driver.wait()
    copy = storage.with_name("copy")
    shutil.copytree(storage, copy)
    return storage, copy


def recorded(storage: Path) -> dict[str, object]:
    if not list(storage.glob(f"runs/*/training/{RECORD_FILE}")):
        return {}
    return dict(read_record(training_of(storage)))


def cut(folder: Path, *names: str) -> None:
    for path in [folder / name for name in names] or folder.iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_newest(training: Folder) -> None:
    cut(training.local_path / checkpoint_names(training)[-1], "training.pt")


def cut_best(training: Folder) -> None:
    names = checkpoint_names(training)
    cut(training.local_path / (best_checkpoint(read_record(training)) or names[0]), "weights.safetensors")


def cut_old_best(training: Folder) -> None:
    """All of the oldest, which was the best by far."""
    name, best = checkpoint_names(training)[0], {SELECTION_METRIC: 0.9}
    metrics = read_record(training)
    write_record(training, {**metrics, name: {**metrics[name], **best}})
    state = training.local_path.parent / "run.json"
    noted = json.loads(state.read_text())
    for row in noted["validations"]:
        row |= best if checkpoint_name(row["step"]) == name else {}
    state.write_text(json.dumps(noted))
    cut(training.local_path / name)


def cut_record(training: Folder) -> None:
    cut(training.local_path, RECORD_FILE)


def cut_all_but_one(training: Folder) -> None:
    for name in checkpoint_names(training)[1:]:
        cut(training.local_path / name)


DAMAGE: dict[str, tuple[Callable[[Folder], None], str]] = {
    "nothing": (lambda training: None, ""),
    "newest": (cut_newest, "checkpoints left out: step-"),
    "best": (cut_best, "the weights are made again from the training state"),
    "old best": (cut_old_best, "the best so far: occlusion AP 90.0"),
    "record": (cut_record, f"{RECORD_FILE} is damaged; made again"),
    "all but one": (cut_all_but_one, "checkpoints left out: step-"),
}


@pytest.mark.ray
@pytest.mark.drill
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_run_ends_right(
    kind: str, undisturbed: Path, killed: tuple[Path, Path], ray_address: str
) -> None:
    storage, copy = killed
    damage, said = DAMAGE[kind]
    shutil.rmtree(storage)
    shutil.copytree(copy, storage)
    damage(training_of(storage))
    done = command(*TRAIN, "--storage", str(storage), address=ray_address)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert weights(storage) == weights(undisturbed)
    if kind == "old best":  # it is not made again, but stands beside the figures
        run = training_of(storage).local_path.parent
        assert said in (run / "summary.txt").read_text()
        assert said in (run / "report.html").read_text()
