"""A trace of training steps by PyTorch's profiler, for ``train.profile``."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from mipnet.storage import Folder
from mipnet.tracking.journal import Journal

Item = TypeVar("Item")

PROFILE_FOLDER = "profile"
WARM_UP_STEPS = 3
"""Steps before the trace: kernels are chosen, memory is allocated, and the profiler starts."""

logger = logging.getLogger(__name__)


def profiled(batches: Iterable[Item], first_step: int, steps: int, folder: Folder) -> Iterator[Item]:
    """Hand on batches, tracing what happens from one to the next for ``steps`` of them.

    The trace, in Chrome's format (chrome://tracing, ui.perfetto.dev), is written into the run's folder
    ``profile`` and recorded in its journal, from which the driver sends it to MLflow. It has all operators, a
    GPU's kernels, and the ranges "wait for data", "copy to the device", "forward and backward" and "update".

    Args:
        batches: each is a step.
        first_step: number of the first step, which names the file.
        steps: how many to trace, after ``WARM_UP_STEPS``; 0 is none.
        folder: of the run.
    """
    if not steps:
        yield from batches
        return

    def write(profiler: profile) -> None:
        name = f"steps-from-{first_step + WARM_UP_STEPS:08d}.json.gz"
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch, name)
            profiler.export_chrome_trace(str(file))
            folder.join(PROFILE_FOLDER).write(name, file.read_bytes())
        journal = Journal(folder, "profile")
        journal.add("artifacts", folder=folder.join(PROFILE_FOLDER).uri, path=PROFILE_FOLDER)
        journal.flush()
        logger.info("wrote %s/%s", PROFILE_FOLDER, name)

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    order = schedule(wait=0, warmup=WARM_UP_STEPS, active=steps, repeat=1)
    with profile(activities=activities, schedule=order, on_trace_ready=write) as profiler:
        for batch in batches:
            yield batch
            profiler.step()
