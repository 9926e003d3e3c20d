"""What a trial does, in a process of its own: it trains to its rung and notes what that scores."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from mipnet.cli.train import open_tracker, timed
from mipnet.config import Config
from mipnet.config.schema import ResourcesConfig
from mipnet.data.coco import Boxes
from mipnet.data.dataset_formats import boxes_of
from mipnet.errors import UserError, mendable
from mipnet.evaluation.occlusion import occlusion_ap
from mipnet.evaluation.predicted_poses import merged_results
from mipnet.evaluation.protocols import evaluate_poses
from mipnet.experiment.common import open_splits
from mipnet.experiment.phases import read_history, train_phase, training_people
from mipnet.experiment.preflight import check_data
from mipnet.inference.pipeline import predict_poses
from mipnet.ray_runtime.session import quieten
from mipnet.run_folder import MODEL, Run, load_run, locked
from mipnet.storage import Folder
from mipnet.tracking.tracker import Tracker
from mipnet.training.trainer import innermost
from tune.records import TRIAL, note_failure, note_scores
from tune.spaces import Space, pairs

LOCK_PATIENCE = 60.0  # seconds: the processes of a search that was killed take a while to end
PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class Work:
    """What all trials of a search need to know.

    Attributes:
        storage: of the data set and of MLflow.
        trials: the folder of the trials' folders.
        data: the data set.
        space: for the pairs of γ and NMS threshold.
        resources: for each trial, ``gpu`` settled.
        tracking: MLflow's URI, the same on every node.
        tags: of each trial's MLflow run.
        argv: of the search.
        verbose: show Ray's own messages.
    """

    storage: Folder
    trials: Folder
    data: Folder
    space: Space
    resources: ResourcesConfig
    tracking: str
    tags: Mapping[str, str]
    argv: Sequence[str]
    verbose: bool


def train_trial(job: Mapping[str, Any], work: Work) -> None:
    """Train a trial until it has ``job["until"]`` epochs. Whatever goes wrong is noted in its folder.

    Args:
        job: name: of the trial's run; until: epochs.
        work: what all trials share.
    """
    os.environ["MLFLOW_TRACKING_URI"] = work.tracking
    quieten(work.verbose)
    run = load_run(work.trials.join(job["name"]))
    run.config = replace(run.config, resources=work.resources)
    try:
        with ExitStack() as stack:
            lock_soon(run, stack)
            tracker = open_tracker(run, work.storage, work.argv, work.tags)
            status = "FAILED"
            try:
                with timed(run, "training"):
                    train_to_rung(run, work, tracker, job["until"])
                status = "FINISHED"
            except Exception as error:
                tracker.set_tags({"trial.failed": reason(error)})
                raise
            finally:
                tracker.close(status)
    except Exception as error:
        note_failure(run, reason(error))


def reason(error: Exception) -> str:
    """Why a trial failed, in a line: Ray's errors are whole tracebacks."""
    return str(mendable(error) or innermost(error))


def lock_soon(run: Run, stack: ExitStack) -> None:
    """Lock the run as soon as nobody else has it."""
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            stack.enter_context(locked(run))
            return
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def train_to_rung(run: Run, work: Work, tracker: Tracker, until: int) -> None:
    """Train from the last checkpoint to the end of epoch ``until``, and note the score there."""
    config = run.config
    if run.state[TRIAL].get("scores"):  # the tracker shows where a run goes on, and asks why
        run.note(ended=f"one of the best of its rung: on to epoch {until}")
    people = training_people(config, work.data, check_data(config, work.data), tracker)
    train_phase(run, work.data, people, tracker, plain=True, epochs=until)
    steps, best = run.state["trained"]["steps"], run.state["trained"]["best"]
    own = config.evaluation.discount, config.evaluation.oks_nms
    tried = pairs(work.space, config.model.instances) if until >= config.train.epochs else [own]
    if tried == [own]:  # just what the validation did
        metrics = {name: value for name, value in best.items() if name.count("/") == 3}
        choices = [choice(*own, config, metrics)]
    else:
        choices = try_pairs(run, work.data, tried)
    note_scores(run, until, steps, read_history(run.folder, steps), choices)
    tracker.metrics({"trial/occlusion_AP": max(c["occlusion_AP"] for c in choices)}, steps)
    tracker.set_tags({"trial.epochs": f"{until} of {config.train.epochs}"})


def try_pairs(run: Run, data: Folder, tried: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
    """The tuning split's figures under each pair of γ and NMS threshold, from one prediction."""
    config, split, source = run.config, run.config.data.tune, run.config.data.boxes[-1]
    file = open_splits(config, data, [split])[split]
    boxes = Boxes.join([boxes_of(file, data, split, source, config)])
    model = run.folder.join(MODEL)
    poses = predict_poses(boxes, model, config, config.resources).of_group(0)
    found = []
    for discount, oks_nms in tried:
        evaluation = replace(config.evaluation, discount=discount, oks_nms=oks_nms)
        merging = replace(config, evaluation=evaluation)
        results = merged_results(poses, merging, "merged", file.category_id)
        joints = config.data.joints
        figures = evaluate_poses(config.data.protocol, file.annotations, results, joints.sigmas)
        name = f"{split}/{source.partition('=')[0]}/merged"
        metrics = {f"{name}/{metric}": value for metric, value in figures.items() if value == value}
        found.append(choice(discount, oks_nms, config, metrics))
    return found


def choice(discount: float, oks_nms: float, config: Config, metrics: Mapping[str, float]) -> dict[str, Any]:
    """A pair and what it scores; a network that cannot be measured scores 0."""
    value = occlusion_ap(config.data, metrics).value
    score = value if value == value else 0.0
    return {"discount": discount, "oks_nms": oks_nms, "occlusion_AP": score, "metrics": dict(metrics)}
