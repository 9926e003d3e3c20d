"""A small training to disturb: its command, its moments, and what a disturbance cost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.helpers.drills import SLOW_RAY, checkpoints, left_behind, start, wait_for

TRAIN = ["train", "--preset", "debug", "--scenes.easy", "4", "--scenes.medium", "4", "--scenes.hard", "16"]
TRAIN += ["--scenes.validation", "4", "--epochs", "20", "--train.checkpoint-steps", "26"]
TRAIN += ["--train.log-steps", "1", "--data.evaluate", "hard", "--data.boxes", "gt"]
TRAIN += ["--resources.stream-workers", "1"]
"""78 steps; every one is recorded, so that the loss of a single one is seen."""
STEPS, CHECKPOINT_STEPS = 78, 26
TRAINING, DECODING, COORDINATOR = "ray::RayTrainWorker", "MapBatches(load_window_crops)", "SplitCoordinator"
VALIDATION, CONTROLLER = "run_validation_fn", "ray::TrainController"
"""Parts of the titles that Ray gives to its processes."""
BEFORE, AFTER = "before the first checkpoint", "after the first checkpoint"


def start_training(storage: Path, *flags: str) -> subprocess.Popen[str]:
    """The training on a Ray of its own, as soon as that is there and the data are checked."""
    before = noted_starts(storage)
    while True:
        driver = start([*TRAIN, *flags, "--storage", str(storage)])
        while driver.poll() is None:
            if noted_starts(storage) > before:
                return driver
            time.sleep(0.02)
        said, _ = driver.communicate()
        assert SLOW_RAY in said, said


def noted_starts(storage: Path) -> int:
    """How often the training began or went on, by run.json."""
    return sum(json.loads(path.read_text()).get("starts", 0) for path in storage.glob("runs/*/run.json"))


def train_starts(storage: Path) -> list[list[dict[str, Any]]]:
    """The records of each start of the training processes, the oldest start first."""
    found = []
    for path in sorted(storage.glob("runs/*/records/*-worker-*")):
        records = [json.loads(line) for line in path.read_text().split("\n")[:-1]]  # but a line that is cut
        if any(record["do"] == "started" for record in records):
            found.append(records)
    return found


def steps_of(records: list[dict[str, Any]]) -> list[int]:
    return [record["step"] for record in records if record["do"] == "training"]


def wait_for_training(driver: subprocess.Popen[str], storage: Path, when: str, number: int) -> None:
    """Wait until the start of that number, from 0, has made a step before or after the first checkpoint."""

    def reached() -> bool:
        trains = any(map(steps_of, train_starts(storage)[number:]))
        return trains and (when == BEFORE or bool(checkpoints(storage)))

    wait_for(driver, reached)
    if when == BEFORE:
        assert not checkpoints(storage), "too late"


def kill_one(driver: subprocess.Popen[str], found: Callable[[], list[int]]) -> None:
    """SIGKILL to the first process that is found, as soon as there is one."""
    while True:
        wait_for(driver, found)
        try:
            os.kill(found()[0], signal.SIGKILL)
        except (IndexError, ProcessLookupError):  # a short one, which has ended
            continue
        return


@dataclass(frozen=True)
class Restart:
    """What a disturbance cost.

    Attributes:
        step: from which training went on.
        again: number of steps of the start before that were made again.
        seconds: between the last step before and the first step after.
    """

    step: int
    again: int
    seconds: float


def restarts(storage: Path) -> list[Restart]:
    """All starts of the training processes but the first."""
    found = []
    for before, after in pairwise(train_starts(storage)):
        step = next(record["step"] for record in after if record["do"] == "started")
        last = max(steps_of(before), default=step)
        first = next((record for record in after if record["do"] == "training"), after[0])
        found.append(Restart(step, last - step, (first["time"] - before[-1]["time"]) / 1000))
    return found


def check(
    storage: Path, undisturbed: dict[str, Any], disturbances: list[str], uri: str = "", *, told: bool = False
) -> None:
    """Compare what a run left with the undisturbed one, and print the restarts, of which each has a name.

    Args:
        storage, uri: of the run, see ``left_behind``.
        undisturbed: what the other run left.
        disturbances: their names.
        told: the training was told before, and has saved a checkpoint: at most one step is made again.
    """
    found = left_behind(storage, uri)
    assert found.keys() == undisturbed.keys()
    for name in found:
        assert found[name] == undisturbed[name], name
    costs = restarts(storage)
    assert len(costs) == len(disturbances)
    if told:
        assert max(cost.again for cost in costs) <= 1, costs
    else:
        assert {cost.step for cost in costs} <= {*range(0, STEPS, CHECKPOINT_STEPS), STEPS}
    for name, cost in zip(disturbances, costs, strict=True):
        print(f"| {name} | went on at step {cost.step} | {cost.again} steps again | {cost.seconds:.0f} s |")


def undisturbed_on_nodes(
    drill: Any, tmp_path: Path, argv: list[str], nodes: int = 3, cpus: int = 4
) -> tuple[Path, dict[str, Any]]:
    """Start isolated nodes and run a command there; another storage with its data, and what the run left."""
    up = drill("up", "--nodes", nodes, "--cpus", cpus)
    assert up.returncode == 0, up.stderr
    untouched, storage = (tmp_path / "shared" / name for name in ("untouched", "storage"))
    whole = drill.start(*argv, "--storage", untouched)
    said, _ = whole.communicate(timeout=1500)
    assert whole.returncode == 0, said
    shutil.copytree(untouched / "data", storage / "data")
    return storage, left_behind(untouched)
