"""Ray Train from the driver: start and restart the workers, validate their checkpoints, pick the best."""

from __future__ import annotations

import logging
import math
import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.train import Checkpoint as RayCheckpoint
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback, ValidationConfig
from ray.train.torch import TorchConfig, TorchTrainer

from mipnet.config import Config, to_dict
from mipnet.config.schema import ResourcesConfig
from mipnet.data.coco import PersonAnnotations
from mipnet.data.crops import crop_settings
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.data.stream import CropLoader, ScheduledDataConfig, window_dataset
from mipnet.errors import UserError, as_user_error, causes, first_line, root_cause
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.ray_runtime.resources import worker_resources
from mipnet.run_folder import TRAINING_FOLDER, Run, without_nulls
from mipnet.storage import Folder
from mipnet.tracking.journal import Journal
from mipnet.training.atomic_files import storage_options
from mipnet.training.checkpoint import checkpoint_name, step_from_path
from mipnet.training.checkpoint_validation import Metrics, Validate, make_validate_fn
from mipnet.training.early_end import EarlyEnd
from mipnet.training.elastic_group import resize_after_checkpoints
from mipnet.training.recovery import best_checkpoint, prune, read_record, recover, score
from mipnet.training.stop_signal import InterruptHandler, checkpoint_before_interrupt, start_stop_signal
from mipnet.training.validation_plan import ValidationPlan
from mipnet.training.worker import train_loop_per_worker

logger = logging.getLogger(__name__)

TRAIN_WORKER_RUNTIME_ENV = {"env_vars": {"RAY_worker_niceness": "0"}}
"""Runtime environment of the training processes: niceness 0; Ray's default for workers is 15.

The threads of a training process synchronize at every operator. If one of them has to share its core, all are
delayed: on two cores, a second thread gained nothing while decoding and validation had equal priority.
"""


@dataclass(frozen=True)
class TrainingResult:
    """What training left behind.

    Attributes:
        best: folder of the best checkpoint by the occlusion metric.
        metrics: its step and validation metrics.
        steps: number of steps made in all.
        ended: why the training ended early; None if it did not.
    """

    best: Folder
    metrics: dict[str, Any]
    steps: int
    ended: EarlyEnd | None = None


WORKER_GROUP_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
WORKER_GROUP_START_SECONDS = 1800
"""A node that an autoscaler starts takes minutes, and as long to import PyTorch from a cold disk; Ray's
default is 60 seconds."""
NOTICE_POLL_INTERVAL = "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"
NOTICE_POLL_SECONDS = 1.0
"""Ray's default is 5 seconds, of the 15 or 30 that some notices leave."""
ELASTIC_GROUP_START_SECONDS = 30
"""Of workers MIN:MAX, which are started only where nodes are. Ray notices a lost one up to 20 seconds late:
after this time it tries again, with those that are there."""
COLLECTIVE_TIMEOUT_SECONDS = 600
"""A rank that waits so long for the others has lost them, and holds their GPUs; PyTorch's default is half an
hour. All ranks compute the same, also in a validation; while rank 0 scores its poses or saves a checkpoint,
they wait in Ray Train's ``report``, which has no limit."""

VALIDATION_TASK = {"num_cpus": 0, "max_retries": 100}
"""Options of the task that validates beside the training. One loss more than Ray's 3 retries would end the
training; without a limit, a process that always crashes would keep it from ever ending."""

LOST_ACTOR_ERRORS = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)
"""An actor whose process or node is gone; the second if Ray killed it because memory ran out."""
NODE_ADDRESS = re.compile(r"\bip[:=] *([\da-fA-F.:]*\d)")
"""How Ray's errors name the node of the process that they are about."""
LOST_PROCESS = {
    "because its node has died": "its node was lost",
    "because its worker process has died": "its process was killed, crashed or ran out of memory",
    " is unavailable: ": "its process or node does not answer",
}
"""What Ray's long errors of lost actors say, in short. Of a killed process, Ray knows no reason either."""


