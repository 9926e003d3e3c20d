"""Whatever process of a training is killed, the run leaves what an undisturbed one does."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.disturbed import (
    AFTER,
    BEFORE,
    CONTROLLER,
    COORDINATOR,
    DECODING,
    STEPS,
    TRAIN,
    TRAINING,
    VALIDATION,
    check,
    kill_one,
    start_training,
    steps_of,
    train_starts,
    wait_for_training,
)
from tests.helpers.drills import (
    finish,
    kill_all,
    left_behind,
    only_run,
    processes_called,
    wait_for,
)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
pytestmark = [pytest.mark.drill, pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    storage = tmp_path_factory.mktemp("undisturbed")
    finish([*TRAIN, "--storage", str(storage)])
    found = left_behind(storage)
    assert set(found["times sent"].values()) == {1}
    assert {step for name, step in found["times sent"] if name == "learning/loss"} == set(range(1, STEPS + 1))
    assert (found["status"], found["finished"], found["version"]) == ("FINISHED", (True, False), True)
    return storage, found


@pytest.fixture
def storage(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """Another storage, which has the rendered data."""
    shutil.copytree(undisturbed[0] / "data", tmp_path / "storage" / "data")
    return tmp_path / "storage"


def events(storage: Path) -> list[str]:
    return [event["event"] for event in json.loads((only_run(storage) / "run.json").read_text())["events"]]


def test_processes_that_the_command_replaces(storage: Path, undisturbed: tuple[Path, dict[str, Any]]) -> None:
    """One after another in one run: only a lost worker or coordinator starts the training again."""
    driver = start_training(storage, "--resources.max-failures", "9", "--validation", "beside")

    def kill(name: str) -> None:
        kill_one(driver, lambda: processes_called(name, driver))

    kill(DECODING)
    wait_for_training(driver, storage, BEFORE, 0)
    kill(COORDINATOR)
    wait_for_training(driver, storage, BEFORE, 1)
    kill(TRAINING)
    wait_for_training(driver, storage, AFTER, 2)
    kill(TRAINING)
    kill(VALIDATION)
    wait_for(driver, lambda: len(train_starts(storage)) == 4)
    kill(DECODING)  # of the stream that was made anew
    wait_for_training(driver, storage, AFTER, 3)
    kill(COORDINATOR)
    said, _ = driver.communicate(timeout=1500)
    assert driver.returncode == 0, said
    assert "Traceback" not in said
    assert events(storage) == ["restart"] * 4
    killed = [f"{name} | {BEFORE}" for name in ("coordinator", "worker 1 of 1")]
    killed += [f"{name} | {AFTER}" for name in ("worker 1 of 1", "coordinator")]
    check(storage, undisturbed[1], killed)


def test_a_lost_controller(storage: Path, undisturbed: tuple[Path, dict[str, Any]]) -> None:
    """It ends the command with one line; the same command goes on."""
    for number, when in enumerate((BEFORE, AFTER)):
        driver = start_training(storage)
        wait_for_training(driver, storage, when, number)
        kill_one(driver, lambda driver=driver: processes_called(CONTROLLER, driver))
        said, _ = driver.communicate(timeout=1500)
        assert driver.returncode == 1, said
        assert "Traceback" not in said
        last = said.strip().splitlines()[-1]
        assert last.startswith("mipnet: training failed: Ray Train's controller")
        assert last.endswith("the same command goes on from the last checkpoint")
    finish([*TRAIN, "--storage", str(storage)])
    assert events(storage) == ["resume"] * 2
    check(storage, undisturbed[1], [f"controller | {when}" for when in (BEFORE, AFTER)])


@pytest.mark.parametrize("everything", [False, True])
def test_a_lost_driver(storage: Path, undisturbed: tuple[Path, dict[str, Any]], everything: bool) -> None:
    """Alone, or with all that it started; the same command is started at once."""
    orphans: list[psutil.Process] = []
    for number, when in enumerate((BEFORE, AFTER)):
        driver = start_training(storage)
        wait_for_training(driver, storage, when, number)
        orphans += psutil.Process(driver.pid).children(recursive=True)
        if everything:
            kill_all(driver)
        else:
            driver.kill()
            driver.wait()
    finish([*TRAIN, "--storage", str(storage)])
    _, remaining = psutil.wait_procs(orphans, timeout=120)  # Ray's agents look for their raylet now and then
    assert not remaining
    assert events(storage) == ["resume"] * 2
    name = "everything" if everything else "driver"
    check(storage, undisturbed[1], [f"{name} | {when}" for when in (BEFORE, AFTER)])


@pytest.mark.parametrize("seed", range(2))
def test_stopped_at_five_moments(storage: Path, undisturbed: tuple[Path, dict[str, Any]], seed: int) -> None:
    """SIGTERM and Ctrl-C wherever they fall, in a validation or in Ray's snapshot of it: no step is lost."""
    moments, stopped = sorted(random.Random(seed).sample(range(1, STEPS + 1), 5)), []
    for number, moment in enumerate(moments):
        driver = start_training(storage)

        def reached(number: int = number, moment: int = moment) -> bool:
            starts = train_starts(storage)
            made = [step for records in starts for step in steps_of(records)]
            return len(starts) > number and max(made, default=0) >= moment

        wait_for(driver, reached)
        sent = SIGNALS[number % 2]
        begin = time.monotonic()
        driver.send_signal(sent)
        said, _ = driver.communicate(timeout=1500)
        stopped.append(f"{sent.name} | at step {moment}, ended after {time.monotonic() - begin:.0f} s")
        assert driver.returncode == 128 + sent, said
        assert said.strip().splitlines()[-1] == "mipnet: interrupted; the same command goes on where it was"
        assert "Traceback" not in said
    finish([*TRAIN, "--storage", str(storage)])
    assert events(storage) == ["resume"] * 5
    check(storage, undisturbed[1], stopped, told=True)
