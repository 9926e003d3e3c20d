"""The loop that every training process runs."""

from __future__ import annotations

import gc
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint

from mipnet.config import Config, from_dict
from mipnet.data.coco import People
from mipnet.data.sample_schedule import WindowPlan
from mipnet.errors import first_few
from mipnet.host import cores, keep_memory
from mipnet.models.initialization import start_from_folder
from mipnet.models.network import MIPNet
from mipnet.models.precision import resolve_precision
from mipnet.storage import Folder
from mipnet.training.checkpoint import folder_name, load_checkpoint, model_from_config, save_checkpoint
from mipnet.training.cpu_step import CpuTrainStep, parallel_micro_batches
from mipnet.training.step import TrainStep

Row = dict[str, float]
Batch = dict[str, torch.Tensor]


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Train to the end of the plan, from the last checkpoint where there is one.

    Args:
        settings: config: nested dict; plan: the ``WindowPlan``; threads: CPU threads of this process;
            rows: an actor that takes logged rows, or None; initial: a model folder, or "";
            until: the step to end at, with a checkpoint; cutter: reference to the ``WindowCutter``.

    Returns:
        {"step": steps done, "stopped": why the run was stopped before the end, or "", "history": all rows
        of metrics that were logged}.
    """
    try:
        return _train(settings)
    finally:
        gc.collect()  # DDP must be gone before Ray takes the process group down, or that can hang


def _train(settings: dict[str, Any]) -> dict[str, Any]:
    config = from_dict(settings["config"])
    plan: WindowPlan = settings["plan"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    # All cores: what else Ray runs here, decoding and validation too, gives way (the trainer's FIRST).
    threads = settings["threads"] or max(cores() // context.get_local_world_size(), 1)
    device = ray.train.torch.get_device()
    parallel = parallel_micro_batches(config.train, device, world, threads)
    torch.set_num_threads(threads // parallel)
    keep_memory()
    torch.manual_seed(config.train.seed)
    model = model_from_config(config)
    checkpoint = ray.train.get_checkpoint()
    if settings["initial"] and not checkpoint:
        start_from(model, settings["initial"], config)
    precision = resolve_precision(config.train.precision, device)
    if parallel > 1:
        step: TrainStep = CpuTrainStep(model, config, plan.total_steps, precision, parallel)
    else:
        step = TrainStep(model, config, plan.total_steps, device, precision)
    history: list[Row] = []
    if checkpoint:
        with folder_of(checkpoint) as folder:
            history = load_checkpoint(folder, step)

    sink = settings["rows"] if rank == 0 else None
    if sink is not None:
        told = {"started": step.step, "precision": step.precision, "device": device_name(device)}
        sink.add.remote(told)
    share = config.train.batch_size // world
    log = RowLog(history, sink)
    unread = Unread(settings["cutter"], settings["rows"])
    guard = Guard(config, plan, unread, step.step)
    until: int = settings["until"]
    for batch, waited in timed(batches(step, plan, rank, share, until, unread)):
        step(batch["image"], batch["joints"], batch["corrupt"])
        log.waited += waited
        saving = step.step == until or step.step % config.train.checkpoint_steps == 0
        if saving or step.step % config.train.log_steps == 0:
            metrics = step.read_metrics()
            log.add(step.step, config.train.batch_size, metrics)
            if stopped := guard.reason_to_stop(step.step, metrics):
                return {"step": step.step, "stopped": stopped}
        if saving:
            save(step, log.history, rank)
    return {"step": step.step, "stopped": "", "history": log.history}


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


@contextmanager
def folder_of(checkpoint: Checkpoint) -> Iterator[Path]:
    """The files of a checkpoint; those in a storage that is a file system are not copied first."""
    if os.path.isdir(checkpoint.path):
        yield Path(checkpoint.path)
        return
    with checkpoint.as_directory() as folder:
        yield Path(folder)


def batches(
    step: TrainStep, plan: WindowPlan, rank: int, share: int, until: int, unread: Unread
) -> Iterator[Batch]:
    """This rank's share of every step that is left before ``until``, on the device.

    Raises:
        RuntimeError: the stream hands over another batch than the plan says; training on would silently
            train on some samples twice and on others never.
    """
    if step.step >= until:
        return
    shard = ray.train.get_dataset_shard("train")
    stream = shard.iter_torch_batches(batch_size=share, prefetch_batches=2, device="cpu")
    expected = plan.steps(plan.window_of(step.step)).start
    for batch in stream:
        found = int(batch["step"][0]), int(batch["slot"][0]), len(batch["step"])
        if found != (expected, rank * share, share):
            raise RuntimeError(f"the stream is out of order: step {expected}, rank {rank}, got {found}")
        expected += 1
        if found[0] >= step.step:  # the stream starts at a window's border, at or before this step
            unread.look_at(batch)
            wanted = ("image", "joints", "corrupt")
            yield {name: batch[name].to(step.device, non_blocking=True) for name in wanted}
        if expected == until:
            return  # another start goes on from here, or the rest fills the last window
    if expected != plan.total_steps:
        raise RuntimeError(f"the stream ended at step {expected} of {plan.total_steps}")


def timed(items: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each item with the seconds that were waited for it."""
    while True:
        begin = time.perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        yield item, time.perf_counter() - begin