class FailureReporter(UserCallback):  # type: ignore[misc, unused-ignore]  # Ray has no types
    """Records why workers failed; called in Ray Train's controller, which then restarts them."""

    def __init__(self, run_folder: Folder) -> None:
        self.run_folder = run_folder

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        rank, error = min(worker_exceptions.items())
        reason = root_cause(error)
        logger.warning("%d worker(s) failed, rank %d: %s", len(worker_exceptions), rank, reason)
        cause = next((short for words, short in LOST_PROCESS.items() if words in reason), reason)
        node = next((found[1] for each in causes(error) if (found := NODE_ADDRESS.search(str(each)))), "")
        journal = Journal(self.run_folder, "controller")
        journal.add("failed", cause=f"worker {rank}{f' on {node}' if node else ''}: {cause}")
        journal.flush()


def make_schedule(config: Config, people: PersonAnnotations) -> SampleSchedule:
    """The order of all samples of the run."""
    t = config.train
    return SampleSchedule(people.image_offsets, t.seed, t.epochs, t.batch_size, t.window_batches)


def end_step(schedule: SampleSchedule, epochs: int) -> int:
    """The step at which a training ends.

    Args:
        schedule: the order of all samples of the run.
        epochs: end, with a checkpoint, when so many are done; the schedule stays as it is, so that another
            call can go on. 0 is all.
    """
    return math.ceil(schedule.total_steps * min(epochs or math.inf, schedule.epochs) / schedule.epochs)


def train(
    config: Config,
    run: Run,
    data: Folder,
    people: PersonAnnotations,
    *,
    plan: ValidationPlan,
    initial_weights: str = "",
    max_decoding_tasks: int = 0,
    deadline: float = math.inf,
) -> TrainingResult:
    """Train the run to its end, from its last checkpoint if it has one.

    Args:
        config: of the run.
        run: checkpoints and journal go to its folder.
        data: the data set, for validation.
        people: what to train on.
        plan: which checkpoints to validate, and the step to end at.
        initial_weights: URI of a model folder to start from, "" for random weights.
        max_decoding_tasks: decode with at most so many at once; 0 leaves it to Ray.
        deadline: when to end early, in seconds since 1970.

    Raises:
        UserError: the run stopped itself (updates not finite, too many corrupt images), or workers failed
            more often than ``resources.max_failures``.
    """
    schedule = make_schedule(config, people)
    training = run.folder.join(TRAINING_FOLDER)
    validate = make_validate_fn(config, run.folder, data)
    # Not a process for each GPU: the training has most of them.
    resources = replace(config.resources, predict_workers=config.resources.predict_workers or 1)
    validate_beside = make_validate_fn(replace(config, resources=resources), run.folder, data)

    def validate_and_prune(checkpoint: RayCheckpoint) -> Metrics:
        metrics: Metrics = {}
        try:
            metrics = validate_beside(folder_name_of(checkpoint))
            return metrics
        finally:
            prune(training, folder_name_of(checkpoint), {folder_name_of(checkpoint): metrics})

    outcome = fit(
        config,
        run.folder,
        people,
        schedule,
        end_step=plan.end_step,
        initial_weights=initial_weights,
        max_decoding_tasks=max_decoding_tasks,
        deadline=deadline,
        validation={"plan": plan, "data": data},
        validation_config=ValidationConfig(fn=validate_and_prune, ray_remote_kwargs=VALIDATION_TASK),
    )
    ended = outcome.get("ended")
    plan = replace(plan, end_step=outcome["step"]) if ended else plan
    return replace(best_checkpoint_of(run, plan, validate), ended=ended)


