"""The driver's side of training: Ray Train, its checkpoints, and validation beside it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.train import Checkpoint as RayCheckpoint
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer

from mipnet.config import Config, to_dict
from mipnet.data.coco import People
from mipnet.data.crops import crop_settings
from mipnet.data.dataset_formats import open_split
from mipnet.data.sample_schedule import WindowPlan
from mipnet.data.stream import PlannedSplit, WindowCutter, stream_factory
from mipnet.errors import UserError, mendable
from mipnet.evaluation.occlusion import SCORE, occlusion_ap
from mipnet.evaluation.result_rows import flat_metrics
from mipnet.evaluation.scoring import score_splits
from mipnet.host import cores
from mipnet.inference.splits import predict_splits
from mipnet.run_folder import TRAINING, Run
from mipnet.storage import Folder
from mipnet.training.atomic_files import storage_options
from mipnet.training.checkpoint import step_of
from mipnet.training.worker import train_worker

Validate = Callable[[RayCheckpoint], dict[str, Any]]

FIRST = {"env_vars": {"RAY_worker_niceness": "0"}}
"""Runtime environment of the processes that train: they come before Ray's other workers, which are nicer.

The threads of a training process wait for one another at every operator. Where any of them has to share its
core, all do: on two cores, a second thread gained nothing while decoding and validation had equal rights.
"""


@dataclass(frozen=True)
class Trained:
    """What training left behind.

    Attributes:
        best: folder of the best checkpoint by the occlusion metric.
        metrics: its step and validation metrics.
        steps: how many steps were made in all.
    """

    best: Folder
    metrics: dict[str, Any]
    steps: int


class Rows:
    """An actor that holds what the workers tell until the driver fetches it; bounded, the oldest go first.

    A row is the metrics of a step or of a validation, {"started": step, …} from workers that begin,
    {"failed": why} about workers that ended, {"unreadable": names of images}, or {"unvalidated": step,
    "cause": why}.
    """

    def __init__(self) -> None:
        self.rows: deque[dict[str, Any]] = deque(maxlen=10_000)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def take(self) -> list[dict[str, Any]]:
        rows = list(self.rows)
        self.rows.clear()
        return rows


class Failures(UserCallback):
    """Tells why workers ended; Ray Train calls it in its controller, which starts them again."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        rank, error = min(worker_exceptions.items())
        self.rows.add.remote({"failed": f"worker {rank}: {innermost(error)}"})


def make_plan(config: Config, people: People) -> WindowPlan:
    """The order of all samples of the run."""
    train = config.train
    return WindowPlan(people.first, train.seed, train.epochs, train.batch_size, train.window_batches)


def train(
    config: Config,
    run: Run,
    data: Folder,
    people: People,
    rows: Any,
    initial: str = "",
    epochs: int = 0,
    tasks: int = 0,
) -> Trained:
    """Train the run to its end, from its last checkpoint if it has one.

    Args:
        config: of the run.
        run: checkpoints go to its folder.
        data: the data set, for validation.
        people: what to train on.
        rows: handle of a ``Rows`` actor.
        initial: model folder to start from, "" for random weights.
        epochs: end, with a checkpoint, when so many are done; the schedule stays that of ``train.epochs``, so
            that another call goes on. 0 is all.
        tasks: decode with at most so many at once; 0 leaves it to Ray.

    Raises:
        UserError: the run stopped itself (updates not finite, too many corrupt images), or workers failed
            more often than ``resources.max_failures``.
    """
    plan = make_plan(config, people)
    validate = validator(config, run.folder.join(TRAINING), data, rows)
    until = math.ceil(plan.total_steps * min(epochs or math.inf, config.train.epochs) / config.train.epochs)
    validation = ray.train.ValidationConfig(fn=validate, ray_remote_kwargs={"num_cpus": 0})
    fit(config, run.folder, people, plan, until, rows, initial, tasks, validation)
    return best_of(run, until, validate)


def fit(
    config: Config,
    folder: Folder,
    people: People,
    plan: WindowPlan,
    until: int,
    rows: Any = None,
    initial: str = "",
    tasks: int = 0,
    validation: ray.train.ValidationConfig | None = None,
    mend: str = "the same command goes on from the last checkpoint",
) -> dict[str, Any]:
    """Ray Train over a plan, from the last checkpoint in ``folder`` if there is one.

    Args:
        config, people, rows, initial, tasks: as for ``train``; ``rows`` may be None.
        folder: checkpoints go there.
        plan: the order of all samples.
        until: the step to end at, with a checkpoint; beyond the plan's end, none is made there.
        validation: of every checkpoint; without it, none may be made.
        mend: what to do when workers failed.

    Returns:
        what ``train_worker`` returned on rank 0.

    Raises:
        UserError: as for ``train``.
    """
    cutter = ray.put(WindowCutter(people, plan, crop_settings(config)))
    resources = config.resources
    trainer = Trainer(
        train_worker,
        train_loop_config={
            "config": to_dict(config),
            "plan": plan,
            "threads": resources.cpus_per_worker,
            "rows": rows,
            "initial": initial,
            "until": until,
            "cutter": cutter,
        },
        datasets={"train": stream_factory(plan, lambda: position(folder))},
        dataset_config=PlannedSplit(cutter, plan, tasks),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpu is True,
            resources_per_worker={
                "CPU": max(resources.cpus_per_worker, 1),
                **({"GPU": 1} if resources.gpu is True else {}),
            },
        ),
        run_config=RunConfig(
            name=TRAINING,
            **storage_options(folder),
            worker_runtime_env=FIRST,
            failure_config=FailureConfig(max_failures=resources.max_failures),
            callbacks=[Failures(rows)] if rows else [],
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute=SCORE, checkpoint_score_order="max"
            ),
        ),
        validation_config=validation,
    )
    try:
        result = trainer.fit()
    except SystemExit:  # how Ray Train answers Ctrl-C, after it has stopped the workers
        raise KeyboardInterrupt from None
    except ray.train.TrainingFailedError as error:
        if known := mendable(error):
            raise UserError(f"training failed: {known.what}", known.mend or mend, 1) from error
        raise UserError(f"training failed: {innermost(error)}", mend, 1) from error
    outcome = result.return_value or {}
    if outcome.get("stopped"):
        raise UserError(f"training stopped at step {outcome['step']}: {outcome['stopped']}", exit_code=1)
    return outcome


