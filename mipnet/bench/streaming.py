"""The stream through Ray Data to a consumer, beside the same loading on the same cores without Ray Data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from mipnet.data.buffer_pool import BufferPool
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.data.stream import CropLoader, ScheduledDataConfig, window_dataset
from mipnet.host import tune_malloc

Usage = dict[str, float]
"""CPU seconds by kind of process."""
LEAST_ROUNDS = 3  # of windows: the first fills the buffers, and in the last one tasks become idle
TASKS, LOOP, CONSUMER, REST = "decoding tasks", "Ray Data's loop", "consumer", "Ray's other processes"


@dataclass(frozen=True)
class StreamTiming:
    """One run of the stream.

    Attributes:
        samples: number that arrived in the steady part.
        seconds: duration of the steady part.
        usage: CPU seconds of this node's Ray processes in that time.
    """

    samples: int
    seconds: float
    usage: Usage


def stream(crop_loader: ray.ObjectRef, schedule: SampleSchedule, tasks: int) -> StreamTiming:
    """Stream the whole schedule through Ray Data to one consumer, as in training."""
    datasets = {"train": window_dataset(schedule, 0)}
    (shard,) = ScheduledDataConfig(crop_loader, schedule, tasks).configure(datasets, 1)
    begin, end = steady(schedule, tasks)
    timing: StreamTiming = ray.get(consume.remote(shard["train"], schedule.batch_size, begin, end))
    return timing


def steady(schedule: SampleSchedule, tasks: int) -> tuple[int, int]:
    """(first, last) batch of the steady part, in which as many samples are made as are used.

    All tasks finish their windows at about the same time, so only whole rounds count: from the arrival of the
    second round, when the buffers are empty, to that of the last round in which all tasks are busy.

    Args:
        schedule: of at least ``LEAST_ROUNDS`` rounds.
        tasks: number of concurrent decoding tasks.
    """
    rounds = schedule.num_windows // tasks - 1
    return tasks * schedule.window_batches, rounds * tasks * schedule.window_batches


@ray.remote(num_cpus=0)  # type: ignore[untyped-decorator, unused-ignore]  # Ray has no types
def consume(shard: Any, batch_size: int, begin: int, end: int) -> StreamTiming:
    """Iterate over the batches as the training loop does, and touch every memory page of them.

    Measured from the arrival of batch ``begin`` to that of batch ``end``.
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
    return StreamTiming((end - begin) * batch_size, seconds, spent)


def usage() -> dict[int, tuple[str, float]]:
    """Process id → (kind, CPU seconds so far), of this node's Ray processes."""
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
        elif "load_window_crops" in title or title.startswith("ray::IDLE"):  # between two tasks
            kind = TASKS
        else:
            kind = CONSUMER if title.startswith("ray::consume") else REST
        found[process.pid] = kind, times.user + times.system
    return found


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator, unused-ignore]  # Ray has no types
def load_alone(crop_loader: CropLoader, windows: Sequence[int], start_at: float) -> tuple[int, float, float]:
    """Load windows without a stream; returns (samples, seconds, CPU seconds)."""
    import cv2

    cv2.setNumThreads(1)
    tune_malloc()
    memory = BufferPool()
    crop_loader.load(windows[0], memory.empty)
    time.sleep(max(start_at - time.time(), 0))  # all tasks at the same time
    begin, cpu = time.perf_counter(), time.process_time()
    samples = sum(len(crop_loader.load(window, memory.empty)["step"]) for window in windows)
    return samples, time.perf_counter() - begin, time.process_time() - cpu


@dataclass(frozen=True)
class LoaderTiming:
    """Loading in concurrent processes without a stream.

    Attributes:
        samples: of all.
        rate: samples per second, the sum over the processes.
        cpu: CPU seconds per sample.
    """

    samples: int
    rate: float
    cpu: float


def time_loaders_alone(crop_loader: ray.ObjectRef, schedule: SampleSchedule, tasks: int) -> LoaderTiming:
    """Load the schedule's windows in ``tasks`` concurrent processes."""
    shares = [list(range(rank, schedule.num_windows, tasks)) for rank in range(tasks)]
    start_at = time.time() + 1.5
    found = ray.get([load_alone.remote(crop_loader, share, start_at) for share in shares if share])
    samples = sum(samples for samples, *_ in found)
    rate = sum(samples / seconds for samples, seconds, _ in found)
    return LoaderTiming(samples, rate, sum(cpu for *_, cpu in found) / samples)
