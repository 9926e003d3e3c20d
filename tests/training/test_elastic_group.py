"""A running group is resized right after a checkpoint, and at no other moment."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    FixedScalingPolicy,
    NoopDecision,
    ResizeDecision,
)

from mipnet.config.schema import ResourcesConfig
from mipnet.training.elastic_group import resize_after_checkpoints
from mipnet.training.trainer import scaling_config


class Coordinator:
    """Stands in for Ray's actor that reserves nodes."""

    requests = 0

    def maybe_send_resource_request(self, *_: Any) -> None:
        self.requests += 1


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two nodes with room for a worker each, and no interval."""
    resources = ResourcesConfig(workers="1:2", resize_seconds=0, gpu=False, cpus_per_worker=2)
    made = resize_after_checkpoints(ElasticScalingPolicy(scaling_config(resources)))
    made._coordinator_client = Coordinator()
    monkeypatch.setattr(
        type(made), "_get_reserved_resources", lambda self: {"a": {"CPU": 2}, "b": {"CPU": 3}}
    )
    return made


def group(workers: int, start_time: float = 1.0) -> Any:
    return SimpleNamespace(start_time=start_time, num_workers=workers)


def status(*reported: bool) -> Any:
    found = {rank: SimpleNamespace(training_report=each or None) for rank, each in enumerate(reported)}
    return SimpleNamespace(worker_statuses=found)


def decide(policy: Any, state: Any, status: Any) -> Any:
    return policy.make_decision_for_running_worker_group(worker_group_state=state, worker_group_status=status)


def test_a_group_grows_right_after_a_checkpoint(policy: Any) -> None:
    for _ in range(3):
        assert isinstance(decide(policy, group(1), status(False)), NoopDecision)
    assert policy._coordinator_client.requests == 3
    decision = decide(policy, group(1), status(True))
    assert isinstance(decision, ResizeDecision)
    assert decision.num_workers == 2
    assert isinstance(decide(policy, group(1), status(False)), NoopDecision)


def test_a_checkpoint_counts_when_all_ranks_have_reported_it(policy: Any) -> None:
    policy.scaling_config.num_workers = (1, 1)  # as if a node had to be given back
    assert isinstance(decide(policy, group(2), status(True, False)), NoopDecision)
    assert isinstance(decide(policy, group(2), status(False, False)), NoopDecision)
    assert isinstance(decide(policy, group(2), status(False, True)), ResizeDecision)
    assert isinstance(decide(policy, group(2), status(False, True)), NoopDecision)
    assert isinstance(decide(policy, group(2, 2.0), status(True, False)), NoopDecision)  # another group


def test_the_interval_holds(policy: Any) -> None:
    policy.scaling_config.elastic_resize_monitor_interval_s = 3600
    assert isinstance(decide(policy, group(1, float("-inf")), status(True)), ResizeDecision)
    assert isinstance(decide(policy, group(1, float("-inf")), status(True)), NoopDecision)


def test_another_ray_keeps_its_own_policy(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    strange = SimpleNamespace(worker_statuses={0: SimpleNamespace()})
    assert isinstance(decide(policy, group(1), strange), ResizeDecision)  # it does not tell of reports
    fixed = FixedScalingPolicy(ScalingConfig(num_workers=2))
    assert resize_after_checkpoints(fixed) is fixed
    monkeypatch.setitem(sys.modules, "ray.train.v2._internal.execution.scaling_policy", None)
    assert resize_after_checkpoints(fixed) is fixed


def test_ray_gets_the_range_and_what_a_worker_computes_with() -> None:
    made = scaling_config(ResourcesConfig(workers="2:8", resize_seconds=7, gpu=True, cpus_per_worker=4))
    assert (made.num_workers, made.elastic_resize_monitor_interval_s) == ((2, 8), 7)
    assert made._resources_per_worker_not_none == {"CPU": 4, "GPU": 1}
    assert scaling_config(ResourcesConfig(workers=3, gpu=False)).num_workers == 3
