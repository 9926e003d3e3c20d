"""The input of the training loop: pinned for a GPU, in order, with what a step needs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray.train
import torch

from mipnet.data.sample_schedule import SampleSchedule
from mipnet.storage import Folder
from mipnet.tracking.journal import Journal
from mipnet.training.guards import CorruptImageTracker
from mipnet.training.worker import training_batches
from tests.helpers.networks import tiny
from tests.helpers.steps import make

SCHEDULE = SampleSchedule(np.array([0, 8]), 0, 3, 4, 1)  # 6 steps of 4 samples


def columns(step: int) -> dict[str, np.ndarray]:
    """A batch as the stream delivers it."""
    rng = np.random.default_rng(step)
    return {
        "image": rng.integers(0, 256, (4, 48, 32, 3), np.uint8),
        "keypoints": rng.uniform(2, 30, (4, 2, 17, 3)).astype(np.float32),
        "corrupt": np.zeros(4, bool),
        "sample": np.arange(4),
        "step": np.full(4, step),
        "batch_position": np.arange(4),
    }


class Shard:
    """Stands in for Ray's iterator; keeps what it is asked for."""

    def iter_torch_batches(self, **settings: Any) -> Iterator[dict[str, torch.Tensor]]:
        self.settings = settings
        for step in range(SCHEDULE.total_steps):
            yield {name: torch.from_numpy(array) for name, array in columns(step).items()}


@pytest.fixture
def on_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)


@pytest.fixture
def tracker(tmp_path: Path) -> CorruptImageTracker:
    return CorruptImageTracker(None, Journal(Folder.of(tmp_path), "worker"))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_batches_are_pinned_for_a_gpu(
    on_one_rank: None, tracker: CorruptImageTracker, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one: what Ray is asked for, and that copies begin from what it gives."""
    shard = Shard()
    monkeypatch.setattr(ray.train, "get_dataset_shard", lambda name: shard)
    monkeypatch.setattr("mipnet.training.worker.copy_ahead", lambda batches, names, device: batches)
    step: Any = SimpleNamespace(step=0, device=torch.device(kind))
    found = [int(batch["step"][0]) for batch in training_batches(step, SCHEDULE, 5, tracker)]
    assert found == [0, 1, 2, 3, 4]
    assert (shard.settings["device"], shard.settings["pin_memory"]) == ("cpu", kind == "cuda")


def test_a_step_gets_what_it_needs_and_no_more(
    on_one_rank: None, tracker: CorruptImageTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray.train, "get_dataset_shard", lambda name: Shard())
    step: Any = SimpleNamespace(step=0, device=torch.device("cpu"))
    found = list(training_batches(step, SCHEDULE, SCHEDULE.total_steps, tracker))
    assert [set(batch) for batch in found] == [{"image", "keypoints", "corrupt"}] * SCHEDULE.total_steps
    assert np.array_equal(found[4]["image"].numpy(), columns(4)["image"])


@pytest.mark.gpu
@pytest.mark.ray
def test_the_loop_never_waits_for_the_gpu(
    ray_session: None,
    gpu: torch.device,
    on_one_rank: None,
    tracker: CorruptImageTracker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through Ray Data's own iterator, which pins."""
    blocks = ray.data.range(SCHEDULE.total_steps, override_num_blocks=1).map_batches(
        lambda batch: columns(int(batch["id"][0])), batch_size=1
    )
    monkeypatch.setattr(ray.train, "get_dataset_shard", lambda name: blocks.iterator())
    step = make(tiny(), device=gpu)
    batches = training_batches(step, SCHEDULE, SCHEDULE.total_steps, tracker)
    for _ in range(2):
        batch = next(batches)
        step(batch["image"], batch["keypoints"], batch["corrupt"])
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for batch in batches:
                step(batch["image"], batch["keypoints"], batch["corrupt"])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert step.step == SCHEDULE.total_steps
    assert [str(each.message) for each in found if "synchroniz" in str(each.message)] == []
