"""Ray Tune's trainable: a process that trains a trial to its rung and notes the score there."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from mipnet.config import Config
from mipnet.config.schema import ResourcesConfig
from mipnet.data.coco import Boxes
from mipnet.data.dataset_formats import load_boxes
from mipnet.errors import UserError, as_user_error, root_cause
from mipnet.evaluation.occlusion import occlusion_ap
from mipnet.evaluation.predicted_poses import score_predictions
from mipnet.experiment.data_identity import check_same_data
from mipnet.experiment.datasets import open_splits
from mipnet.experiment.preflight import check_data
from mipnet.experiment.training_phase import read_history, train_phase, training_people
from mipnet.experiment.training_run import open_tracker, timed_phase
from mipnet.inference.pipeline import predict_poses
from mipnet.ray_runtime.session import silence_ray
from mipnet.run_folder import MODEL_FOLDER, Run, load_run, locked
from mipnet.storage import Folder, split_uri
from mipnet.tracking.tracker import Tracker
from tune.search_space import SearchSpace, discount_nms_pairs, with_pair
from tune.trial_folders import TRIAL_KEY, note_failure, note_scores

logger = logging.getLogger(__name__)

LOCK_TIMEOUT_SECONDS = 60.0
"""The processes of a search that was killed may keep their trials locked for a while."""


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a search share.

    Attributes:
        storage: root of data sets and of MLflow.
        trials_folder: has a folder for each trial.
        data: folder of the data set.
        space: has the pairs of γ and NMS threshold.
        resources: of each trial; ``gpu`` is resolved.
        tracking_uri: MLflow's URI, the same on every node.
        tags: of each trial's MLflow run.
        argv: the search's flags.
        verbose: show Ray's own messages.
    """

    storage: Folder
    trials_folder: Folder
    data: Folder
    space: SearchSpace
    resources: ResourcesConfig
    tracking_uri: str
    tags: Mapping[str, str]
    argv: Sequence[str]
    verbose: bool


def train_trial(trial_spec: Mapping[str, Any], context: TrialContext) -> None:
    """Train a trial to a number of epochs; a failure is noted in its folder and not raised.

    Args:
        trial_spec: Ray Tune's config of the trial: ``name`` of its run, ``target_epochs``.
        context: what all trials share.
    """
    os.environ["MLFLOW_TRACKING_URI"] = context.tracking_uri
    silence_ray(context.verbose)
    run = load_run(context.trials_folder.join(trial_spec["name"]))
    # Inline: a GPU that one trial leaves free is for the next trial.
    run.config = replace(run.config, resources=replace(context.resources, validation="inline"))
    try:
        with ExitStack() as stack:
            lock_with_retries(run, stack)
            tracker = stack.enter_context(tracked(run, context))
            try:
                with timed_phase(run, "training"):
                    train_to_rung(run, context, tracker, trial_spec["target_epochs"])
            except Exception as error:
                tracker.set_tags({"trial.failed": failure_message(error)})
                raise
    except Exception as error:
        logger.warning("trial %s failed", run.name, exc_info=True)
        note_failure(run, failure_message(error))


@contextmanager
def tracked(run: Run, context: TrialContext) -> Iterator[Tracker]:
    """The tracker of a trial; its MLflow run ends with the ``with`` block, as FAILED after an exception.

    The run is ``owed`` if MLflow did not take everything: the search's end sends it.
    """
    tracker = open_tracker(run, context.storage, context.argv, context.tags)
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    finally:
        run.note(owed=not tracker.close(status))


def failure_message(error: Exception) -> str:
    """The message of a failure's cause; Ray's own errors contain whole tracebacks."""
    return str(as_user_error(error) or root_cause(error))


def lock_with_retries(run: Run, stack: ExitStack) -> None:
    """Lock the run until ``stack`` is closed.

    Raises:
        UserError: another process has kept it locked for ``LOCK_TIMEOUT_SECONDS``.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while True:
        try:
            stack.enter_context(locked(run))
            return
        except UserError:
            if time.monotonic() > deadline:
                raise
            logger.info("%s is locked by another process; trying again", run.name)
            time.sleep(1)


def train_to_rung(run: Run, context: TrialContext, tracker: Tracker, target_epochs: int) -> None:
    """Train from the last checkpoint to ``target_epochs``, and note the score there."""
    config = run.config
    if run.state[TRIAL_KEY].get("scores"):
        # Shown as the reason of the resume event.
        run.note(ended=f"one of the best of its rung: on to epoch {target_epochs}")
    search, _ = split_uri(context.trials_folder.uri)
    check_same_data("the search", search, context.data)
    people = training_people(run, context.data, check_data(config, context.data), tracker)
    train_phase(run, context.data, people, tracker, plain=True, epochs=target_epochs)
    steps, best = run.state["trained"]["steps"], run.best_metrics
    own_pair = config.evaluation.discount, config.evaluation.oks_nms
    pairs = [own_pair]
    if target_epochs >= config.train.epochs:
        pairs = discount_nms_pairs(context.space, config.model.instances)
    if pairs == [own_pair]:  # the validation has evaluated it
        metrics = {name: value for name, value in best.items() if name.count("/") == 3}
        choices = [pair_result(own_pair, config, metrics)]
    else:
        choices = evaluate_pairs(run, context.data, pairs)
    note_scores(run, target_epochs, steps, read_history(run.folder, steps), choices)
    score = max(c["occlusion_AP"] for c in choices)
    tracker.log_metrics({"trial/occlusion_AP": score}, steps, once="trial")
    tracker.set_tags({"trial.epochs": f"{target_epochs} of {config.train.epochs}"})


def evaluate_pairs(run: Run, data: Folder, pairs: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
    """Metrics of the validation split with each pair of γ and NMS threshold, from one prediction."""
    config, split, source = run.config, run.config.data.val, run.config.data.boxes[-1]
    file = open_splits(config, data, [split])[split]
    boxes = Boxes.concatenate([load_boxes(file, data, split, source, config)])
    model = run.folder.join(MODEL_FOLDER)
    poses = predict_poses(boxes, model, config, config.resources).of_source(0)
    choices = []
    for pair in pairs:
        merging = with_pair(config, *pair)
        figures, _ = score_predictions(poses, merging, file, "merged")
        name = f"{split}/{source.partition('=')[0]}/merged"
        metrics = {f"{name}/{metric}": value for metric, value in figures.items() if value == value}
        choices.append(pair_result(pair, config, metrics))
    return choices


def pair_result(pair: tuple[float, float], config: Config, metrics: Mapping[str, float]) -> dict[str, Any]:
    """A pair and its occlusion AP, 0 to 1.

    Raises:
        UserError: it could not be measured, which is no figure to rank by.
    """
    value = occlusion_ap(config.data, metrics).value
    if math.isnan(value):
        hint = "validate on people (--data.val)"
        raise UserError(f"there is no occlusion AP on the split {config.data.val}", hint, 1)
    return {"discount": pair[0], "oks_nms": pair[1], "occlusion_AP": value, "metrics": dict(metrics)}
