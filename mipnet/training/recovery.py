"""Which checkpoints of a run are whole; Ray Train's record of them, mended from the folders that are there.

Ray refuses a record that is cut, or that names a folder that is gone, and so the run. ``recover`` therefore
writes the record anew at every start: training goes on from the newest checkpoint whose training state is
whole, and the best one is chosen among those whose weights are whole.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import torch

from mipnet.config import Config
from mipnet.console import say
from mipnet.errors import UserError, first_few
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.run_folder import without_nulls
from mipnet.storage import Folder
from mipnet.training.checkpoint import (
    MANIFEST_FILE,
    MODEL_FILES,
    STATE_FILES,
    checkpoint_name,
    damage,
    load_checkpoint,
    missing_files,
    model_from_config,
    save_weights,
    step_from_path,
    write_manifest,
)
from mipnet.training.step import TrainStep

logger = logging.getLogger(__name__)

RECORD_FILE = "checkpoint_manager_snapshot.json"
"""Ray Train's record of a run's checkpoints (its ``_CheckpointManagerState``)."""
REMOVAL_MARK = "removed-"
"""In the name of an empty file beside a checkpoint that is being removed. A kill in between leaves a part of
the checkpoint, which would else look like a damaged one."""
NUM_NEWEST = 2
"""So many of the newest checkpoints are kept beside the best."""

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Recovery:
    """What a training goes on from.

    Attributes:
        step: of the newest checkpoint whose training state is whole; 0 is the beginning.
        skipped: checkpoints that cannot be used, and why; a clause each.
    """

    step: int
    skipped: Sequence[str] = ()


def recover(
    training: Folder,
    config: Config,
    validations: Sequence[Mapping[str, Any]] = (),
    pending: Callable[[int], bool] = lambda step: False,
) -> Recovery:
    """Say which checkpoints are not whole, and mend Ray Train's record; removes only what is half removed.

    Args:
        training: the run's folder of checkpoints.
        config: of the run, to make damaged weights again from a training state that is whole.
        validations: rows of ``step`` and metrics, for those that the record has lost.
        pending: takes a step; whether Ray Train shall validate its checkpoint, if it has no metrics.

    Raises:
        UserError: no checkpoint is whole although one was completed, or the storage does not answer.
    """
    finish_removals(training)
    names = checkpoint_names(training)
    try:
        metrics = read_record(training)
        recorded = bool(metrics)  # Ray Train writes one before the first checkpoint, too
    except ValueError:
        logger.warning("Ray Train's record is damaged", exc_info=True)
        say(f"{training.path(RECORD_FILE)} is damaged; made again from {len(names)} checkpoint(s)")
        metrics, recorded = {}, True
    validated = {checkpoint_name(int(row["step"])): dict(row) for row in validations}
    validated |= {name: each for name, each in metrics.items() if SELECTION_METRIC in each}
    metrics = {name: validated.get(name, {"step": step_from_path(name)}) for name in names}
    usable, skipped = sort_out(training, config, metrics)
    if not usable and (recorded or any(not missing_files(training.join(name)) for name in names)):
        found = first_few(skipped) or "there is none, but a record of some"
        hint = "put a copy of one in its place, or start another run with --new"
        raise UserError(f"no checkpoint in {training.uri} is whole: {found}", hint, 1)
    if skipped:
        say(f"checkpoints left out: {'; '.join(skipped)}")
    if usable:
        write_record(training, {name: metrics[name] for name in reversed(usable)}, pending)
    return Recovery(step_from_path(usable[0]) if usable else 0, skipped)


def sort_out(training: Folder, config: Config, metrics: Mapping[str, Metrics]) -> tuple[list[str], list[str]]:
    """The usable checkpoints, the newest first, and a clause about each of the others.

    Those after the newest whole training state are left out even if their weights are whole: they are made
    again.
    """
    usable: list[str] = []
    skipped: list[str] = []
    best = best_checkpoint(metrics)
    for name in sorted(metrics, reverse=True):
        state, model = (damage(training.join(name), files) for files in (STATE_FILES, MODEL_FILES))
        if state and (model or not usable):
            lost = f", the best so far: occlusion AP {100 * score(metrics[name]):.1f}" if name == best else ""
            skipped.append(f"{name} ({state}{lost if usable else ''})")
            continue
        if state:
            say(f"{name}: {state}; its weights are whole")
        elif model:
            say(f"{name}: {model}; the weights are made again from the training state")
            remake_model(training.join(name), config)
        usable.append(name)
    return usable, skipped


def remake_model(checkpoint: Folder, config: Config) -> None:
    """Write a checkpoint's weights anew from its training state, which stays as it is."""
    with TemporaryDirectory() as source, TemporaryDirectory() as target, torch.random.fork_rng(devices=[]):
        folder = Path(shutil.copytree(checkpoint.download(Path(source)), target, dirs_exist_ok=True))
        step = TrainStep(model_from_config(config), config, 1, torch.device("cpu"), "fp32")
        load_checkpoint(folder, step)
        save_weights(folder, step)
        write_manifest(folder)
        checkpoint.upload(folder, last=MANIFEST_FILE)


