"""Workers 1:2 on isolated nodes: the second node joins in mid-run, is killed, joins again, and is drained."""

from __future__ import annotations

import json
import math
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cluster.local import alive, start
from mipnet.config import Config, from_dict
from mipnet.data.dataset_formats import open_split
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.storage import Folder
from mipnet.training.trainer import make_schedule
from tests.helpers.disturbed import steps_of, train_starts
from tests.helpers.drills import only_run, training_rows, wait_for
from tests.helpers.isolated_cluster import IsolatedCluster

EPOCHS, CHECKPOINT_STEPS, LOG_STEPS = 250, 40, 20
TRAIN = ["mipnet", "train", "--preset", "debug", "--scenes.easy", "4", "--scenes.medium", "4"]
TRAIN += ["--scenes.hard", "16", "--scenes.validation", "4", "--epochs", EPOCHS]
TRAIN += ["--train.checkpoint-steps", CHECKPOINT_STEPS, "--train.log-steps", LOG_STEPS]
TRAIN += ["--data.evaluate", "hard", "--data.boxes", "gt", "--model.width", "8"]
TRAIN += ["--input.width", "32", "--input.height", "48"]
TRAIN += ["--resources.cpus-per-worker", "2", "--resources.max-failures", "9"]
ELASTIC = ["--workers", "1:2", "--resources.resize-seconds", "5", "--batch-size", "15"]
SEEDS = (1, 2, 3)
NOTICE_SECONDS = 15
SECOND = 2
"""The number of the node that comes and goes; each of the two holds one worker of two CPUs, and decodes."""
STEP_SECONDS = 0.3
"""At least, so that the training does not end before the nodes have come and gone."""
SITECUSTOMIZE = """import logging, pathlib, time

def wait(record):
    if pathlib.Path(__file__).with_name("slow").exists():
        time.sleep({STEP_SECONDS})
    return True

logger = logging.getLogger("mipnet.training.worker.samples")
logger.setLevel(logging.DEBUG)
logger.addFilter(wait)
"""


def starts(storage: Path) -> list[tuple[int, list[int]]]:
    """(number of workers, steps that were recorded) of each start of the training."""
    found = train_starts(storage)
    return [(next(r["workers"] for r in each if r["do"] == "started"), steps_of(each)) for each in found]


def join(cluster: IsolatedCluster) -> None:
    start(cluster, [str(SECOND)], lambda: alive(cluster))


def leave(drill: Any, cluster: IsolatedCluster) -> None:
    """Kill the second node, and wait until Ray knows."""
    assert drill("kill-node", SECOND).returncode == 0
    deadline = time.monotonic() + 120
    while str(SECOND) in alive(cluster):
        assert time.monotonic() < deadline
        time.sleep(0.2)


class Line(NamedTuple):
    """What a training process told of a batch: samples as "epoch:sample"."""

    time: datetime
    step: int
    rank: int
    ranks: int
    samples: list[str]


def sample_lines(log: Path) -> list[Line]:
    found = re.findall(r"^(\S+ \S+) .* step (\d+), rank (\d+) of (\d+): (.*)$", log.read_text(), re.MULTILINE)
    return [
        Line(datetime.strptime(when, "%Y-%m-%d %H:%M:%S,%f"), *map(int, numbers), samples.split())
        for when, *numbers, samples in found
    ]


def samples_by_step(storage: Path) -> dict[int, list[str]]:
    """Step -> the samples of its global batch in the order of the ranks, as last trained."""
    seen: dict[int, list[Line]] = {}
    for log in only_run(storage).glob("logs/worker-*.log"):
        for line in sample_lines(log):
            seen.setdefault(line.step, []).append(line)
    batches = {}
    for step, lines in seen.items():
        lines.sort()
        ranks = lines[-1].ranks
        last = {line.rank: line.samples for line in lines if line.ranks == ranks}
        batches[step] = [sample for rank in range(ranks) for sample in last[rank]]
    return batches


def planned(schedule: SampleSchedule) -> dict[int, list[str]]:
    """The same, of one rank that nothing disturbs."""
    batches: dict[int, list[str]] = {}
    for window in range(schedule.num_windows):
        epoch, _, sample, position = schedule.samples(window)
        order = [""] * len(position)
        for place, e, s in zip(position.tolist(), epoch.tolist(), sample.tolist(), strict=True):
            order[place] = f"{e}:{s}"
        for number, step in enumerate(schedule.steps(window)):
            batches[step] = order[number * schedule.batch_size : (number + 1) * schedule.batch_size]
    return batches


def config_of(storage: Path) -> Config:
    import yaml

    return from_dict(yaml.safe_load((only_run(storage) / "config.yaml").read_text()))


