"""The training phase of a run: initial weights, Ray Train, forwarded metrics, the best weights."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray

from mipnet.config.presets import missing_start
from mipnet.console import say
from mipnet.data.annotation_statistics import crowding
from mipnet.data.coco import CocoKeypointFile, PersonAnnotations
from mipnet.data.crops import crop_settings
from mipnet.data.dataset_formats import load_boxes, open_split
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.errors import UserError, first_line
from mipnet.experiment import metric_forwarder
from mipnet.experiment.progress import Progress
from mipnet.models.initialization import warm_start_from_folder
from mipnet.models.reference_checkpoints import import_checkpoint, is_checkpoint
from mipnet.ray_runtime.capacity import capacity
from mipnet.ray_runtime.elastic_workers import training_cpus
from mipnet.registry.resolve import resolve_model
from mipnet.run_folder import MODEL_FOLDER, TRAINING_FOLDER, Run
from mipnet.storage import Folder
from mipnet.tracking.datasets import describe_datasets
from mipnet.tracking.tracker import Tracker
from mipnet.training.checkpoint import HISTORY_FILE, checkpoint_name, model_from_config
from mipnet.training.checkpoint_validation import selection_source
from mipnet.training.recovery import recover
from mipnet.training.trainer import TrainingResult, end_step, make_schedule, train
from mipnet.training.validation_plan import ValidationPlan, checkpoints_per_validation, plan_validation
from mipnet.visualization.overlays import encode_jpeg
from mipnet.visualization.training_crops import training_grid

TRAINING_CROPS_FILE = "training-crops.jpg"
VALIDATION_KEY = "checkpoints_per_validation"
"""In run.json: decided once, so that a continued run validates the same checkpoints."""
ENDED_TAG = "training.ended"
"""Of the MLflow run: why its training ended."""
DATA_KEY = "data"
"""In the run's state: the data sets that the model card lists."""


def train_phase(
    run: Run, data: Folder, people: PersonAnnotations, tracker: Tracker, *, plain: bool, epochs: int = 0
) -> None:
    """Train, and copy the best weights to the run's folder ``model``.

    Args:
        run: what to train.
        data: the data set's folder.
        people: to train on, see ``training_people``.
        tracker: of the run.
        plain: progress as lines even in a terminal.
        epochs: end after so many, see ``mipnet.training.trainer.end_step``; 0 is all.
    """
    config = run.config
    schedule = make_schedule(config, people)
    save_example_crops(run, people, schedule, tracker)
    plan = validation_plan(run, data, end_step(schedule, epochs))
    noted = run.state.get("validations", [])
    found = recover(run.folder.join(TRAINING_FOLDER), config, noted, plan.beside)
    done = found.step
    say(
        f"{len(people)} people in {len(people.images)} images; {schedule.total_steps} steps of "
        f"{config.train.batch_size} on {config.resources.workers_in_words} worker(s)"
        + (f"; going on at step {done}" if done else "")
    )
    nodes = ray.nodes()
    decoding = capacity(nodes, config, training_cpus(nodes, config.resources))
    say(decoding.line())
    note_start(run, tracker, done, found.skipped)
    initial = initial_weights(run)
    hours = config.train.max_hours
    deadline = time.time() + 3600 * hours if hours else math.inf
    with Progress("training", "step", plain, done, schedule.total_steps) as progress:
        forwarder = metric_forwarder.MetricForwarder(run, tracker, progress, schedule.total_steps)
        with forwarder:
            trained = train(
                config,
                run,
                data,
                people,
                plan=plan,
                initial_weights=initial,
                max_decoding_tasks=decoding.max_tasks,
                deadline=deadline,
            )
    forwarder.settle(read_history(run.folder, trained.steps))
    with TemporaryDirectory() as scratch:
        copy_model(Folder.of(trained.best.download(Path(scratch))), run.folder.join(MODEL_FOLDER))
    note_trained(run, trained, tracker)


def note_trained(run: Run, trained: TrainingResult, tracker: Tracker) -> None:
    """Note how far a training came, and why it ended early if it did."""
    state: dict[str, Any] = {"steps": trained.steps, "best": trained.metrics}
    if trained.ended:
        say(f"training ended early at step {trained.steps}: {trained.ended.why}")
        state["ended"] = asdict(trained.ended)
    tracker.set_tags({ENDED_TAG: trained.ended.why if trained.ended else "all steps are made"})
    run.note(trained=state)


