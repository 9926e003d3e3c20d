"""Run the trials of a search on Ray Tune, which here only starts and watches their processes.

- Scheduling is that of ``successive_halving``. Ray's ASHAScheduler stops running trials, and what it stops
  too early is lost; here a trial ends at its rung, and a promoted one continues from its checkpoint.
- Sampling is that of ``samplers``, which ask Optuna directly: a pure function of the trials so far. The state
  of Ray's OptunaSearch is in its process.
- ``Tuner.restore`` is not used: the state of a search is its trials' folders, and Ray Tune's own experiment
  folder is temporary.
- A trial's process reserves no CPU: it starts a Ray Train run, whose workers reserve what they need.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from tempfile import TemporaryDirectory
from typing import Any

import ray
import ray.tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import Searcher

import tune
from mipnet.config.schema import ResourcesConfig
from mipnet.console import say
from mipnet.errors import UserError
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.experiment.progress import Progress
from mipnet.run_folder import Run
from tune.successive_halving import Trial, TrialScheduler
from tune.trainable import TrialContext, train_trial
from tune.trial_folders import note_failure, open_trial, trial_from_run

logger = logging.getLogger(__name__)

AUXILIARY_CPUS_PER_TRIAL = 2
"""One for a decoding task of the trial's stream, one for the crops of its validation."""
PROGRESS_INTERVAL_SECONDS = 5.0

# By default Ray pickles these modules by name, and workers on other nodes cannot import ``tune``.
ray.cloudpickle.register_pickle_by_value(tune)


