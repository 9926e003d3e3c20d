"""The data loader on Ray Data: order and pixels do not depend on the number of tasks and ranks."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import ray

from mipnet.config.schema import AugmentConfig
from mipnet.data.coco import PersonAnnotations
from mipnet.data.crops import CropSettings
from mipnet.data.image_index import ImageIndex
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.data.stream import (
    CropLoader,
    ScheduledDataConfig,
    load_windows,
    throttle_scheduling_loop,
    window_dataset,
)
from mipnet.skeletons import COCO17

BATCH = 4


@pytest.fixture(scope="module")
def crop_loader(small_people: PersonAnnotations) -> CropLoader:
    settings = CropSettings((32, 48), 1.25, 2, COCO17, AugmentConfig(colour=0.1, shift=0.05))
    schedule = SampleSchedule(small_people.image_offsets, 7, 2, BATCH, 4)
    assert schedule.total_steps % 4 == 3  # the last window is filled up
    return CropLoader(small_people, schedule, settings)


@ray.remote(num_cpus=0)
def consume(iterator: ray.data.DataIterator, local_batch_size: int) -> list[dict[str, np.ndarray]]:
    batches = iterator.iter_batches(batch_size=local_batch_size, batch_format="numpy", prefetch_batches=1)
    return [{k: np.array(v) for k, v in batch.items()} for batch in batches]


def streamed(
    crop_loader: CropLoader, ranks: int, tasks: int, from_step: int = 0
) -> list[dict[str, np.ndarray]]:
    """The global batches, put together from the ranks' batches."""
    split = ScheduledDataConfig(ray.put(crop_loader), crop_loader.schedule, tasks)
    shards = split.configure({"train": window_dataset(crop_loader.schedule, from_step)}, ranks)
    rows, shares = crop_loader.schedule.rows_per_step(ranks), crop_loader.schedule.shares(ranks)
    parts = ray.get([consume.remote(shard["train"], rows) for shard in shards])
    assert len({len(p) for p in parts}) == 1
    whole = []
    for step in zip(*parts, strict=True):
        mine = list(zip(step, map(len, shares), strict=True))
        assert all((part["step"][size:] == -1).all() for part, size in mine)
        whole.append({k: np.concatenate([part[k][:size] for part, size in mine]) for k in step[0]})
    steps = (
        crop_loader.schedule.total_steps
        - crop_loader.schedule.window_of(from_step) * crop_loader.schedule.window_batches
    )
    assert all((batch["step"] == -1).all() for batch in whole[steps:])  # the last window's filling
    return whole[:steps]


def same(a: list[dict[str, np.ndarray]], b: list[dict[str, np.ndarray]]) -> bool:
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.ray
def test_order_and_pixels_do_not_depend_on_tasks_or_ranks(ray_session, crop_loader):
    alone = streamed(crop_loader, ranks=1, tasks=1)
    assert same(alone, streamed(crop_loader, ranks=1, tasks=3))
    assert same(alone, streamed(crop_loader, ranks=2, tasks=3))
    assert same(alone, streamed(crop_loader, ranks=3, tasks=2))  # 2, 1 and 1 of the 4 samples of a step

    assert len(alone) == crop_loader.schedule.total_steps == 15
    for number, batch in enumerate(alone):
        assert (batch["step"] == number).all()
        assert batch["batch_position"].tolist() == list(range(BATCH))
        assert batch["image"].shape == (BATCH, 48, 32, 3)
        assert batch["image"].dtype == np.uint8
    epochs = np.concatenate([b["epoch"] for b in alone])
    samples = np.concatenate([b["sample"] for b in alone])
    for epoch in (0, 1):
        assert sorted(samples[epochs == epoch]) == list(range(30))
    images = np.concatenate([b["image"] for b in alone])
    once = images[(epochs == 0) & (samples == 5)]
    again = images[(epochs == 1) & (samples == 5)]
    assert not np.array_equal(once, again)


@pytest.mark.ray
def test_a_ray_without_a_call_in_its_loop_gives_the_same_samples(ray_session, crop_loader, monkeypatch):
    alone = streamed(crop_loader, ranks=1, tasks=1)
    monkeypatch.setitem(sys.modules, "ray.data._internal.execution.execution_callback", None)
    context = ray.data.DataContext()
    throttle_scheduling_loop(context)
    assert context.custom_execution_callback_classes == []
    assert same(alone, streamed(crop_loader, ranks=2, tasks=2))


@pytest.mark.ray
def test_windows_larger_than_rays_blocks_are_not_split_otherwise(ray_session, crop_loader, monkeypatch):
    """As those of 1024 crops of 384x288 are: 340 MB, where Ray would split at 128."""
    alone = streamed(crop_loader, ranks=1, tasks=1)
    monkeypatch.setattr(ray.data.DataContext.get_current(), "target_max_block_size", 8192)
    assert alone[0]["image"].nbytes > 8192
    assert same(alone, streamed(crop_loader, ranks=2, tasks=2))


@pytest.mark.ray
def test_a_later_start_continues_the_same_sequence(ray_session, crop_loader):
    """A stream starts at a window's border; the batches before the wanted step are the caller's to skip."""
    assert same(
        streamed(crop_loader, ranks=2, tasks=2, from_step=7), streamed(crop_loader, ranks=1, tasks=2)[4:]
    )


def test_throttle_scheduling_loop_sleeps_in_every_iteration(monkeypatch):
    sleeps: list[float] = []
    monkeypatch.setattr(time, "sleep", sleeps.append)
    context = ray.data.DataContext()
    throttle_scheduling_loop(context)
    (callback,) = context.custom_execution_callback_classes
    callback().on_execution_step(None)
    assert sleeps == [0.02]


@pytest.mark.ray
def test_load_windows_splits_a_window_in_the_task_that_loads_it(ray_session, crop_loader):
    """Another task for it would copy every window through the object store once more."""
    blocks = load_windows(
        window_dataset(crop_loader.schedule, 0), ray.put(crop_loader), 2, 8, stream_workers=1
    )
    found = list(blocks.iter_batches(batch_size=None, batch_format="numpy"))
    assert [len(block["step"]) for block in found] == 8 * [8]
    for number, block in enumerate(found[:6]):
        assert (block["batch_position"] // 2 == number % 2).all()  # rank r has block r of every window
    assert "MapBatches(load_window_crops)->StreamingRepartition" in blocks.stats()


def test_load_is_a_pure_function(crop_loader):
    a, b = crop_loader.load(1), replace(crop_loader).load(1)
    assert all(np.array_equal(a[k], b[k]) for k in a)


def test_load_makes_black_crops_without_keypoints_of_corrupt_images(crop_loader, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 not a picture")
    uris = crop_loader.people.images.uris.astype(object)
    uris[3], uris[4] = str(broken), str(tmp_path / "gone.jpg")
    images = ImageIndex(uris, crop_loader.people.images.ids)
    worse = replace(crop_loader, people=replace(crop_loader.people, images=images))
    seen = 0
    for window in range(crop_loader.schedule.num_windows):
        good, bad = crop_loader.load(window), worse.load(window)
        image = np.searchsorted(crop_loader.people.image_offsets, bad["sample"], side="right") - 1
        hit = np.isin(image, [3, 4])
        assert np.array_equal(bad["corrupt"], hit)
        assert not bad["image"][hit].any()
        assert not bad["keypoints"][hit].any()
        assert np.array_equal(bad["image"][~hit], good["image"][~hit])
        seen += hit.sum()
    assert seen >= 10