def validation_plan(run: Run, data: Folder, last_step: int) -> ValidationPlan:
    """Which checkpoints to validate, and where; says so. How often is decided at the first start of a run.

    Raises:
        UserError: validation cannot be where it is asked for, or its split cannot be read.
    """
    config, split = run.config, run.config.data.val
    file = open_split(config.data, data, split)
    num_boxes = len(load_boxes(file, data, split, selection_source(config), config))
    every = run.state.get(VALIDATION_KEY) or checkpoints_per_validation(config, num_boxes)
    spare_gpus, free_gpus = (
        int(found.get("GPU", 0)) - config.resources.max_workers
        for found in (ray.cluster_resources(), ray.available_resources())
    )
    plan = plan_validation(
        config, num_boxes, last_step, every=every, spare_gpus=spare_gpus, free_gpus=free_gpus
    )
    run.note(**{VALIDATION_KEY: every})
    say(plan.line(num_boxes, config.resources.gpu is True))
    return plan


def training_people(
    run: Run, data: Folder, files: Mapping[str, CocoKeypointFile], tracker: Tracker
) -> PersonAnnotations:
    """The persons to train on; logs all data sets of the run to MLflow, and notes them for the model card."""
    described = describe_datasets(run.config.data, data, files)
    tracker.log_inputs(described)
    if DATA_KEY not in run.state:
        crowded = [asdict(crowding(file.people())) for file in files.values()]
        run.note(**{DATA_KEY: [summary_of(d) | crowd for d, crowd in zip(described, crowded, strict=True)]})
    return files[run.config.data.train].people()


def summary_of(described: Mapping[str, str]) -> dict[str, Any]:
    """Name, digest, context, and numbers of people and images of one of ``describe_datasets``."""
    size: dict[str, Any] = json.loads(described["profile"])
    return {**{name: described[name] for name in ("name", "digest", "context")}, **size}


def save_example_crops(
    run: Run, people: PersonAnnotations, schedule: SampleSchedule, tracker: Tracker
) -> None:
    """Save a picture of the first training crops to the run's folder and MLflow."""
    grid = training_grid(people, schedule, crop_settings(run.config))
    if grid is not None:
        pictures = run.folder.join("pictures")
        pictures.write(TRAINING_CROPS_FILE, encode_jpeg(grid))
        tracker.log_artifacts(pictures, "pictures")


def note_start(run: Run, tracker: Tracker, step: int, skipped: Sequence[str] = ()) -> None:
    """Count the starts of this training; each after the first is recorded as a "resume" event.

    Args:
        run, tracker: of the training.
        step: it goes on from here.
        skipped: damaged checkpoints, a clause each.
    """
    starts = run.state.get("starts", 0)
    if starts or step:
        cause = run.state.get("ended") or "the last start ended without a word"
        cause = "; left out ".join([cause, *skipped])
        metric_forwarder.note_event(run, tracker, "resume", step, cause)
    else:
        metric_forwarder.log_events(run, tracker)
    run.note(starts=starts + 1, ended="")


def initial_weights(run: Run) -> str:
    """The folder of the initial weights, "" for random ones; says which parameters stay random."""
    init = run.config.train.init
    if not init:
        if warning := missing_start(run.config):
            say(warning)
        return ""
    random = fetch_initial(run)
    say(f"starting from {init}; " + (f"random: {random}" if random else "all of it"))
    return initial_folder(run).uri


def fetch_initial(run: Run) -> str:
    """Copy the initial weights into the run's folder, where every node can read them, unless they are there.

    Returns:
        the parameters that stay random.

    Raises:
        UserError: there are no such weights, or they do not fit the network.
    """
    init, folder = run.config.train.init, initial_folder(run)
    with TemporaryDirectory() as scratch:
        if not folder.exists("model.json"):
            if is_checkpoint(init):
                done = import_checkpoint(init, scratch, run.config.input.size)
                for note in done.notes:
                    say(f"{init}: {note}")
                source = Folder.of(done.folder)
            else:
                source = resolve_model(init, run.storage)
            copy_model(source, folder)
        local = folder.download(Path(scratch))
        return warm_start_from_folder(model_from_config(run.config), local, run.config.data.joints, init)


def copy_model(source: Folder, target: Folder) -> None:
    """Copy a model folder's files; model.json last: it marks the copy as complete."""
    for name in ("weights.safetensors", "model.json"):
        target.write(name, source.read(name))


def initial_folder(run: Run) -> Folder:
    return run.folder.join("initial")


def read_history(folder: Folder, step: int) -> list[dict[str, float]]:
    """The metric rows that were logged up to the checkpoint of ``step``.

    Raises:
        UserError: they cannot be read.
    """
    file = f"{TRAINING_FOLDER}/{checkpoint_name(step)}/{HISTORY_FILE}"
    try:
        history: list[dict[str, float]] = json.loads(folder.read(file))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {folder.path(file)} ({first_line(error)})", exit_code=1) from None
    return history
