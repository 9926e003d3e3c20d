"""The stream through Ray Data, and the same work without it, in small."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import ray

from mipnet.bench.stream_report import IDLE, make_crop_loader, time_by_process
from mipnet.bench.streaming import (
    CONSUMER,
    LEAST_ROUNDS,
    LOOP,
    REST,
    TASKS,
    steady,
    stream,
    time_loaders_alone,
)
from mipnet.config import preset
from mipnet.data.sample_schedule import SampleSchedule


@pytest.mark.ray
def test_the_stream_is_measured_in_its_middle(ray_session, small_people):
    base = preset("debug")
    config = replace(base, train=replace(base.train, batch_size=4, window_batches=2))
    crop_loader = make_crop_loader(config, small_people, (32, 48), 120)
    reference, schedule = ray.put(crop_loader), crop_loader.schedule
    run = stream(reference, schedule, 2)
    # 15 windows of two batches by two tasks: the first round and what comes after the sixth do not count
    assert run.samples == (6 - 1) * 2 * 2 * 4 == 80
    assert run.seconds > 0
    assert run.usage.keys() == {TASKS, LOOP, CONSUMER, REST}
    assert list(time_by_process([run], 2)) == [TASKS, LOOP, CONSUMER, REST, IDLE]

    alone = time_loaders_alone(reference, schedule, 2)
    assert alone.samples == schedule.total_steps * 4
    assert alone.rate > 0


def test_only_whole_rounds_of_windows_count():
    """Windows of several tasks arrive together: from any batch to any other would count some twice."""
    schedule = SampleSchedule(np.arange(961), seed=0, epochs=1, batch_size=4, window_batches=8)
    assert schedule.num_windows == 30
    assert steady(schedule, 3) == (3 * 8, 27 * 8)
    assert steady(schedule, 4) == (4 * 8, 24 * 8)
    assert steady(schedule, 10) == (10 * 8, 20 * 8)  # the fewest rounds
    assert schedule.num_windows // 10 == LEAST_ROUNDS
