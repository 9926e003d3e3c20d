"""Training on 1, 2, 4, … workers: how many there are, what is counted, and how it compares."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mipnet.bench.scaling import (
    TruncatedSchedule,
    max_workers,
    measure_scaling,
    scaling_table,
    summarize_rounds,
    with_speed_up,
    worker_counts,
)
from mipnet.config import Config, preset
from mipnet.config.schema import ResourcesConfig
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.errors import UserError
from mipnet.storage import Folder


def small() -> Config:
    base = preset("debug")
    model = replace(base.model, width=8, num_modules=(1,), mimb_stages=(2,), stem_channels=8)
    train = replace(base.train, batch_size=8, window_batches=2)
    return replace(base, model=model, train=train)


def node(alive: bool = True, **resources: float) -> dict[str, object]:
    return {"Alive": alive, "Resources": resources}


@pytest.mark.ray
@pytest.mark.slow
def test_training_on_one_and_two_workers(ray_session, small_people, tmp_path):
    scratch = Folder.of(tmp_path)
    points = [measure_scaling(small(), workers, small_people, scratch, rounds=2) for workers in (1, 2)]
    for point in points:
        assert len(point["rounds"]["samples_per_second"]) == 2  # those of the start are left out
        assert point["samples_per_second"] > 0
        assert 0 <= point["waited_for_data"] < 1
    assert [p["workers"] for p in with_speed_up(points)] == [1, 2]
    assert scratch.names() == []
    json.dumps(with_speed_up(points))


@pytest.mark.ray
@pytest.mark.slow
def test_images_that_cannot_be_read_end_the_measurement(ray_session, small_people, tmp_path):
    uris = np.array([f"{tmp_path}/none/{i}.jpg" for i in range(12)])
    people = replace(small_people, images=replace(small_people.images, uris=uris))
    scratch = Folder.of(tmp_path)
    with pytest.raises(UserError, match="samples have images that cannot be read"):
        measure_scaling(small(), 1, people, scratch, rounds=1)
    assert scratch.names() == []


def test_a_short_plan_is_the_beginning_of_the_whole():
    whole = SampleSchedule(np.arange(41), seed=1, epochs=2, batch_size=4, window_batches=3)
    short = TruncatedSchedule(**vars(whole), length=6)
    assert (short.total_steps, short.num_windows) == (6, 2)
    for window in range(2):
        assert np.array_equal(short.samples(window), whole.samples(window))
    long = TruncatedSchedule(**vars(whole), length=100)  # a small data set is repeated
    assert len(long.samples(33)[0]) == 4


def test_workers_that_a_cluster_holds(monkeypatch):
    monkeypatch.setattr("mipnet.bench.scaling.cores", lambda: 2)
    cpu, gpu = ResourcesConfig(gpu=False), ResourcesConfig(gpu=True, cpus_per_worker=4)
    assert max_workers(cpu, [node(CPU=5)]) == 2  # a local Ray on two cores
    assert max_workers(cpu, [node(CPU=8), node(CPU=8), node(alive=False, CPU=8)]) == 15  # one decodes
    assert max_workers(gpu, [node(CPU=16, GPU=4), node(CPU=6, GPU=4), node(CPU=4)]) == 5
    assert max_workers(cpu, [node(CPU=1)]) == 1


def test_numbers_of_workers():
    config = preset("coco-hrnet-w32-256x192")  # batches of 128
    assert worker_counts(config, 8) == [1, 2, 4, 8]
    assert worker_counts(config, 7) == [1, 2, 4, 7]
    assert worker_counts(replace(config, train=replace(config.train, batch_size=4)), 6) == [1, 2, 4]
    assert worker_counts(replace(config, train=replace(config.train, batch_size=96)), 6) == [1, 2, 4, 6]
    assert worker_counts(config, 1) == [1]


def test_a_rate_is_over_the_time_of_all_rounds():
    rows = [{"samples_per_second": 100.0, "waited_for_data": 0.1}]
    rows += [{"samples_per_second": 50.0, "waited_for_data": 0.4}]
    found = summarize_rounds(2, rows)  # of 100 samples each: 1 s and 2 s
    assert found["samples_per_second"] == pytest.approx(200 / 3)
    assert found["waited_for_data"] == pytest.approx((0.1 + 0.8) / 3)


def test_speed_up_and_efficiency():
    rows = {1: 100.0, 4: 320.0}
    points = [
        summarize_rounds(n, [{"samples_per_second": rate, "waited_for_data": 0.05}])
        for n, rate in rows.items()
    ]
    one, four = with_speed_up(points)
    assert (one["speed_up"], one["efficiency"]) == (1, 1)
    assert four["speed_up"] == pytest.approx(3.2)
    assert four["efficiency"] == pytest.approx(0.8)
    _, _, last = scaling_table([one, four]).splitlines()
    assert last.split() == ["4", "320", "x", "3.20", "80%", "5.0%"]
