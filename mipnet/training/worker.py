"""The training loop that each Ray Train worker runs."""

from __future__ import annotations

import gc
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint
from torch.profiler import record_function

from mipnet.config import Config, from_dict
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.errors import UserError
from mipnet.host import cores, has_compiler, tune_malloc
from mipnet.logs import worker_log
from mipnet.models.initialization import warm_start_from_folder
from mipnet.models.precision import resolve_precision
from mipnet.storage import Folder
from mipnet.tracking.journal import Journal
from mipnet.training.checkpoint import load_checkpoint, model_from_config
from mipnet.training.checkpoint_report import CheckpointReporter
from mipnet.training.checkpoint_saver import CheckpointSaver, MetricLogger, MetricsRow
from mipnet.training.cpu_step import CpuTrainStep, parallel_micro_batches
from mipnet.training.device_batches import Batch, copy_ahead, needs_pinned_memory
from mipnet.training.early_end import EarlyEndRule
from mipnet.training.gauges import TrainingGauges
from mipnet.training.guards import CorruptImageTracker, Guard, divergence
from mipnet.training.inline_validation import WorkerValidation
from mipnet.training.interruptions import Interruptions
from mipnet.training.profiling import profiled
from mipnet.training.step import TrainStep

logger = logging.getLogger(__name__)
sample_logger = logging.getLogger(f"{__name__}.samples")
"""Tells epoch and number of every sample at DEBUG, a level that is off unless it is set for this logger."""


