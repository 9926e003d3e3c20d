"""The training loop that each Ray Train worker runs."""

from __future__ import annotations

import gc
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint
from torch.profiler import record_function

from mipnet.config import Config, from_dict
from mipnet.data.coco import PersonAnnotations
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.data.validation import bad_share_hint
from mipnet.errors import UserError, first_few
from mipnet.host import cores, has_compiler, tune_malloc
from mipnet.logs import worker_log
from mipnet.models.initialization import warm_start_from_folder
from mipnet.models.precision import resolve_precision
from mipnet.storage import Folder
from mipnet.tracking.journal import Journal
from mipnet.training.checkpoint import load_checkpoint, model_from_config
from mipnet.training.checkpoint_report import CheckpointReporter
from mipnet.training.cpu_step import CpuTrainStep, parallel_micro_batches
from mipnet.training.device_batches import Batch, copy_ahead, needs_pinned_memory
from mipnet.training.early_end import EarlyEnd, EarlyEndRule
from mipnet.training.gauges import TrainingGauges
from mipnet.training.inline_validation import WorkerValidation
from mipnet.training.profiling import profiled
from mipnet.training.step import TrainStep

logger = logging.getLogger(__name__)

MetricsRow = dict[str, float]


def train_loop_per_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Train up to ``end_step``, from the last checkpoint where there is one.

    Args:
        settings: config: nested dict; schedule: the order of all samples; threads: CPU threads of this
            process, 0 for its share of the cores; initial_weights: URI of a model folder, or ""; end_step:
            the step to end at, with a checkpoint; deadline: when to end, see ``EarlyEndRule``; crop_loader:
            reference to the loader of the crops; folder: of the run, for log and journal; validation: of
            checkpoints, {"plan": ``ValidationPlan``, "data": the data set's folder}, or None if none is made.

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
        journal.add("started", step=step.step, precision=step.precision, device=device)
        journal.flush()
    log = MetricLogger(history, journal if rank == 0 else None, schedule.batch_size)
    corrupt_images = CorruptImageTracker(settings["crop_loader"], journal)
    guard = Guard(config, schedule, corrupt_images, step.step)
    gauges = TrainingGauges(settings["folder"])
    validation = make_validation(settings, config, threads, journal)
    plan = validation.plan if validation else None
    reporter = CheckpointReporter(settings["folder"], journal, rank)
    early_end = EarlyEndRule(config.train, plan, settings["folder"], rank, settings["deadline"])
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
        if saving and validation is not None:
            exhausted = save(step, log, validation, reporter, early_end, last=last)
            ended = ended or exhausted
        if ended:
            break
    reporter.finish()
    stopped = divergence(step, log.history[-1]) if log.history else ""  # of a checkpoint of the last step
    return {"step": step.step, "stopped": stopped, "ended": ended, "history": log.history}


def save(
    step: TrainStep,
    log: MetricLogger,
    validation: WorkerValidation,
    reporter: CheckpointReporter,
    early_end: EarlyEndRule,
    *,
    last: bool,
) -> EarlyEnd | None:
    """Validate and report a checkpoint; call it on all ranks.

    Args:
        step, log, validation, reporter, early_end: of this process.
        last: the training ends with it in any case.

    Returns:
        why patience ends the training with it; None if it does not.
    """
    step.all_reduce_bn_buffers()
    with log.paused():
        here = last or early_end.may_end(step.step)
        metrics = validation.before_report(step, here)
    beside = validation.plan.beside(step.step) and not here
    afterwards = partial(validation.after_report, step.step, metrics)
    reporter.report(step, log.history, metrics, beside=beside, afterwards=afterwards)
    return early_end.at_checkpoint(step.step, metrics)


def make_validation(
    settings: dict[str, Any], config: Config, threads: int, journal: Journal
) -> WorkerValidation | None:
    """What this worker does about checkpoints, None if none is made; arguments as in ``_train``."""
    if settings["validation"] is None:
        return None
    plan, data = settings["validation"]["plan"], settings["validation"]["data"]
    rank = ray.train.get_context().get_world_rank()
    return WorkerValidation(plan, config, settings["folder"], data, threads, journal, rank)


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
    rank, size = context.get_world_rank(), schedule.batch_size // context.get_world_size()
    shard = ray.train.get_dataset_shard("train")
    # On the CPU: order and corrupt images are read there. Ray pins in the threads that collate.
    pinned = needs_pinned_memory(step.device)
    stream = shard.iter_torch_batches(batch_size=size, prefetch_batches=2, device="cpu", pin_memory=pinned)
    expected = schedule.steps(schedule.window_of(step.step)).start
    for batch in stream:
        found = int(batch["step"][0]), int(batch["batch_position"][0]), len(batch["step"])
        if found != (expected, rank * size, size):
            raise RuntimeError(f"the stream is out of order: step {expected}, rank {rank}, got {found}")
        expected += 1
        if found[0] >= step.step:  # the stream begins with a window, at or before this step
            corrupt_images.update(batch)
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


class MetricLogger:
    """Adds rows of metrics to the history, which is part of every checkpoint, and to the journal.

    Args:
        history: rows of earlier processes; new ones are appended.
        journal: of the run, None for none.
        batch_size: of the global batch.
    """

    def __init__(self, history: list[MetricsRow], journal: Journal | None, batch_size: int) -> None:
        self.history, self.journal, self.batch_size = history, journal, batch_size
        self.waited = 0.0  # seconds for data since the last row
        self._since, self._last = time.perf_counter(), history[-1]["step"] if history else 0

    def add(self, step: int, metrics: MetricsRow) -> None:
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        rate, waited = (step - self._last) * self.batch_size / seconds, self.waited / seconds
        row = {"step": step, **metrics, "samples_per_second": rate, "waited_for_data": waited}
        row["time"] = int(time.time() * 1000)  # a row that is sent again is the same point for MLflow
        self._since, self._last, self.waited = now, step, 0.0
        self.history.append(row)
        if metrics["skipped"]:
            logger.warning("step %d: %g updates skipped: not finite", step, metrics["skipped"])
        if self.journal is not None:
            self.journal.add_row("training", row)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of the ``with`` block: of validation, which makes no steps."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - begin


class CorruptImageTracker:
    """Names the images of this rank's samples that could not be read, and reports each once.

    Args:
        crop_loader: reference to the loader, which has the names; only fetched if there is such an image.
        journal: of the run.
    """

    def __init__(self, crop_loader: ray.ObjectRef, journal: Journal) -> None:
        self.crop_loader, self.journal = crop_loader, journal
        self.names: dict[int, str] = {}  # by index of the image

    def update(self, batch: Batch) -> None:
        """Note the corrupt images of a batch on the CPU: reading it waits for no device."""
        if not batch["corrupt"].any():
            return
        people: PersonAnnotations = ray.get(self.crop_loader).people
        samples = batch["sample"][batch["corrupt"]].numpy()
        found = np.unique(np.searchsorted(people.image_offsets, samples, side="right") - 1).tolist()
        new = {image: str(people.images.uris[image]) for image in found if image not in self.names}
        self.names |= new
        if new:
            logger.warning("cannot read %s", first_few(list(new.values())))
            self.journal.add("unreadable", names=list(new.values()))


MAX_LOSS = 1.0
"""A larger loss is no result: heatmaps that are off by a peak's height in every cell have 0.5."""
DIVERGED_HINT = "lower --train.learning-rate or set --train.clip-norm"


def divergence(step: TrainStep, metrics: MetricsRow) -> str:
    """Why a training that ends here has no result, or ""; alike on all ranks.

    Args:
        step: after its last update.
        metrics: the last row.
    """
    if not step.is_finite():
        return f"the last update or the weights are not finite; {DIVERGED_HINT}"
    if not metrics["loss"] <= MAX_LOSS:  # nan too
        return f"the training has diverged, its last loss is {metrics['loss']:.2g}; {DIVERGED_HINT}"
    return ""


class Guard:
    """Decides when to stop a training; alike on all ranks because the metrics are.

    Args:
        config: has the limits.
        schedule: the order of all samples.
        corrupt_images: names them for the message.
        first_step: that this process makes.
    """

    def __init__(
        self, config: Config, schedule: SampleSchedule, corrupt_images: CorruptImageTracker, first_step: int
    ) -> None:
        self.max_skipped, self.max_bad_share = config.train.max_skipped, config.data.max_bad_share
        self.num_samples, self.batch_size = schedule.num_samples, schedule.batch_size
        self.corrupt_images, self.first_step = corrupt_images, first_step
        self.skipped = self.corrupt = 0.0

    def reason_to_stop(self, step: int, metrics: MetricsRow) -> str:
        """Why to stop, or "".

        Args:
            step: the last one done.
            metrics: of the steps since the last call.
        """
        all_skipped = math.isnan(metrics["loss"])
        self.skipped = self.skipped + metrics["skipped"] if all_skipped else 0.0
        self.corrupt += metrics["corrupt"]
        if self.skipped >= self.max_skipped:
            return f"the last {self.skipped:g} updates were not finite; {DIVERGED_HINT}"
        # No sample comes twice within an epoch; in later epochs the same images count again, in more samples.
        samples = (step - self.first_step) * self.batch_size
        seen = max(self.num_samples, samples)
        if self.corrupt > self.max_bad_share * seen:
            names = first_few(sorted(self.corrupt_images.names.values()))
            what = f"{self.corrupt:g} of {seen} samples have images that cannot be read ({names})"
            return f"{what}; {bad_share_hint(int(self.corrupt), samples, 'mend them')}"
        return ""
