"""The loop that every training process runs."""

from __future__ import annotations

import gc
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint

from mipnet.config import Config, from_dict
from mipnet.data.windows import WindowPlan
from mipnet.memory import keep_memory
from mipnet.models.network import MIPNet
from mipnet.models.weights import read_weights, warm_start
from mipnet.storage import Folder
from mipnet.training.checkpoint import folder_name, load_checkpoint, model_from_config, save_checkpoint
from mipnet.training.step import TrainStep

Row = dict[str, float]
Batch = dict[str, torch.Tensor]


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Train to the end of the plan, from the last checkpoint where there is one.

    Args:
        settings: config: nested dict; plan: the ``WindowPlan``; threads: CPU threads of this process;
            rows: an actor that takes logged rows, or None; initial: a model folder, or "".

    Returns:
        {"step": steps done, "stopped": why the run was stopped before the end, or ""}.
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
    # One core stays for decoding and for Ray: on two cores, two threads that wait for each other at every
    # layer are held up by all that goes on beside them and train no faster than one (measured).
    share_of_cores = max(((os.cpu_count() or 1) - 1) // context.get_local_world_size(), 1)
    torch.set_num_threads(settings["threads"] or share_of_cores)
    keep_memory()
    torch.manual_seed(config.train.seed)
    model = model_from_config(config)
    checkpoint = ray.train.get_checkpoint()
    if settings["initial"] and not checkpoint:
        start_from(model, settings["initial"])
    step = TrainStep(model, config, plan.total_steps, ray.train.torch.get_device())
    history: list[Row] = []
    if checkpoint:
        with checkpoint.as_directory() as folder:
            history = load_checkpoint(Path(folder), step)

    share = config.train.batch_size // world
    log = RowLog(history, settings["rows"] if rank == 0 else None)
    guard = Guard(config, plan)
    for batch, waited in timed(batches(step, plan, rank, share)):
        step(batch["image"], batch["joints"], batch["corrupt"])
        log.waited += waited
        saving = step.step == plan.total_steps or step.step % config.train.checkpoint_steps == 0
        if saving or step.step % config.train.log_steps == 0:
            metrics = step.read_metrics()
            log.add(step.step, config.train.batch_size, metrics)
            if stopped := guard.reason_to_stop(metrics):
                return {"step": step.step, "stopped": stopped}
        if saving:
            save(step, log.history, rank)
    return {"step": step.step, "stopped": ""}


def batches(step: TrainStep, plan: WindowPlan, rank: int, share: int) -> Iterator[Batch]:
    """This rank's share of every step that is left, on the device.

    Raises:
        RuntimeError: the stream hands over another batch than the plan says; training on would silently
            train on some samples twice and on others never.
    """
    if step.step >= plan.total_steps:
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
            wanted = ("image", "joints", "corrupt")
            yield {name: batch[name].to(step.device, non_blocking=True) for name in wanted}
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


class Guard:
    """Says when training should not go on; the same on all ranks because the metrics are."""

    def __init__(self, config: Config, plan: WindowPlan) -> None:
        self.max_skipped = config.train.max_skipped
        self.max_bad = config.data.max_bad_share * plan.num_samples * config.train.epochs
        self.skipped = self.bad = 0.0

    def reason_to_stop(self, metrics: Row) -> str:
        """Why to stop after these metrics, or ""."""
        all_skipped = math.isnan(metrics["loss"])
        self.skipped = self.skipped + metrics["skipped"] if all_skipped else 0.0
        self.bad += metrics["corrupt"]
        if self.skipped >= self.max_skipped:
            return (
                f"the last {self.skipped:g} updates were not finite; "
                "lower train.learning_rate or set train.clip_norm"
            )
        if self.bad > self.max_bad:
            return (
                f"{self.bad:g} samples had images that could not be read; "
                "mend them, or raise data.max_bad_share"
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


def start_from(model: MIPNet, uri: str) -> None:
    """Weights of another network as the start; MIMBs and heads that it lacks stay random."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Folder(uri).download(Path(scratch))
        warm_start(model, read_weights(folder), uri)
