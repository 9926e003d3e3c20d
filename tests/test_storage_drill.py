"""Trainings on a disk that fills up, and in a distant object store, end as an undisturbed one does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mipnet.storage import Folder
from tests.helpers.drills import checkpoints, left_behind, start, wait_for
from tests.helpers.servers import BUCKET, KEYS, free_port, objects, process, responds

pytestmark = [pytest.mark.drill, pytest.mark.ray, pytest.mark.slow]

TRAIN = ["train", "--preset", "debug", "--epochs", "6", "--train.checkpoint-steps", "20"]
TRAIN += ["--data.evaluate", "hard", "--data.boxes", "gt"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    storage = tmp_path_factory.mktemp("undisturbed")
    finish(storage)
    return storage, left_behind(storage)


@pytest.fixture
def disk(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MiB with the rendered data in its folder ``storage``."""
    if os.getuid() or not shutil.which("mount"):
        pytest.skip("only root can mount a disk")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(place)], check=True)
    try:
        shutil.copytree(undisturbed[0] / "data", place / "storage" / "data")
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def finish(storage: Path) -> None:
    driver = start([*TRAIN, "--storage", str(storage)])
    said, _ = driver.communicate(timeout=1500)
    assert driver.returncode == 0, said


def fill(disk: Path, room: int) -> Path:
    """Leave so many bytes of a disk; returns the file that takes the rest."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - room)
    return filler


def check_end(driver: subprocess.Popen[str]) -> None:
    """It fails, and its last line says why and how to go on, without a traceback before."""
    said, _ = driver.communicate(timeout=1500)
    lines = said.strip().splitlines()
    assert driver.returncode, said
    assert "No space left on device" in lines[-1]
    assert "make room there, then the same command goes on" in lines[-1]
    assert not [line for line in lines if "Traceback" in line or "sqlalchemy" in line.lower()], said


def test_a_disk_that_is_full_while_a_checkpoint_is_written(
    disk: Path, undisturbed: tuple[Path, dict[str, Any]]
) -> None:
    storage = disk / "storage"
    driver = start([*TRAIN, "--storage", str(storage)])
    wait_for(driver, lambda: checkpoints(storage))
    filler = fill(disk, 100_000)
    check_end(driver)
    filler.unlink()
    finish(storage)
    assert left_behind(storage) == undisturbed[1]


@pytest.mark.parametrize("room", [100_000, 500_000])
def test_a_disk_that_is_full_at_the_start(
    disk: Path, undisturbed: tuple[Path, dict[str, Any]], room: int
) -> None:
    """With room for some of MLflow's tables."""
    storage = disk / "storage"
    filler = fill(disk, room)
    check_end(start([*TRAIN, "--storage", str(storage)]))
    filler.unlink()
    finish(storage)
    assert left_behind(storage) == undisturbed[1]


def test_an_object_store_of_200_ms(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a run, and the same records, though each request waits."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    tracking = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with objects(tmp_path) as (address, _):
        port = free_port()
        link = str(Path(__file__).parent / "helpers" / "slow_link.py")
        log = tmp_path / "requests"
        command = [sys.executable, link, str(port), address.rpartition(":")[2], "0.2", str(log)]
        with process(command, tmp_path / "link.log", lambda: responds(f"http://127.0.0.1:{port}/moto-api/")):
            storage = f"s3://{BUCKET}?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"
            driver = start([*TRAIN, "--storage", storage], tracking)
            said, _ = driver.communicate(timeout=1500)
            assert driver.returncode == 0, said
        direct = Folder.of(f"s3://{BUCKET}?scheme=http&endpoint_override={address[7:]}&region=us-east-1")
        local = direct.download(tmp_path / "storage")
    assert left_behind(local, tracking) == undisturbed[1]
