"""Loads windows of training samples, one for each line of its standard input, and says where the time went.

    python tests/helpers/loading_process.py CORE ROOT SPLIT

It computes on that core alone. Each window is answered with a line of JSON: samples and pictures; seconds in
all, of waiting for the contents of pictures, of CPU in the thread that decodes and crops, and in all others.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence

import cv2

from mipnet.config.schema import AugmentConfig, DataConfig
from mipnet.data import crops
from mipnet.data.buffer_pool import BufferPool
from mipnet.data.crops import CropSettings
from mipnet.data.dataset_formats import open_split
from mipnet.data.read_ahead import read_ahead
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.data.stream import CropLoader
from mipnet.host import tune_malloc
from mipnet.storage import Folder

spent = {"pictures": 0.0, "waited": 0.0, "waiting CPU": 0.0}


def timed_read_ahead(uris: Sequence[str]) -> Iterator[bytes | None]:
    """``read_ahead``, whose time is added up."""
    contents = read_ahead(uris)
    for _ in uris:
        begin, cpu = time.perf_counter(), time.thread_time()
        content = next(contents)
        spent["waited"] += time.perf_counter() - begin
        spent["waiting CPU"] += time.thread_time() - cpu
        spent["pictures"] += 1
        yield content


def main(core: str, root: str, split: str) -> None:
    os.sched_setaffinity(0, {int(core)})
    cv2.setNumThreads(1)
    tune_malloc()
    setattr(crops, read_ahead.__name__, timed_read_ahead)
    file = open_split(DataConfig(), Folder.of(root), split)
    people = file.people()
    schedule = SampleSchedule(people.image_offsets, 0, 10_000, 64, 16)
    loader = CropLoader(people, schedule, CropSettings((192, 256), 1.25, 2, file.skeleton, AugmentConfig()))
    memory = BufferPool()
    loader.load(0, memory.empty)
    for window, _ in enumerate(sys.stdin, 1):
        spent.update(dict.fromkeys(spent, 0.0))
        begin, main_cpu, cpu = time.perf_counter(), time.thread_time(), time.process_time()
        samples = len(loader.load(window, memory.empty)["step"])
        seconds, main_cpu = time.perf_counter() - begin, time.thread_time() - main_cpu
        other = time.process_time() - cpu - main_cpu
        answer = {"samples": samples, "seconds": seconds, "main CPU": main_cpu, "other CPU": other, **spent}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