CLEANER = "PlacementGroupCleanerCallback"
"""Of Ray Train: cleans up after a driver that was lost."""


class Trainer(TorchTrainer):
    """Ends at once where there is no dashboard.

    Ray Train's own clean-up after a lost driver asks the dashboard whether the driver lives. A Ray that was
    started for this command has no dashboard and ends with its driver: there the question is only waited
    for, ten seconds at the end of every training (measured).

    Ray has no public way to leave a callback out. Where it names one of these otherwise, training ends late.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        try:
            dashboard = ray._private.worker.get_dashboard_url()
        except AttributeError:
            return callbacks
        return [each for each in callbacks if dashboard or type(each).__name__ != CLEANER]


def position(folder: Folder) -> int:
    """The step that the run's latest checkpoint in the storage stands at; 0 without one.

    It is the one that Ray Train will hand to the workers: both read the same snapshot.
    """
    latest = restored(folder)
    return step_of(latest.checkpoint.path) if latest and latest.checkpoint else 0


def restored(folder: Folder) -> Result | None:
    """Ray Train's record of a run in the storage; None before its first checkpoint."""
    try:
        return Result.from_path(folder.path(TRAINING))
    except RuntimeError:  # there is no folder, or no record in it
        return None


def best_of(run: Run, steps: int, validate: Validate) -> Trained:
    """The best checkpoint of a run that was trained for so many steps.

    What could not be validated beside the training is validated here: Ray Train does not try again.

    Raises:
        UserError: there is none, or the data set cannot be used to validate it.
    """
    result = restored(run.folder)
    if result is None or not result.best_checkpoints:
        raise UserError(f"run {run.name} has no checkpoint", "start it again with --new", 1)
    checkpoints = [(c, m if SCORE in m else {**m, **validate(c)}) for c, m in result.best_checkpoints]

    def score(item: tuple[RayCheckpoint, dict[str, Any]]) -> float:
        value = item[1].get(SCORE, float("nan"))
        return -1.0 if math.isnan(value) else value

    checkpoint, metrics = max(checkpoints, key=score)
    name = checkpoint.path.rstrip("/").rpartition("/")[2]
    return Trained(run.folder.join(f"{TRAINING}/{name}"), metrics, steps)


def validator(config: Config, checkpoints: Folder, data: Folder, rows: Any) -> Validate:
    """What Ray Train runs on every checkpoint beside the training: the tune split's tables.

    The score that picks the best weights is the occlusion AP, in the boxes of the last configured source (for
    generated data a detector-like one).
    """
    source = config.data.boxes[-1]

    def validate(checkpoint: RayCheckpoint) -> dict[str, Any]:
        try:
            return tables(checkpoint)
        except Exception as error:  # Ray Train would not tell anybody
            cause = str(mendable(error) or innermost(error))
            rows.add.remote({"unvalidated": step_of(checkpoint.path), "cause": cause})
            raise

    def tables(checkpoint: RayCheckpoint) -> dict[str, Any]:
        # On a GPU only if the training leaves one: a validation that waits for it would come too late.
        spare = ray.cluster_resources().get("GPU", 0) - config.resources.workers
        resources = replace(
            config.resources,
            gpu=config.resources.gpu is True and spare >= 1,
            # Not one for each core: those who train have them all, and threads wait for one another.
            cpus_per_worker=config.resources.cpus_per_worker or max(cores() - 1, 1),
        )
        name = checkpoint.path.rstrip("/").rpartition("/")[2]
        files = {config.data.tune: open_split(config.data, data, config.data.tune)}
        poses = predict_splits(
            checkpoints.join(name),
            config,
            data,
            files,
            [source],
            resources,
            unreadable=lambda names: rows.add.remote({"unreadable": names}),
        )
        found = flat_metrics(score_splits(poses, config, files))
        metrics = {SCORE: occlusion_ap(config.data, found).value, **found}
        rows.add.remote({"step": step_of(name), **metrics})
        return metrics

    return validate


def innermost(error: BaseException) -> str:
    """The last line of the cause that a person can act on."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