def fit(
    config: Config,
    folder: Folder,
    people: PersonAnnotations,
    schedule: SampleSchedule,
    *,
    end_step: int,
    initial_weights: str = "",
    max_decoding_tasks: int = 0,
    deadline: float = math.inf,
    validation: Mapping[str, Any] | None = None,
    validation_config: ValidationConfig | None = None,
    hint: str = "the same command goes on from the last checkpoint",
) -> dict[str, Any]:
    """Run Ray Train over a schedule, from the last checkpoint in ``folder`` if there is one.

    Args:
        config, people, initial_weights, max_decoding_tasks, deadline: as for ``train``.
        folder: checkpoints and journal go there.
        schedule: the order of all samples.
        end_step: the step to end at, with a checkpoint; beyond the schedule's end, none is made there.
        validation: of checkpoints, see ``train_loop_per_worker``; without it, none is made.
        validation_config: of those that are validated beside the training.
        hint: what to do when workers failed.

    Returns:
        what ``train_loop_per_worker`` returned on rank 0.

    Raises:
        UserError: as for ``train``.
    """
    crop_loader = ray.put(CropLoader(people, schedule, crop_settings(config)))
    settings = {"config": to_dict(config), "threads": config.resources.cpus_per_worker}
    settings |= {"schedule": schedule, "end_step": end_step, "crop_loader": crop_loader, "folder": folder}
    stop = None if validation is None else start_stop_signal()
    settings |= {"initial_weights": initial_weights, "deadline": deadline, "validation": validation}
    settings |= {"stop": stop}
    trainer = Trainer(
        train_loop_per_worker,
        train_loop_config=settings,
        datasets={"train": lambda: window_dataset(schedule, last_checkpoint_step(folder))},
        dataset_config=ScheduledDataConfig(crop_loader, schedule, max_decoding_tasks),
        scaling_config=scaling_config(config.resources),
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_SECONDS),
        run_config=RunConfig(
            name=TRAINING_FOLDER,
            **storage_options(folder),
            worker_runtime_env=TRAIN_WORKER_RUNTIME_ENV,
            # Restarts after a notice are not counted (max_preemption_failures). Collectives stay strict, not
            # relax_collectives_on_preemption: a late rank could take the answer to another question.
            failure_config=FailureConfig(max_failures=config.resources.max_failures),
            callbacks=[FailureReporter(folder)],
        ),
        validation_config=validation_config,
    )
    seconds = ELASTIC_GROUP_START_SECONDS if config.resources.elastic else WORKER_GROUP_START_SECONDS
    ray_settings = {WORKER_GROUP_START_TIMEOUT: str(seconds), NOTICE_POLL_INTERVAL: str(NOTICE_POLL_SECONDS)}
    with environment_defaults(ray_settings), checkpoint_before_interrupt(stop) as trainer.on_interrupt:
        return run_trainer(trainer, hint)