def final_loss(storage: Path) -> float:
    """Mean of the last 300 steps."""
    rows = {int(row["step"]): row["loss"] for row in training_rows(storage)}
    return statistics.mean(loss for step, loss in rows.items() if step > max(rows) - 300)


@pytest.mark.drill
@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("drill", ["isolated"], indirect=True)
def test_a_node_joins_is_killed_joins_again_and_is_drained(
    drill: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"  # the one folder that all nodes see
    python = shared / "python"
    python.mkdir(parents=True)
    (python / "sitecustomize.py").write_text(SITECUSTOMIZE.replace("{STEP_SECONDS}", str(STEP_SECONDS)))
    (python / "slow").touch()
    monkeypatch.setenv("PYTHONPATH", str(python))
    drill.env["PYTHONPATH"] = str(python)
    up = drill("up", "--nodes", "2", "--cpus", "3", "--shared", shared)
    assert up.returncode == 0, up.stderr
    cluster = IsolatedCluster(**json.loads((tmp_path / "state.json").read_text()))
    leave(drill, cluster)

    storage = shared / "elastic"
    driver = drill.start(*TRAIN, *ELASTIC, "--storage", storage)

    def wait(number: int, workers: int) -> None:
        """Until start ``number``, from 0, has made steps on so many workers."""
        wait_for(driver, lambda: any(steps for _, steps in starts(storage)[number:]))
        assert starts(storage)[number][0] == workers

    wait(0, 1)
    join(cluster)
    wait(1, 2)
    leave(drill, cluster)
    wait(2, 1)
    join(cluster)
    wait(3, 2)
    drain(drill, cluster)
    time.sleep(NOTICE_SECONDS)  # of the notice: then the node is taken away
    leave(drill, cluster)
    wait(4, 1)
    (python / "slow").unlink()
    said, _ = driver.communicate(timeout=1500)
    assert driver.returncode == 0, said
    assert "Traceback" not in said
    assert "(raylet)" not in said, "Ray prints"
    print(said)
    assert [workers for workers, _ in starts(storage)] == [1, 2, 1, 2, 1]
    show_costs(storage, ["a node joins", "it is killed", "it joins again", "it is drained"])

    config = config_of(storage)
    data = Folder.of(next((storage / "data").iterdir()))
    people = open_split(config.data, data, config.data.train).people()
    schedule = make_schedule(config, people)
    batches = samples_by_step(storage)
    assert batches == planned(schedule)
    every = [sample for step in sorted(batches) for sample in batches[step]]
    for epoch in range(EPOCHS):
        numbers = [int(each.partition(":")[2]) for each in every if each.startswith(f"{epoch}:")]
        assert sorted(numbers) == list(range(len(people))), epoch
    state = json.loads((only_run(storage) / "run.json").read_text())
    assert state["trained"]["steps"] == schedule.total_steps == math.ceil(EPOCHS * len(people) / 15)

    losses = []
    for seed in SEEDS:
        fixed = shared / f"seed{seed}"
        shutil.copytree(storage / "data", fixed / "data")
        one = ["--workers", "1", "--batch-size", "15", "--train.seed", seed, "--storage", fixed]
        run = drill.start(*TRAIN, *one)
        said, _ = run.communicate(timeout=3000)
        assert run.returncode == 0, said
        losses.append(final_loss(fixed))
    mean, deviation = statistics.mean(losses), statistics.stdev(losses)
    print(f"final loss {final_loss(storage):.5f}; fixed runs {losses}: {mean:.5f} ± {deviation:.5f}")
    assert abs(final_loss(storage) - mean) < 2 * deviation


def drain(drill: Callable[..., subprocess.CompletedProcess[str]], cluster: IsolatedCluster) -> None:
    """Tell Ray that the second node will be taken away, as a spot watcher does."""
    words = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--address"]
    words += [f"{cluster.address()}:{cluster.port}", "--node-id", alive(cluster)[str(SECOND)]["node_id"]]
    done = drill(*("run", "--", "ray", "drain-node", *words, "--deadline-remaining-seconds", NOTICE_SECONDS))
    assert done.returncode == 0, done.stdout + done.stderr


def show_costs(storage: Path, names: list[str]) -> None:
    """Print what each change cost: steps that were made again, and seconds without a step."""
    lines = sample_lines(only_run(storage) / "logs" / "worker-0.log")
    changes = [(a, b) for a, b in pairwise(lines) if b.step <= a.step or b.ranks != a.ranks]
    assert len(changes) == len(names)
    for name, (a, b) in zip(names, changes, strict=True):
        again, seconds = a.step + 1 - b.step, (b.time - a.time).total_seconds()
        print(f"| {name} | {b.ranks} worker(s) from step {b.step} | {again} steps again | {seconds:.0f} s |")
