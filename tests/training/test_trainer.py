"""What our trainer does otherwise than Ray's."""

from __future__ import annotations

import os

import pytest
import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from mipnet.ray_runtime.session import LOCAL_WORKER_NICENESS
from mipnet.run_folder import TRAINING_FOLDER
from mipnet.storage import Folder
from mipnet.training.trainer import TRAIN_WORKER_RUNTIME_ENV, Trainer, last_checkpoint_step


def cleans_up(trainer: TorchTrainer) -> bool:
    return any(isinstance(c, PlacementGroupCleanerCallback) for c in trainer._create_default_callbacks())


@pytest.mark.ray
def test_nothing_waits_for_a_dashboard_that_is_not_there(ray_session, monkeypatch):
    """Fails as well if Ray renames what we override: then training would end ten seconds late again."""
    assert cleans_up(TorchTrainer(print))
    assert not cleans_up(Trainer(print))
    monkeypatch.setattr(ray._private.worker, "get_dashboard_url", lambda: "127.0.0.1:8265")
    assert cleans_up(Trainer(print))


def test_a_ray_that_does_not_tell_of_a_dashboard_is_left_as_it_is(monkeypatch):
    monkeypatch.delattr("ray._private.worker.get_dashboard_url")
    assert [type(c) for c in Trainer(print)._create_default_callbacks()] == [
        type(c) for c in TorchTrainer(print)._create_default_callbacks()
    ]


def test_a_cleaner_of_another_name_is_kept(monkeypatch):
    """As in a Ray that names it otherwise: training ends late, and nothing else is different."""
    monkeypatch.setattr("ray._private.worker.get_dashboard_url", lambda: None)
    monkeypatch.setattr("mipnet.training.trainer.CLEANUP_CALLBACK", "AnotherName")
    assert cleans_up(Trainer(print))


def test_without_a_record_a_run_begins_at_its_first_step(tmp_path):
    assert last_checkpoint_step(Folder.of(tmp_path)) == 0
    (tmp_path / TRAINING_FOLDER).mkdir()
    assert last_checkpoint_step(Folder.of(tmp_path)) == 0
    (tmp_path / TRAINING_FOLDER / "checkpoint_manager_snapshot.json").write_text("broken")
    with pytest.raises(ValueError, match="Expecting value"):
        last_checkpoint_step(Folder.of(tmp_path))


@ray.remote(num_cpus=0)
def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


@pytest.mark.ray
def test_those_who_train_come_before_all_other_workers(ray_session):
    """Ray's own setting, read by its processes as they start: fails as well if Ray renames it."""
    others, training = ray.get(
        [niceness.remote(), niceness.options(runtime_env=TRAIN_WORKER_RUNTIME_ENV).remote()]
    )
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert (others, training) == (min(ours + int(LOCAL_WORKER_NICENESS), 19), ours)