@contextmanager
def environment_defaults(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables in the ``with`` block, but those that the user has set."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def scaling_config(resources: ResourcesConfig) -> ScalingConfig:
    """Ray Train's workers and what each reserves; ``resources`` as ``session.connect`` yields them."""
    number = (resources.min_workers, resources.max_workers) if resources.elastic else resources.min_workers
    return ScalingConfig(
        num_workers=number,
        use_gpu=resources.gpu is True,
        resources_per_worker=worker_resources(resources),
        elastic_resize_monitor_interval_s=resources.resize_seconds,
    )


def run_trainer(trainer: TorchTrainer, hint: str) -> dict[str, Any]:
    """``trainer.fit()``, with its failures as errors for the user.

    Returns:
        what ``train_loop_per_worker`` returned on rank 0.

    Raises:
        UserError: workers failed too often, the controller was lost, or the training stopped itself.
        KeyboardInterrupt: the user stopped it.
    """
    try:
        result = trainer.fit()
    except SystemExit:  # Ray Train's answer to Ctrl-C, after it has stopped the workers
        raise KeyboardInterrupt from None
    except LOST_ACTOR_ERRORS as error:  # of the only actor that the driver itself has started
        logger.info("training failed", exc_info=True)
        what = f"training failed: Ray Train's controller was lost ({first_line(error)})"
        raise UserError(what, hint, 1) from error
    except ray.train.TrainingFailedError as error:
        logger.info("training failed", exc_info=True)
        if known := as_user_error(error):
            raise UserError(f"training failed: {known.what}", known.hint or hint, 1) from error
        raise UserError(f"training failed: {root_cause(error)}", hint, 1) from error
    outcome = result.return_value or {}
    if outcome.get("stopped"):
        raise UserError(f"training stopped at step {outcome['step']}: {outcome['stopped']}", exit_code=1)
    return outcome


CLEANUP_CALLBACK = "PlacementGroupCleanerCallback"
"""Ray Train's class that cleans up after a lost driver."""


class Trainer(TorchTrainer):  # type: ignore[misc, unused-ignore]  # Ray has no types
    """``TorchTrainer`` that ends at once, resizes right after checkpoints, and saves one at Ctrl-C.

    Ray has no public way to any of this. If it renames what is overridden here, the rest works without it.

    - End: Ray Train's clean-up after a lost driver asks the dashboard whether the driver is alive. A Ray that
      was started for this command has no dashboard and ends with its driver: the question only delays the end
      of every training, by ten seconds (measured).
    - Resizes: see ``resize_after_checkpoints``.
    - Ctrl-C: Ray sets its own handler when the training begins; ours has to come before it.

    Attributes:
        on_interrupt: what to do before Ray's handler.
    """

    on_interrupt: InterruptHandler | None = None

    def _register_sigint_handler(self, controller: Any) -> None:
        super()._register_sigint_handler(controller)
        if self.on_interrupt is not None:
            self.on_interrupt.install(signal.SIGINT)

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        if self.scaling_config.elasticity_enabled and "scaling_policy" in settings:
            settings["scaling_policy"] = resize_after_checkpoints(settings["scaling_policy"])
        return super()._initialize_and_run_controller(**settings)

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        try:
            dashboard = ray._private.worker.get_dashboard_url()
        except AttributeError:
            logger.debug("this Ray does not tell whether it has a dashboard", exc_info=True)
            return callbacks
        return [each for each in callbacks if dashboard or type(each).__name__ != CLEANUP_CALLBACK]


def last_checkpoint_step(folder: Folder) -> int:
    """The step of the run's latest checkpoint in Ray Train's record; 0 without one.

    Ray Train hands the same checkpoint to the workers.
    """
    return step_from_path(max(read_record(folder.join(TRAINING_FOLDER)), default=checkpoint_name(0)))


def best_checkpoint_of(run: Run, plan: ValidationPlan, validate: Validate) -> TrainingResult:
    """The best checkpoint of a run that was trained to the end of ``plan``.

    Those that should have been validated and could not be are validated here: Ray Train does not retry.

    Raises:
        UserError: none is whole, the last one cannot be measured, or the data set cannot be used to.
    """
    training, steps = run.folder.join(TRAINING_FOLDER), plan.end_step
    found = recover(training, run.config, run.state.get("validations", []))
    if found.step < steps:
        what = f"the last checkpoint of run {run.name} was damaged"
        raise UserError(what, f"the same command goes on at step {found.step}", 1)
    run.note(damaged_checkpoints=list(found.skipped))
    recorded = read_record(training)
    for name, metrics in recorded.items():
        if SELECTION_METRIC not in metrics and plan.due(step_from_path(name)):
            metrics |= validate(name)
    last = max(recorded)
    if math.isnan(score(recorded[last])):
        what = f"the last checkpoint of run {run.name} has no occlusion AP on the split {run.config.data.val}"
        hint = "lower --train.learning-rate if it has diverged, or validate on people (--data.val)"
        raise UserError(what, hint, 1)
    best = best_checkpoint(recorded)
    logger.info("best checkpoint: %s of %d", best, len(recorded))
    prune(training, last, recorded)
    return TrainingResult(training.join(best), without_nulls(recorded[best]), steps)


def folder_name_of(checkpoint: RayCheckpoint) -> str:
    return str(checkpoint.path).rstrip("/").rpartition("/")[2]
