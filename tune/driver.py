"""The search on Ray Tune: the board says what comes next, each trial is a Ray Train run of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import Any

import ray
import ray.tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import Searcher

import tune
from mipnet.config.schema import ResourcesConfig
from mipnet.console import say
from mipnet.evaluation.occlusion import SCORE
from mipnet.experiment.progress import Progress
from mipnet.run_folder import Run
from tune.records import note_failure, open_trial, trial_of
from tune.rungs import Board, Trial
from tune.trials import Work, train_trial

BESIDE_TRAINING = 2
"""CPUs of a trial for one decoding task of its stream and one of its validation."""
SECONDS_BETWEEN_LOOKS = 5.0

# Ray pickles these modules by name otherwise, and a worker elsewhere cannot import them.
ray.cloudpickle.register_pickle_by_value(tune)


def trials_at_once(nodes: Sequence[Mapping[str, Any]], resources: ResourcesConfig) -> int:
    """How many trials a cluster holds so that none can wait for what another one keeps.

    A trial's own process takes nothing. What it keeps for as long as it trains are its workers; what they
    wait for meanwhile, decoding and validation, must find room beside all of them: a CPU for the stream, one
    for the crops of the validation, one for each process that predicts, and where training on GPUs leaves
    one, a GPU that no worker keeps.

    Args:
        nodes: as ``ray.nodes()`` tells them.
        resources: of one trial, ``gpu`` settled.

    Returns:
        at least 1: that one trial has room was checked before.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    workers, threads = resources.workers, resources.cpus_per_worker
    kept = max(threads, 1)
    if resources.gpu is True:
        gpus = int(sum(node.get("GPU", 0) for node in alive))
        slots = sum(int(min(node.get("GPU", 0), node.get("CPU", 0) // kept)) for node in alive)
        most = min(slots, gpus - 1) // workers
    elif threads:
        most = sum(int(node.get("CPU", 0) // threads) for node in alive) // workers
    else:  # each worker computes with all cores of its node
        most = sum(node.get("CPU", 0) >= 1 for node in alive) // workers
    cpus = sum(node.get("CPU", 0) for node in alive)
    needed = workers * kept + BESIDE_TRAINING + resources.predict_workers
    return max(1, min(most, int(cpus // needed)))


class NotKept:
    """Ray Tune pickles what it is given, to restore it; a search goes on from its trials' folders instead."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Queue(NotKept, Searcher):
    """Ray Tune's view of the board."""

    def __init__(self, board: Board, search: Run, on_change: Callable[[Trial, bool], None]) -> None:
        super().__init__()
        self.board, self.search, self.on_change = board, search, on_change
        self.started: dict[str, Run] = {}

    def suggest(self, trial_id: str) -> Any:
        trial = self.board.next()
        if trial is None:
            return None if self.board.running else Searcher.FINISHED
        self.started[trial_id] = open_trial(self.search, trial)
        self.on_change(trial, False)
        return {"name": trial.name, "until": trial.until}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        run = self.started.pop(trial_id)
        run.reload()
        trial = trial_of(run)
        if not trial.done:  # it noted nothing: its process is gone
            note_failure(run, "its process ended without a word" if error else "it was stopped from outside")
            trial = trial_of(run)
        self.board.ended(trial)
        self.on_change(trial, True)

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class Watch(NotKept, TrialProgressCallback):
    """Shows how far the search is, every few seconds; where it is, Ray Tune prints no progress of its own."""

    def __init__(self, queue: Queue, progress: Progress, total: int) -> None:
        self.queue, self.progress, self.total = queue, progress, total
        self._last_look = -SECONDS_BETWEEN_LOOKS

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._last_look >= SECONDS_BETWEEN_LOOKS:
            self._last_look = time.monotonic()
            self.look()

    def on_trial_result(self, *args: Any, **info: Any) -> None:
        pass

    def on_trial_complete(self, *args: Any, **info: Any) -> None:
        pass

    def on_trial_error(self, *args: Any, **info: Any) -> None:
        pass

    def look(self) -> None:
        board = self.queue.board
        trials = (trial for seeds in board.trials.values() for trial in seeds.values())
        ended = sum(trial.done and trial.name not in board.running for trial in trials)
        facts = "; ".join(running(run) for run in self.queue.started.values())
        self.progress.update(ended, max(self.total, ended + len(board.running)), facts)


def running(run: Run) -> str:
    """A trial that trains, and its last validation."""
    run.reload()
    validations = run.state.get("validations", [])
    if not validations:
        return run.name
    return f"{run.name} at step {validations[-1]['step']}: occlusion AP {100 * validations[-1][SCORE]:.1f}"


def carry_out(
    board: Board, search: Run, work: Work, total: int, most: int, on_end: Callable[[], None]
) -> None:
    """Train until the board has nothing left.

    Args:
        board: what to train.
        search: whose trials.
        work: what they share.
        total: how many trials there will be, as far as that is known.
        most: no more trials at once than this; 0 is as many as the cluster holds.
        on_end: called after each trial.
    """
    at_once = trials_at_once(ray.nodes(), work.resources)
    at_once = min(at_once, most) if most else at_once
    ended = sum(trial.done for seeds in board.trials.values() for trial in seeds.values())
    say(
        f"{total} trial{'s' * (total != 1)}, {at_once} at once"
        + (f"; {ended} of them are there" if ended else "")
    )

    def on_change(trial: Trial, ended: bool) -> None:
        say(line(trial, ended, search.config.train.epochs))
        if ended:
            on_end()

    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1"}
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the other one names its scratch folder, however quiet it is
    queue = Queue(board, search, on_change)
    with TemporaryDirectory() as scratch, Progress("searching", "trial", work.verbose) as progress:
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(
                ray.tune.with_parameters(train_trial, work=work), ray.tune.PlacementGroupFactory([here()])
            ),
            tune_config=ray.tune.TuneConfig(search_alg=queue, num_samples=-1, max_concurrent_trials=at_once),
            run_config=ray.tune.RunConfig(
                name=search.name,
                storage_path=scratch,
                verbose=1 if work.verbose else 0,
                callbacks=[Watch(queue, progress, total)],
            ),
        )
        tuner.fit()


def here() -> dict[str, float]:
    """A sliver of this process's node and no CPU: trials write to MLflow, and its file may lie here only."""
    return {"CPU": 0, f"node:{ray.util.get_node_ip_address()}": 0.001}


def line(trial: Trial, ended: bool, epochs: int) -> str:
    """What is said when a trial starts and when it ends."""
    if not ended:
        return f"{trial.name}: training" + (f" to epoch {trial.until}" if trial.until < epochs else "")
    if trial.failed:
        return f"{trial.name}: failed ({trial.failed})"
    reached = max(trial.scores)
    score = trial.scores[reached]
    rung = f" at epoch {reached}" if reached < epochs else ""
    return f"{trial.name}: occlusion AP {100 * score.ap:.1f}, loss {score.loss:.5f}{rung}"