def trials_at_once(nodes: Sequence[Mapping[str, Any]], resources: ResourcesConfig) -> int:
    """How many trials a cluster holds without any of them waiting for what another one keeps.

    A trial keeps its training workers as long as it trains. They wait for decoding, so there
    must be room for those beside the workers of all trials: a CPU for the stream, one for the crops of the
    last prediction, and one for each prediction process, which gets the GPU of a worker that has ended.

    Args:
        nodes: as ``ray.nodes()`` returns them.
        resources: of one trial; ``gpu`` is resolved.

    Returns:
        at least 1, because it was checked before that one trial has room.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    workers, threads = resources.max_workers, resources.cpus_per_worker
    worker_cpus = max(threads, 1)
    if resources.gpu is True:
        slots = sum(int(min(node.get("GPU", 0), node.get("CPU", 0) // worker_cpus)) for node in alive)
        most = slots // workers
    elif threads:
        most = sum(int(node.get("CPU", 0) // threads) for node in alive) // workers
    else:  # each worker computes with all cores of its node
        most = sum(node.get("CPU", 0) >= 1 for node in alive) // workers
    cpus = sum(node.get("CPU", 0) for node in alive)
    cpus_per_trial = workers * worker_cpus + AUXILIARY_CPUS_PER_TRIAL + max(resources.predict_workers, 1)
    return max(1, min(most, int(cpus // cpus_per_trial)))


class PickledWithoutState:
    """Pickles as an empty object: Ray Tune pickles searchers and callbacks for ``Tuner.restore`` only."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class SearcherAdapter(PickledWithoutState, Searcher):  # type: ignore[misc, unused-ignore]  # Ray is untyped here
    """Presents a ``TrialScheduler`` to Ray Tune as a searcher.

    Args:
        scheduler: decides what to train.
        search: the search's run.
        on_change: called with a trial that starts (False) or ended (True).
    """

    def __init__(
        self, scheduler: TrialScheduler, search: Run, on_change: Callable[[Trial, bool], None]
    ) -> None:
        super().__init__()
        self.scheduler, self.search, self.on_change = scheduler, search, on_change
        self.started: dict[str, Run] = {}  # Ray Tune's id of a running trial -> its run

    def suggest(self, trial_id: str) -> Any:
        """The config of the next trial; None: not now; FINISHED: none any more."""
        trial = self.scheduler.next_trial()
        if trial is None:
            return None if self.scheduler.running else Searcher.FINISHED
        self.started[trial_id] = open_trial(self.search, trial)
        self.on_change(trial, False)
        return {"name": trial.name, "target_epochs": trial.target_epochs}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Read from its folder how a trial ended; its process notes scores and failures there."""
        run = self.started.pop(trial_id)
        run.reload()
        trial = trial_from_run(run)
        if not trial.done:
            logger.info("%s noted neither a score nor a failure (error=%s)", run.name, error)
            note_failure(run, "its process ended without a word" if error else "it was stopped from outside")
            trial = trial_from_run(run)
        self.scheduler.on_trial_end(trial)
        self.on_change(trial, True)

    def save(self, checkpoint_path: str) -> None:
        """Abstract in ``Searcher``; there is nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Abstract in ``Searcher``; there is nothing to restore."""


class ProgressCallback(PickledWithoutState, TrialProgressCallback):  # type: ignore[misc, unused-ignore]
    """Updates a progress bar every few seconds.

    It is a ``TrialProgressCallback`` because Ray Tune adds its own progress output unless there is one. Their
    methods that print are overridden.
    """

    def __init__(self, searcher: SearcherAdapter, progress: Progress, total: int) -> None:
        self.searcher, self.progress, self.total = searcher, progress, total
        self._last_update = -PROGRESS_INTERVAL_SECONDS

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._last_update >= PROGRESS_INTERVAL_SECONDS:
            self._last_update = time.monotonic()
            self.update()

    def on_trial_result(self, *args: Any, **info: Any) -> None:
        """Print nothing."""

    on_trial_complete = on_trial_error = on_trial_result

    def update(self) -> None:
        """Show how many trials ended, and the last validation of those that run."""
        scheduler = self.searcher.scheduler
        ended = scheduler.num_done
        facts = "; ".join(progress_text(run) for run in self.searcher.started.values())
        self.progress.update(ended, max(self.total, ended + len(scheduler.running)), facts)


def progress_text(run: Run) -> str:
    """A trial that trains, and its last validation."""
    with suppress(OSError, UserError):  # a store that does not answer is asked again
        run.reload()
    validations = run.state.get("validations", [])
    if not validations:
        return run.name
    last = validations[-1]
    return f"{run.name} at step {last['step']}: occlusion AP {100 * last[SELECTION_METRIC]:.1f}"


def run_trials(
    scheduler: TrialScheduler,
    search: Run,
    context: TrialContext,
    *,
    total: int,
    limit: int,
    on_end: Callable[[], None],
) -> None:
    """Train until the scheduler has no trial left.

    Args:
        scheduler: decides what to train.
        search: the search's run.
        context: what the trials share.
        total: expected number of trials, for messages.
        limit: no more trials at once than this; 0: as many as the cluster holds.
        on_end: called after each trial.
    """
    at_once = trials_at_once(ray.nodes(), context.resources)
    at_once = min(at_once, limit) if limit else at_once
    there = f"; {scheduler.num_done} of them are there" if scheduler.num_done else ""
    say(f"{total} trial{'s' * (total != 1)}, {at_once} at once{there}")

    def on_change(trial: Trial, ended: bool) -> None:
        say(trial_message(trial, ended, search.config.train.epochs))
        if ended:
            on_end()

    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1"}
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new output prints the path of the scratch folder in any case
    searcher = SearcherAdapter(scheduler, search, on_change)
    # No CPU, and a bit of the driver's node: trials stay there, because MLflow may be a local SQLite file.
    here = {"CPU": 0, f"node:{ray.util.get_node_ip_address()}": 0.001}
    resources = ray.tune.PlacementGroupFactory([here])
    trainable = ray.tune.with_resources(ray.tune.with_parameters(train_trial, context=context), resources)
    tune_config = ray.tune.TuneConfig(search_alg=searcher, num_samples=-1, max_concurrent_trials=at_once)
    with TemporaryDirectory() as scratch, Progress("searching", "trial", context.verbose) as progress:
        run_config = ray.tune.RunConfig(
            name=search.name,
            storage_path=scratch,
            verbose=1 if context.verbose else 0,
            callbacks=[ProgressCallback(searcher, progress, total)],
        )
        ray.tune.Tuner(trainable, tune_config=tune_config, run_config=run_config).fit()


def trial_message(trial: Trial, ended: bool, epochs: int) -> str:
    """What the screen says when a trial starts or ended; ``epochs`` of the whole training."""
    if not ended:
        target = trial.target_epochs
        return f"{trial.name}: training" + (f" to epoch {target}" if target < epochs else "")
    if trial.failed:
        return f"{trial.name}: failed ({trial.failed})"
    reached = max(trial.scores)
    score = trial.scores[reached]
    rung = f" at epoch {reached}" if reached < epochs else ""
    return f"{trial.name}: occlusion AP {100 * score.ap:.1f}, loss {score.loss:.5f}{rung}"