class RowLog:
    """The metric history, and where new rows go at once.

    Rows are kept in every checkpoint as well, so a row is never lost with a process.
    """

    def __init__(self, history: list[Row], sink: Any) -> None:
        self.history, self.sink = history, sink
        self.waited = 0.0
        self._since, self._last = time.perf_counter(), history[-1]["step"] if history else 0

    def add(self, step: int, batch_size: int, metrics: Row) -> None:
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        row = {
            "step": step,
            **metrics,
            "samples_per_second": (step - self._last) * batch_size / seconds,
            "waited_for_data": self.waited / seconds,
        }
        self._since, self._last, self.waited = now, step, 0.0
        self.history.append(row)
        if self.sink is not None:
            self.sink.add.remote(row)  # not waited for: logging never holds up a step


class Unread:
    """The images of this rank's samples that could not be read; each is told once, however often it comes.

    Args:
        cutter: reference to the ``WindowCutter``, which knows their names; only fetched if there is one.
        sink: an actor that takes rows, or None.
    """

    def __init__(self, cutter: ray.ObjectRef, sink: Any) -> None:
        self.cutter, self.sink = cutter, sink
        self.names: dict[int, str] = {}

    def look_at(self, batch: Batch) -> None:
        """Note the images of a batch that is still on the CPU: asking it waits for nothing."""
        if not batch["corrupt"].any():
            return
        people: People = ray.get(self.cutter).people
        samples = batch["sample"][batch["corrupt"]].numpy()
        found = np.unique(np.searchsorted(people.first, samples, side="right") - 1).tolist()
        new = {image: str(people.images.uris[image]) for image in found if image not in self.names}
        self.names |= new
        if new and self.sink is not None:
            self.sink.add.remote({"unreadable": list(new.values())})


class Guard:
    """Says when training should not go on; the same on all ranks because the metrics are."""

    def __init__(self, config: Config, plan: WindowPlan, unread: Unread, begin: int) -> None:
        self.max_skipped = config.train.max_skipped
        self.max_bad_share, self.samples = config.data.max_bad_share, plan.num_samples
        self.batch_size, self.unread = config.train.batch_size, unread
        self.skipped = self.bad = 0.0
        self.begin = begin

    def reason_to_stop(self, step: int, metrics: Row) -> str:
        """Why to stop after the metrics of the steps up to this one, or ""."""
        all_skipped = math.isnan(metrics["loss"])
        self.skipped = self.skipped + metrics["skipped"] if all_skipped else 0.0
        self.bad += metrics["corrupt"]
        if self.skipped >= self.max_skipped:
            return (
                f"the last {self.skipped:g} updates were not finite; "
                "lower --train.learning-rate or set --train.clip-norm"
            )
        # Nobody comes twice within an epoch; after that the same images count again among more samples.
        seen = max(self.samples, (step - self.begin) * self.batch_size)
        if self.bad > self.max_bad_share * seen:
            names = first_few(sorted(self.unread.names.values()))
            return (
                f"{self.bad:g} of {seen} samples have images that cannot be read ({names}); "
                "mend them, or raise --data.max-bad-share"
            )
        return ""


def save(step: TrainStep, history: list[Row], rank: int) -> None:
    """Report a checkpoint to Ray Train, which keeps it in the run's storage and has it validated."""
    step.synchronise_statistics()
    name = folder_name(step.step)
    if rank != 0:
        ray.train.report({"step": step.step}, checkpoint_dir_name=name)
        return
    folder = Path(tempfile.mkdtemp(prefix="mipnet-checkpoint-"))
    try:
        save_checkpoint(folder, step, history)
        ray.train.report(
            {"step": step.step, "loss": history[-1]["loss"]},
            checkpoint=Checkpoint.from_directory(folder),
            checkpoint_dir_name=name,
            validation=True,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start_from(model: MIPNet, uri: str, config: Config) -> None:
    """Weights of another network as the start; the driver has said what stays random."""
    with tempfile.TemporaryDirectory() as scratch:
        start_from_folder(model, Folder(uri).download(Path(scratch)), config.data.joints, config.train.init)
