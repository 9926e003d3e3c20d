"""The stream through Ray Data, and the same work without it, in small."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import ray

from mipnet.bench.streaming import CONSUMER, LEAST_ROUNDS, LOOP, REST, TASKS, bare, steady, stream
from mipnet.cli.bench_stream import IDLE, make_cutter, spent
from mipnet.config import preset
from mipnet.data.sample_schedule import WindowPlan


@pytest.mark.ray
def test_the_stream_is_measured_in_its_middle(ray_session, small_people):
    base = preset("debug")
    config = replace(base, train=replace(base.train, batch_size=4, window_batches=2))
    cutter = make_cutter(config, small_people, (32, 48), 120)
    reference, plan = ray.put(cutter), cutter.plan
    run = stream(reference, plan, 2)
    # 15 windows of two batches by two tasks: the first round and what comes after the sixth do not count
    assert run.samples == (6 - 1) * 2 * 2 * 4 == 80
    assert run.seconds > 0
    assert run.usage.keys() == {TASKS, LOOP, CONSUMER, REST}
    assert list(spent([run], 2)) == [TASKS, LOOP, CONSUMER, REST, IDLE]

    alone = bare(reference, plan, 2)
    assert alone.samples == plan.total_steps * 4
    assert alone.rate > 0


def test_only_whole_rounds_of_windows_count():
    """Windows of several tasks arrive together: from any batch to any other would count some twice."""
    plan = WindowPlan(np.arange(961), seed=0, epochs=1, batch_size=4, window_batches=8)
    assert plan.num_windows == 30
    assert steady(plan, 3) == (3 * 8, 27 * 8)
    assert steady(plan, 4) == (4 * 8, 24 * 8)
    assert steady(plan, 10) == (10 * 8, 20 * 8)  # the fewest rounds
    assert plan.num_windows // 10 == LEAST_ROUNDS