def checkpoint_names(training: Folder) -> list[str]:
    """Names of the checkpoints' folders, the oldest first."""
    return [name for name in training.names() if re.fullmatch(r"step-\d+", name)]


def read_record(training: Folder) -> dict[str, Metrics]:
    """Name of each recorded checkpoint -> its metrics, the newest last; empty without a record.

    Raises:
        ValueError: the record is damaged.
    """
    if not training.exists(RECORD_FILE):
        return {}
    try:
        record = json.loads(training.read(RECORD_FILE))
        found = {each["checkpoint_dir_name"]: dict(each["metrics"]) for each in record["checkpoint_results"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{training.path(RECORD_FILE)} has no checkpoints") from error
    return dict(sorted(found.items()))


def write_record(
    training: Folder,
    metrics: Mapping[str, Metrics],
    pending: Callable[[int], bool] = lambda step: False,
) -> None:
    """Write Ray Train's record of these checkpoints, the newest last; ``pending`` as for ``recover``."""
    results = [{"checkpoint_dir_name": name, "metrics": each} for name, each in metrics.items()]
    unvalidated = [name for name, each in metrics.items() if SELECTION_METRIC not in each]
    waiting = [name for name in unvalidated if pending(step_from_path(name))]
    record = {
        "ray_version": ray.__version__,
        "checkpoint_results": results,
        "checkpoint_report_indices": list(range(len(results))),
        "latest_checkpoint_result": results[-1],
        "pending_training_results": [r for r in results if r["checkpoint_dir_name"] in waiting],
        "pending_validation_specs": [True] * len(waiting),
        "current_report_index": len(results),
        "validated_checkpoint_dir_names": [name for name in metrics if name not in unvalidated],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }
    training.write(RECORD_FILE, json.dumps(record))


def score(metrics: Mapping[str, Any]) -> float:
    """A checkpoint's occlusion AP, 0 to 1; nan if it was not or could not be measured."""
    return float(without_nulls(metrics).get(SELECTION_METRIC, math.nan))


def best_checkpoint(metrics: Mapping[str, Metrics]) -> str:
    """The name with the highest score, the newest of equals; "" if none has one."""
    scored = [(score(each), name) for name, each in metrics.items() if not math.isnan(score(each))]
    return max(scored, default=(0.0, ""))[1]


def prune(
    training: Folder, validated: str, scores: Mapping[str, Metrics], keep: Collection[str] = ()
) -> None:
    """Remove all checkpoints but the newest two, the best, and those that wait for their validation.

    Only whole ones (by the size of their files) count and are removed, so that one that can be read is never
    given up for one that cannot. If the storage or Ray's record cannot be read, nothing is removed.

    Args:
        training: the run's folder of checkpoints.
        validated: all up to this one are validated, or need not be, but those in ``keep``.
        scores: metrics of checkpoints that Ray may not have recorded yet; empty if the validation failed.
        keep: names of earlier ones that wait for their validation.
    """
    try:
        finish_removals(training)
        recorded = {**read_record(training), **scores}
        whole = [name for name in checkpoint_names(training) if not missing_files(training.join(name))]
        best = best_checkpoint({name: each for name, each in recorded.items() if name in whole})
        for name in set(whole) - {best, *whole[-NUM_NEWEST:], *keep}:
            if name <= validated:  # they are validated in the order of their steps
                logger.info("removing %s", name)
                remove_checkpoint(training, name)
    except (OSError, ValueError, UserError):
        logger.warning("old checkpoints in %s are kept", training.uri, exc_info=True)


def remove_checkpoint(training: Folder, name: str) -> None:
    """Remove a checkpoint, so that a kill in between leaves one that ``finish_removals`` knows."""
    with contextlib.suppress(OSError, UserError):  # a full disk takes no mark, and needs the room
        training.write(REMOVAL_MARK + name, b"")
    training.remove(name)
    training.remove(REMOVAL_MARK + name)


def finish_removals(training: Folder) -> None:
    """Remove what is left of checkpoints whose removal was cut off; a whole one stays."""
    try:
        for mark in training.names():
            if not mark.startswith(REMOVAL_MARK):
                continue
            name = mark.removeprefix(REMOVAL_MARK)
            if missing_files(training.join(name)):
                logger.info("removing what is left of %s", name)
                training.remove(name)
            training.remove(mark)
    except (OSError, UserError):
        logger.warning("parts of old checkpoints in %s are kept", training.uri, exc_info=True)
