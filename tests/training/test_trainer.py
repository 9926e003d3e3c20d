"""What our trainer does otherwise than Ray's."""

from __future__ import annotations

import pytest
import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from mipnet.training.trainer import Trainer


def cleans_up(trainer: TorchTrainer) -> bool:
    return any(isinstance(c, PlacementGroupCleanerCallback) for c in trainer._create_default_callbacks())


@pytest.mark.ray
def test_nothing_waits_for_a_dashboard_that_is_not_there(ray_session, monkeypatch):
    """Fails as well if Ray renames what we override: then training would end ten seconds late again."""
    assert cleans_up(TorchTrainer(print))
    assert not cleans_up(Trainer(print))
    monkeypatch.setattr(ray._private.worker, "get_dashboard_url", lambda: "127.0.0.1:8265")
    assert cleans_up(Trainer(print))
