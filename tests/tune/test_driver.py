"""The search's view of a cluster, and Ray Tune's view of the search; nothing is started."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray.tune.search import Searcher

from mipnet.config import preset
from mipnet.config.schema import ResourcesConfig
from mipnet.console import say
from mipnet.errors import StoreError, UserError
from mipnet.run_folder import Run
from mipnet.storage import Folder
from tune.driver import SearcherAdapter, progress_text, trial_message, trials_at_once
from tune.samplers import make_sampler
from tune.search import main, rung_epochs
from tune.search_space import Point, named_space
from tune.successive_halving import Score, Trial, TrialScheduler
from tune.trainable import TrialContext, pair_result, train_trial
from tune.trial_folders import note_scores, read_trials

SCRIPT = Path(__file__).parents[2] / "tune" / "search.py"


def test_a_store_that_does_not_answer_ends_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: Run) -> None:
        raise StoreError("s3://bucket/run.json cannot be read")

    monkeypatch.setattr(Run, "reload", refuse)
    run = Run("one", Folder.of(tmp_path), preset("debug"), {})
    assert progress_text(run) == "one"


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
        # GPU: one for each worker
        ([(16, 1)], {"gpu": True}, 1),
        ([(16, 2)], {"gpu": True}, 2),
        ([(96, 8)], {"gpu": True}, 8),
        ([(96, 8)], {"gpu": True, "workers": 2}, 4),
        ([(96, 8)], {"gpu": True, "workers": 8}, 1),
        ([(96, 8)] * 2, {"gpu": True, "workers": 4}, 4),
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
def searcher(search: Run) -> SearcherAdapter:
    space = named_space("placement", search.config)
    sampler = make_sampler("grid", space, search.config, 2)
    scheduler = TrialScheduler([], sampler, cost=lambda point: 1.0, seeds=[0], rungs=[3])
    said: list[tuple[str, bool]] = []
    searcher = SearcherAdapter(scheduler, search, lambda trial, ended: said.append((trial.name, ended)))
    searcher.said = said  # type: ignore[attr-defined]
    return searcher


def test_searcher_adapter_suggests_the_trials_of_its_scheduler(
    searcher: SearcherAdapter, search: Run
) -> None:
    first = searcher.suggest("a")
    assert first == {"name": "n2-p1-r4-lr0.005-s0", "target_epochs": 3}
    assert search.folder.exists("runs/n2-p1-r4-lr0.005-s0/config.yaml")  # before it starts
    second = searcher.suggest("b")
    assert searcher.suggest("c") is None  # something runs: ask again
    row = {"step": 1.0, "loss/lambda0": 0.5}
    choice = {"discount": 0.9, "oks_nms": 0.9, "occlusion_AP": 0.25, "metrics": {}}
    note_scores(searcher.started["a"], 3, 30, [row], [choice])
    searcher.on_trial_complete("a", {})
    searcher.on_trial_complete("b", error=True)  # its process is gone and noted nothing
    assert searcher.suggest("d") == Searcher.FINISHED
    trials = {trial.name: trial for trial, _ in read_trials(search)}
    assert trials[first["name"]].scores == {3: Score(0.25, 0.5)}
    assert trials[second["name"]].failed == "its process ended without a word"
    assert searcher.said[-1] == (second["name"], True)  # type: ignore[attr-defined]


def test_searcher_adapter_can_be_pickled_by_ray(searcher: SearcherAdapter) -> None:
    searcher.unpicklable = open(__file__)  # type: ignore[attr-defined]  # noqa: SIM115
    try:
        assert isinstance(pickle.loads(pickle.dumps(searcher)), SearcherAdapter)
    finally:
        searcher.unpicklable.close()  # type: ignore[attr-defined]


def test_trial_message() -> None:
    trial = Trial(Point(2, (1, 2), 4, 5e-3), 0, 0, target_epochs=1)
    assert trial_message(trial, False, 9) == "n2-p1.2-r4-lr0.005-s0: training to epoch 1"
    trial.scores = {1: Score(0.123, 0.02)}
    ended = "n2-p1.2-r4-lr0.005-s0: occlusion AP 12.3, loss 0.02000 at epoch 1"
    assert trial_message(trial, True, 9) == ended
    trial.failed = "no memory"
    assert trial_message(trial, True, 9) == "n2-p1.2-r4-lr0.005-s0: failed (no memory)"


def test_rung_epochs_end_with_the_whole_training() -> None:
    assert rung_epochs(1, 3, 110) == [1, 3, 9, 27, 81, 110]
    assert rung_epochs(5, 2, 20) == [5, 10, 20]
    assert rung_epochs(3, 3, 3) == [3]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--space", "placemnt"], "--space: 'placemnt' is unknown; did you mean 'placement'?"),
        (["--space", "/nowhere.yaml"], "--space: cannot read /nowhere.yaml"),
        (["--sampler", "optuna"], "--sampler: 'optuna' is unknown"),
        (["--seeds", "0"], "--seeds: 0 is below 1"),
        (["--seeds", "two"], "--seeds: 'two' is not a whole number"),
        (["--preset", "debug", "--rung", "4"], "--rung: 4 is above 3"),
        (
            ["--train.patience", "2"],
            "train.patience: a search trains every trial to its number of epochs",
        ),
        (["--train.max-hours", "2"], "train.max_hours: a search trains every trial to its number of epochs"),
        (["--train.los", "mse"], "--train.los: unknown flag; did you mean '--train.loss'?"),
        (["--model.instances", "1", "--model.mimb-stages"], "model.instances: 1 has no place to search"),
    ],
)
def test_errors_are_one_line_before_anything_is_written(argv, message: str, tmp_path, capsys) -> None:
    assert main([*argv, "--storage", str(tmp_path / "storage")]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"tune/search.py: {message}")
    assert len(said.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_search_keeps_a_log(tmp_path: Path, monkeypatch) -> None:
    def run_search(search, options, space, argv, save_log) -> int:
        say("searched")
        save_log()
        return 0

    monkeypatch.setattr("tune.study.run_search", run_search)
    for _ in range(2):
        assert main(["--preset", "debug", "--storage", str(tmp_path)]) == 0
    (log,) = tmp_path.glob("searches/*/logs/driver.log")
    assert log.read_text().count("searched") == 2


@pytest.mark.parametrize("script", [SCRIPT, SCRIPT.parents[1] / "jobs" / "search.py"])
def test_it_runs_from_anywhere(script: Path, tmp_path) -> None:
    done = subprocess.run([sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in ("placement", "instances", "full", "--register-best", "nsga2"):
        assert word in done.stdout
    assert "usage: python tune/search.py" in done.stdout


def test_a_trial_needs_no_tune_where_it_runs(search: Run, tmp_path: Path) -> None:
    """On a cluster's nodes ``mipnet`` is installed, and ``tune`` is not."""
    context = TrialContext(
        storage=search.folder,
        trials_folder=search.folder,
        data=search.folder,
        space=named_space("full", search.config),
        resources=ResourcesConfig(),
        tracking_uri="",
        tags={},
        argv=[],
        verbose=False,
    )
    (tmp_path / "trial.pkl").write_bytes(ray.cloudpickle.dumps((train_trial, context)))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mipnet").symlink_to(SCRIPT.parents[1] / "mipnet")
    script = (
        "import pickle, sys\n"
        "trial, context = pickle.load(open('trial.pkl', 'rb'))\n"
        "assert not any(name.split('.')[0] == 'tune' for name in sys.modules)\n"
        "print(trial.__name__, context.space.instances)"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.stdout.strip() == "train_trial (1, 2, 3, 4)", done.stderr


@pytest.mark.parametrize("metrics", [{}, {"val/det5/merged/AP": math.nan}, {"val/det5/lambda0/AP": 0.5}])
def test_what_could_not_be_measured_is_no_score(metrics):
    with pytest.raises(UserError, match="there is no occlusion AP on the split val"):
        pair_result((0.5, 0.9), preset("debug"), metrics)
    measured = pair_result((0.5, 0.9), preset("debug"), {**metrics, "val/det5/merged/AP": 0.0})
    assert measured["occlusion_AP"] == 0.0
