"""Report checkpoints to Ray Train, which stores them in the run's folder."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

import ray.train
from ray.train import Checkpoint

from mipnet.training.checkpoint import checkpoint_name, save_checkpoint
from mipnet.training.checkpoint_validation import Metrics
from mipnet.training.step import TrainStep

logger = logging.getLogger(__name__)


def report_checkpoint(
    step: TrainStep, history: list[dict[str, float]], rank: int, metrics: Metrics, beside: bool
) -> None:
    """Report a checkpoint to Ray Train, which stores it in the run's folder.

    Args:
        step: after ``all_reduce_bn_buffers``.
        history: rows of metrics so far.
        rank: of this process.
        metrics: of the validation, empty without.
        beside: have it validated by a task of its own.
    """
    name = checkpoint_name(step.step)
    if rank != 0:
        ray.train.report({"step": step.step}, checkpoint_dir_name=name)
        return
    folder = Path(tempfile.mkdtemp(prefix="mipnet-checkpoint-"))
    try:
        save_checkpoint(folder, step, history)
        ray.train.report(
            {"step": step.step, "loss": history[-1]["loss"], **metrics},
            checkpoint=Checkpoint.from_directory(folder),
            checkpoint_dir_name=name,
            validation=beside,
        )
        logger.info("saved %s", name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
