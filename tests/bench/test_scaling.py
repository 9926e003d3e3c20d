"""The stream and the training on several cores, in small, and what follows for clusters."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import ray

from mipnet.bench import scaling
from mipnet.bench.plain_loader import PlainLoader
from mipnet.bench.rounds import Timing
from mipnet.bench.streaming import CONSUMER, LOOP, REST, TASKS, bare, steady, stream
from mipnet.commands.scaling_bench import (
    Options,
    bench_sizing,
    bench_training,
    counts,
    efficiency,
    ranks_of,
    rows_table,
)
from mipnet.commands.stream_bench import IDLE, make_cutter, spent
from mipnet.config import Config, preset
from mipnet.data.windows import WindowPlan
from mipnet.errors import ConfigError


@pytest.fixture
def config() -> Config:
    base = preset("debug")
    return replace(base, train=replace(base.train, batch_size=4, window_batches=2))


@pytest.mark.ray
def test_the_stream_is_measured_in_its_middle(ray_session, config, small_people):
    cutter = make_cutter(config, small_people, (32, 48), 120)
    reference, plan = ray.put(cutter), cutter.plan
    (run,) = stream(reference, plan, 2)
    # 15 windows of two batches by two tasks: the first round and what comes after the sixth do not count
    assert run.samples == (6 - 1) * 2 * 2 * 4 == 80
    assert run.size == pytest.approx(80 * (48 * 32 * 3 + 2 * 17 * 3 * 4 + 5 * 8 + 2 * 8 + 1), rel=0.1)
    assert 0 <= run.waited <= run.seconds
    assert run.usage.keys() == {TASKS, LOOP, CONSUMER, REST}
    assert list(spent([run], 2)) == [TASKS, LOOP, CONSUMER, REST, IDLE]

    alone = bare(reference, plan, 2)
    assert alone.samples == plan.total_steps * 4
    assert alone.rate > 0
    loader = ray.put(PlainLoader(small_people, cutter.settings, 1.0, 0))
    samples, seconds = scaling.plain(loader, plan, 2, 20)
    assert samples == 20
    assert seconds > 0


def test_only_whole_rounds_of_windows_count():
    """Windows of several tasks arrive together: from any batch to any other would count some twice."""
    plan = WindowPlan(np.arange(961), seed=0, epochs=1, batch_size=4, window_batches=8)
    assert plan.num_windows == 30
    assert steady(plan, 3) == (3 * 8, 27 * 8)
    assert steady(plan, 4) == (4 * 8, 24 * 8)
    assert steady(plan, 16) == (80, 160)  # one round only


@pytest.mark.ray
@pytest.mark.slow
def test_training_on_one_and_two_ranks(ray_session, config, small_people, capsys):
    found = bench_training(
        config, small_people, (64, 64), ranks_of([1, 2, 3], 4), Options(samples=120, rounds=1)
    )
    assert list(found["scaling"]) == [1, 2]  # a batch of four has no third part
    assert found["scaling"][1]["efficiency"] == 1
    assert found["scaling"][2]["efficiency"] > 0
    assert found["scaling"][2]["bytes_per_sample"] == pytest.approx(64 * 64 * 3 + 2 * 17 * 3 * 4 + 1)
    assert "2 rank(s)" in capsys.readouterr().out


def test_what_clusters_need():
    rows = scaling.sizing(gpu_rate=1000, core_rate=500, sample_bytes=150_000, image_bytes=50_000)
    assert [row.gpus for row in rows] == [8, 64, 512]
    assert {row.workers for row in rows} == {2.0}
    assert rows[0].store == pytest.approx(2 * 1200)  # MB/s: 8 GPUs' crops, written and read
    assert rows[0].network == pytest.approx(9.6)  # Gbit/s
    assert [row.images for row in rows] == pytest.approx([400, 3200, 25_600])
    said = scaling.sizing_table(rows)
    assert "1,024" in said  # cores for 512 GPUs
    assert "512,000" in said


def test_sizing_counts_an_image_once_for_all_its_people(small_people, capsys):
    streams = {
        "scaling": {1: {"rate": 300.0, "bytes_per_sample": 1e5}, 2: {"rate": 500.0, "bytes_per_sample": 1e5}}
    }
    rows = bench_sizing(streams, small_people, Options(gpu_rate=100))
    size = sum(len(small_people.images.read(i)) for i in range(12)) / 30
    assert rows[0]["images"] == pytest.approx(8 * 100 * size / 1e6)
    assert rows[0]["workers"] == pytest.approx(100 / 250)
    json.dumps(rows)


def test_numbers_of_workers(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)))
    assert counts(()) == [1, 2, 4]
    assert counts(("4", "1")) == [1, 4]
    with pytest.raises(ConfigError, match="not numbers"):
        counts(("two",))


def test_efficiency_is_per_worker_whatever_the_first_number():
    two, four = Timing("2", (100.0, 120.0), (1.0, 1.0)), Timing("4", (150.0, 180.0), (1.5, 1.5))
    assert efficiency(two, 2, two, 2) == 1
    assert efficiency(four, 4, two, 2) == pytest.approx(0.75)


def test_table_of_rows():
    row = {
        "rate": 10.0,
        "efficiency": 0.81,
        "waited": 0.05,
        "bytes_per_sample": 1.0,
        "megabytes_per_second": 120.0,
    }
    said = rows_table({2: row}, "rank(s)")
    assert "2 rank(s)" in said
    assert "81 %" in said
    assert "120 MB/s" in said
