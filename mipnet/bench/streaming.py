"""The stream through Ray Data with a consumer at its end, beside what the same cores cut without Ray Data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from mipnet.data.buffer_pool import PixelMemory
from mipnet.data.sample_schedule import WindowPlan
from mipnet.data.stream import PlannedSplit, WindowCutter, window_numbers
from mipnet.host import keep_memory

Usage = dict[str, float]
"""Seconds of CPU by kind of process."""
LEAST_ROUNDS = 3  # of windows, of which the first fills the stock and in the last tasks run out of work
TASKS, LOOP, CONSUMER, REST = "decoding tasks", "Ray Data's loop", "consumer", "Ray's other processes"


@dataclass(frozen=True)
class Streamed:
    """One run of the stream.

    Attributes:
        samples: that arrived in ``seconds``, after the stream had come to its pace.
        seconds: of the steady part.
        usage: CPU seconds of this machine's processes of the session in that time.
    """

    samples: int
    seconds: float
    usage: Usage


def stream(cutter: ray.ObjectRef, plan: WindowPlan, tasks: int) -> Streamed:
    """The whole plan through Ray Data to one consumer, as training takes it."""
    (shard,) = PlannedSplit(cutter, plan, tasks).configure({"train": window_numbers(plan, 0)}, 1)
    return ray.get(consume.remote(shard["train"], plan.batch_size, *steady(plan, tasks)))


def steady(plan: WindowPlan, tasks: int) -> tuple[int, int]:
    """The batches between which as much is made as is taken.

    Windows come as tasks end, all at about the same time, so whole rounds of them count: from the arrival of
    the second round, when all stock is used up, to that of the last for which all tasks are at work.

    Args:
        plan: of at least ``LEAST_ROUNDS`` rounds.
        tasks: that cut windows at the same time.
    """
    rounds = plan.num_windows // tasks - 1
    return tasks * plan.window_batches, rounds * tasks * plan.window_batches


@ray.remote(num_cpus=0)
def consume(shard: Any, batch_size: int, begin: int, end: int) -> Streamed:
    """Take the batches as the training loop does, and look at every page of them.

    What is told is from the arrival of batch ``begin`` to that of batch ``end``.
    """
    started = seconds = 0.0
    before, after = {}, {}
    batches = shard.iter_torch_batches(batch_size=batch_size, prefetch_batches=2, device="cpu")
    for number, batch in enumerate(batches):
        if number == begin:
            started, before = time.perf_counter(), usage()
        if number == end:
            seconds, after = time.perf_counter() - started, usage()
        batch["image"].view(-1)[::4096].sum()
    spent: Usage = dict.fromkeys((TASKS, LOOP, CONSUMER, REST), 0.0)
    for process, (kind, cpu) in after.items():
        spent[kind] += cpu - before.get(process, (kind, 0.0))[1]
    return Streamed((end - begin) * batch_size, seconds, spent)


def usage() -> dict[int, tuple[str, float]]:
    """Process -> kind and CPU seconds so far, of this node's Ray."""
    import psutil

    here = psutil.Process()
    node = here.parent()
    found: dict[int, tuple[str, float]] = {}
    for process in [node, *node.children(recursive=True)]:
        try:
            times, words = process.cpu_times(), process.cmdline()
        except psutil.Error:  # it has just ended
            continue
        title = words[0] if words else ""
        if process.pid == here.pid:
            kind = CONSUMER
        elif title.startswith("ray::SplitCoordinator"):
            kind = LOOP
        elif "cut_batch" in title or title.startswith("ray::IDLE"):  # between two tasks
            kind = TASKS
        else:
            kind = CONSUMER if title.startswith("ray::consume") else REST
        found[process.pid] = kind, times.user + times.system
    return found


@ray.remote(num_cpus=1)
def cut_bare(cutter: WindowCutter, windows: Sequence[int], start_at: float) -> tuple[int, float, float]:
    """Samples, seconds and CPU seconds of the same work without a stream around it."""
    import cv2

    cv2.setNumThreads(1)
    keep_memory()
    memory = PixelMemory()
    cutter.cut(windows[0], memory.empty)
    time.sleep(max(start_at - time.time(), 0))  # all tasks at the same time
    begin, cpu = time.perf_counter(), time.process_time()
    samples = sum(len(cutter.cut(window, memory.empty)["step"]) for window in windows)
    return samples, time.perf_counter() - begin, time.process_time() - cpu


@dataclass(frozen=True)
class Bare:
    """What processes cut by themselves, at the same time.

    Attributes:
        samples: of all.
        rate: samples per second, the sum over the processes.
        cpu: CPU seconds per sample.
    """

    samples: int
    rate: float
    cpu: float


def bare(cutter: ray.ObjectRef, plan: WindowPlan, tasks: int) -> Bare:
    """The plan's windows dealt to so many processes."""
    shares = [list(range(rank, plan.num_windows, tasks)) for rank in range(tasks)]
    start_at = time.time() + 1.5
    found = ray.get([cut_bare.remote(cutter, share, start_at) for share in shares if share])
    samples = sum(samples for samples, *_ in found)
    return Bare(
        samples,
        sum(samples / seconds for samples, seconds, _ in found),
        sum(cpu for *_, cpu in found) / samples,
    )
