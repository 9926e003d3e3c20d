"""The search's view of a cluster, and Ray Tune's view of the search; nothing is started."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray.tune.search import Searcher

from mipnet.config.schema import ResourcesConfig
from mipnet.run_folder import Run
from tune.driver import Queue, line, trials_at_once
from tune.records import note_scores, read_trials
from tune.rungs import Board, Score, Trial
from tune.samplers import make_sampler
from tune.search import main, rungs_of
from tune.spaces import Point, named
from tune.trials import Work, train_trial

SCRIPT = Path(__file__).parents[2] / "tune" / "search.py"


def nodes(*resources: tuple[float, float]) -> list[dict]:
    return [{"Alive": True, "Resources": {"CPU": cpu, "GPU": gpu}} for cpu, gpu in resources]


@pytest.mark.parametrize(
    ("cluster", "resources", "expected"),
    [
        # CPU: a worker takes all cores of its node unless it is told how many
        ([(5, 0)], {}, 1),
        ([(64, 0)], {}, 1),
        ([(64, 0)] * 4, {}, 4),
        ([(64, 0)] * 4, {"workers": 2}, 2),
        ([(64, 0)], {"cpus_per_worker": 4}, 9),  # 4 + decoding, crops, prediction = 7
        ([(8, 0)] * 2, {"cpus_per_worker": 6}, 1),  # 16 // 9: the second would leave no room beside it
        ([(2, 0)], {"cpus_per_worker": 1}, 1),
        # GPU: one stays for the validations of all, where there is more than the trainings need
        ([(16, 1)], {"gpu": True}, 1),
        ([(16, 2)], {"gpu": True}, 1),
        ([(96, 8)], {"gpu": True}, 7),
        ([(96, 8)], {"gpu": True, "workers": 2}, 3),
        ([(96, 8)], {"gpu": True, "workers": 8}, 1),
        ([(96, 8)] * 2, {"gpu": True, "workers": 4}, 3),
        ([(96, 8)], {"gpu": True, "workers": 1, "cpus_per_worker": 20}, 4),  # 96 // 23
        ([(8, 8), (96, 0)], {"gpu": True, "cpus_per_worker": 4}, 2),  # GPUs without CPUs beside them
    ],
)
def test_no_trial_waits_for_what_another_keeps(cluster, resources: dict, expected: int) -> None:
    assert trials_at_once(nodes(*cluster), ResourcesConfig(**resources)) == expected


def test_dead_nodes_hold_nothing() -> None:
    found = nodes((64, 0), (64, 0))
    found[0]["Alive"] = False
    assert trials_at_once(found, ResourcesConfig()) == 1


@pytest.fixture
def queue(search: Run) -> Queue:
    space = named("placement", search.config)
    propose = make_sampler("grid", space, search.config, 2)
    board = Board([], propose, lambda point: 1.0, [0], [3])
    said: list[tuple[str, bool]] = []
    queue = Queue(board, search, lambda trial, ended: said.append((trial.name, ended)))
    queue.said = said  # type: ignore[attr-defined]
    return queue


def test_the_queue_hands_out_what_the_board_has(queue: Queue, search: Run) -> None:
    first = queue.suggest("a")
    assert first == {"name": "n2-p1-r4-lr0.005-s0", "until": 3}
    assert search.folder.exists("runs/n2-p1-r4-lr0.005-s0/config.yaml")  # before it starts
    second = queue.suggest("b")
    assert queue.suggest("c") is None  # something runs: ask again
    row = {"step": 1.0, "loss/lambda0": 0.5}
    choice = {"discount": 0.9, "oks_nms": 0.9, "occlusion_AP": 0.25, "metrics": {}}
    note_scores(queue.started["a"], 3, 30, [row], [choice])
    queue.on_trial_complete("a", {})
    queue.on_trial_complete("b", error=True)  # its process is gone and noted nothing
    assert queue.suggest("d") == Searcher.FINISHED
    trials = {trial.name: trial for trial, _ in read_trials(search)}
    assert trials[first["name"]].scores == {3: Score(0.25, 0.5)}
    assert trials[second["name"]].failed == "its process ended without a word"
    assert queue.said[-1] == (second["name"], True)  # type: ignore[attr-defined]


def test_ray_may_pickle_the_queue(queue: Queue) -> None:
    queue.unpicklable = open(__file__)  # type: ignore[attr-defined]  # noqa: SIM115
    try:
        assert isinstance(pickle.loads(pickle.dumps(queue)), Queue)
    finally:
        queue.unpicklable.close()  # type: ignore[attr-defined]


def test_what_is_said_of_a_trial() -> None:
    trial = Trial(Point(2, (1, 2), 4, 5e-3), 0, 0, until=1)
    assert line(trial, False, 9) == "n2-p1.2-r4-lr0.005-s0: training to epoch 1"
    trial.scores = {1: Score(0.123, 0.02)}
    assert line(trial, True, 9) == "n2-p1.2-r4-lr0.005-s0: occlusion AP 12.3, loss 0.02000 at epoch 1"
    trial.failed = "no memory"
    assert line(trial, True, 9) == "n2-p1.2-r4-lr0.005-s0: failed (no memory)"


def test_rungs_end_with_the_whole_training() -> None:
    assert rungs_of(1, 3, 110) == [1, 3, 9, 27, 81, 110]
    assert rungs_of(5, 2, 20) == [5, 10, 20]
    assert rungs_of(3, 3, 3) == [3]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--space", "placemnt"], "--space: 'placemnt' is unknown; did you mean 'placement'?"),
        (["--space", "/nowhere.yaml"], "--space: cannot read /nowhere.yaml"),
        (["--sampler", "optuna"], "--sampler: 'optuna' is unknown"),
        (["--seeds", "0"], "--seeds: 0 is below 1"),
        (["--seeds", "two"], "--seeds: 'two' is not a whole number"),
        (["--preset", "debug", "--rung", "4"], "--rung: 4 is above 3"),
        (["--train.los", "mse"], "--train.los: unknown flag; did you mean '--train.loss'?"),
        (["--model.instances", "1", "--model.places"], "model.instances: 1 has no place to search"),
    ],
)
def test_errors_are_one_line_before_anything_is_written(argv, message: str, tmp_path, capsys) -> None:
    assert main([*argv, "--storage", str(tmp_path / "storage")]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"tune/search.py: {message}")
    assert len(said.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", [SCRIPT, SCRIPT.parents[1] / "jobs" / "search.py"])
def test_it_runs_from_anywhere(script: Path, tmp_path) -> None:
    done = subprocess.run([sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in ("placement", "instances", "full", "--register-best", "nsga2"):
        assert word in done.stdout
    assert "usage: python tune/search.py" in done.stdout


def test_a_trial_needs_no_tune_where_it_runs(search: Run, tmp_path: Path) -> None:
    """On a cluster's nodes ``mipnet`` is installed, and ``tune`` is not."""
    here = search.folder
    work = Work(here, here, here, named("full", search.config), ResourcesConfig(), "", {}, [], False)
    (tmp_path / "trial.pkl").write_bytes(ray.cloudpickle.dumps((train_trial, work)))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mipnet").symlink_to(SCRIPT.parents[1] / "mipnet")
    script = (
        "import pickle, sys\n"
        "trial, work = pickle.load(open('trial.pkl', 'rb'))\n"
        "assert not any(name.split('.')[0] == 'tune' for name in sys.modules)\n"
        "print(trial.__name__, work.space.instances)"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.stdout.strip() == "train_trial (1, 2, 3, 4)", done.stderr