def train_loop_per_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Train up to ``end_step``, from the last checkpoint where there is one.

    Args:
        settings: config: nested dict; schedule: the order of all samples; threads: CPU threads of this
            process, 0 for its share of the cores; initial_weights: URI of a model folder, or ""; end_step:
            the step to end at, with a checkpoint; deadline: when to end, see ``EarlyEndRule``; crop_loader:
            reference to the loader of the crops; folder: of the run, for log and journal; validation: of
            checkpoints, {"plan": ``ValidationPlan``, "data": the data set's folder}, or None if none is made;
            stop: the driver's ``StopSignal``, or None.

    Returns:
        {"step": steps done, "stopped": why the run has no result, or "", "ended": ``EarlyEnd`` if it ended
        with a checkpoint before ``end_step``, or None, "history": all logged rows of metrics}.
    """
    try:
        return _train(settings)
    finally:
        gc.collect()  # destroy DDP before Ray destroys the process group: the other order can hang


def _train(settings: dict[str, Any]) -> dict[str, Any]:
    config = from_dict(settings["config"])
    schedule: SampleSchedule = settings["schedule"]
    end_step: int = settings["end_step"]
    rank = ray.train.get_context().get_world_rank()
    worker_log(settings["folder"], rank)
    checkpoint = ray.train.get_checkpoint()
    initial_weights = "" if checkpoint else settings["initial_weights"]
    # Use all cores; other Ray processes run at lower priority (TRAIN_WORKER_RUNTIME_ENV).
    threads = settings["threads"] or max(cores() // ray.train.get_context().get_local_world_size(), 1)
    step = build_train_step(config, schedule.total_steps, threads, initial_weights)
    history: list[MetricsRow] = []
    if checkpoint:
        with local_folder(checkpoint) as folder:
            history = load_checkpoint(folder, step)
        logger.info("rank %d: resumed step %d from %s", rank, step.step, checkpoint.path)

    journal = Journal(settings["folder"], "worker")
    if rank == 0:
        device = torch.cuda.get_device_name(step.device) if step.device.type == "cuda" else "the CPU"
        journal.add("started", step=step.step, precision=step.precision, device=device, workers=step.ranks)
        journal.flush()
    log = MetricLogger(history, journal if rank == 0 else None, schedule.batch_size, step.step)
    corrupt_images = CorruptImageTracker(settings["crop_loader"], journal)
    guard = Guard(config, schedule, corrupt_images, step.step)
    gauges = TrainingGauges(settings["folder"])
    interruptions = Interruptions(settings["stop"], journal, rank, step.step)
    validation = make_validation(settings, config, threads, journal, interruptions, step.step)
    plan, wait = (validation.plan, validation.wait) if validation else (None, lambda step: ())
    early_end = EarlyEndRule(config.train, plan, settings["folder"], rank, settings["deadline"], wait)
    reporter = CheckpointReporter(settings["folder"], journal, rank)
    saver = CheckpointSaver(step, log, validation, reporter, early_end, interruptions) if validation else None
    if ended := early_end.at_checkpoint(step.step, {}):  # its process was lost before the driver knew
        end_step = step.step
    batches = with_wait_seconds(training_batches(step, schedule, end_step, corrupt_images))
    traced_steps = config.train.profile if rank == 0 else 0
    for batch, waited in profiled(batches, step.step, traced_steps, settings["folder"]):
        step(batch["image"], batch["keypoints"], batch["corrupt"])
        log.waited += waited
        ended = early_end.at_deadline(step.step)
        last = step.step == end_step or ended is not None
        saving = last or step.step % config.train.checkpoint_steps == 0
        if saving or step.step % config.train.log_steps == 0:
            metrics = step.read_metrics()
            log.add(step.step, metrics)
            if rank == 0:
                gauges.set_training(log.history[-1], step.device, saving)
            stopped = guard.reason_to_stop(step.step, metrics)
            if stopped := stopped or (divergence(step, metrics) if last else ""):
                logger.warning("rank %d: stopped at step %d: %s", rank, step.step, stopped)
                journal.flush()
                return {"step": step.step, "stopped": stopped}
        if saving and saver is not None:
            ended = saver.save(last=last) or ended
        if ended:
            break
        if saver is not None and not last:
            saver.after_step(saved=saving)
    reporter.finish()
    interruptions.close()
    stopped = divergence(step, log.history[-1]) if log.history else ""  # of a checkpoint of the last step
    return {"step": step.step, "stopped": stopped, "ended": ended, "history": log.history}


def make_validation(
    settings: dict[str, Any],
    config: Config,
    threads: int,
    journal: Journal,
    interruptions: Interruptions,
    first_step: int,
) -> WorkerValidation | None:
    """What this worker does about checkpoints, None if none is made; arguments as in ``_train``."""
    if settings["validation"] is None:
        return None
    plan, data = settings["validation"]["plan"], settings["validation"]["data"]
    rank = ray.train.get_context().get_world_rank()
    # Patience counts validations: where one was left, the training would end at another step.
    urgent = (lambda seconds: False) if config.train.patience else interruptions.urgent
    return WorkerValidation(
        plan, config, settings["folder"], data, threads, journal, rank, urgent, first_step
    )


def build_train_step(config: Config, total_steps: int, threads: int, initial_weights: str) -> TrainStep:
    """The training step of this worker, on its device, with its share of the CPU threads.

    Args:
        config: of the run.
        total_steps: length of the learning-rate schedule.
        threads: CPU threads of this process.
        initial_weights: URI of a model folder to start from, "" for random weights.

    Raises:
        UserError: the network is to be compiled, and there is no compiler.
    """
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if config.train.compile and not has_compiler(device.type):
        what = f"train.compile needs a C{'++' if device.type == 'cpu' else ''} compiler on each node"
        raise UserError(what, "install one there, e.g. gcc and g++, or leave out --train.compile", 1)
    parallel = parallel_micro_batches(config.train, device, context.get_world_size(), threads)
    torch.set_num_threads(threads // parallel)
    if device.type == "cpu":
        tune_malloc()
    torch.manual_seed(config.train.seed)
    model = model_from_config(config)
    if initial_weights:
        with tempfile.TemporaryDirectory() as scratch:
            source = Folder(initial_weights).download(Path(scratch))
            warm_start_from_folder(model, source, config.data.joints, config.train.init)
    precision = resolve_precision(config.train.precision, device)
    if parallel > 1:
        return CpuTrainStep(model, config, total_steps, precision, parallel)
    return TrainStep(model, config, total_steps, device, precision)


@contextmanager
def local_folder(checkpoint: Checkpoint) -> Iterator[Path]:
    """The files of a checkpoint; only those in an object store are copied."""
    if os.path.isdir(checkpoint.path):
        yield Path(checkpoint.path)
        return
    with checkpoint.as_directory() as folder:
        yield Path(folder)


def training_batches(
    step: TrainStep, schedule: SampleSchedule, end_step: int, corrupt_images: CorruptImageTracker
) -> Iterator[Batch]:
    """This rank's part of every global batch from ``step.step`` up to ``end_step``, on the device.

    Yields:
        image (b, H, W, 3) uint8; joints (b, N, K, 3) float32, in crop px; corrupt (b,) bool.

    Raises:
        RuntimeError: a batch differs from the schedule. Training on would silently use some samples twice and
            others never.
    """
    batches = _batches_in_order(step, schedule, end_step, corrupt_images)
    yield from copy_ahead(batches, ("image", "keypoints", "corrupt"), step.device)


def _batches_in_order(
    step: TrainStep, schedule: SampleSchedule, end_step: int, corrupt_images: CorruptImageTracker
) -> Iterator[Batch]:
    """``training_batches`` on the host, with all columns."""
    if step.step >= end_step:
        return
    context = ray.train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    share, rows = schedule.shares(ranks)[rank], schedule.rows_per_step(ranks)
    shard = ray.train.get_dataset_shard("train")
    # On the CPU: order and corrupt images are read there. Ray pins in the threads that collate.
    pinned = needs_pinned_memory(step.device)
    stream = shard.iter_torch_batches(batch_size=rows, prefetch_batches=2, device="cpu", pin_memory=pinned)
    expected = schedule.steps(schedule.window_of(step.step)).start
    for filled_up in stream:
        size = int((filled_up["step"] == expected).sum())
        found = int(filled_up["step"][0]), int(filled_up["batch_position"][0]), size
        if found != (expected, share.start, len(share)):
            raise RuntimeError(f"the stream is out of order: step {expected}, rank {rank}, got {found}")
        batch = {name: column[:size] for name, column in filled_up.items()}
        expected += 1
        if found[0] >= step.step:  # the stream begins with a window, at or before this step
            corrupt_images.update(batch)
            if sample_logger.isEnabledFor(logging.DEBUG):
                pairs = zip(batch["epoch"].tolist(), batch["sample"].tolist(), strict=True)
                samples = " ".join(f"{epoch}:{sample}" for epoch, sample in pairs)
                sample_logger.debug("step %d, rank %d of %d: %s", found[0], rank, ranks, samples)
            yield batch
        if expected == end_step:
            return  # the rest only fills the last window, or is for a later call
    if expected != schedule.total_steps:
        raise RuntimeError(f"the stream ended at step {expected} of {schedule.total_steps}")


def with_wait_seconds(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch with the seconds that were spent waiting for it."""
    while True:
        begin = time.perf_counter()
        try:
            with record_function("wait for data"):
                batch = next(batches)
        except StopIteration:
            return
        yield batch, time.perf_counter() - begin
