"""Workers MIN:MAX: how many fit, and what each reserves."""

from __future__ import annotations

from typing import Any

import pytest

from mipnet.config import from_dict, preset
from mipnet.config.schema import ResourcesConfig
from mipnet.errors import UserError
from mipnet.ray_runtime.elastic_workers import fitting_workers, resolve_elastic, training_cpus
from mipnet.ray_runtime.resources import AutoscalerLimits, check_resources, resolve_use_gpu


def node(cpus: float, gpus: float = 0, alive: bool = True, role: str = "") -> dict[str, Any]:
    resources = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    labels = {"mipnet.io/role": role} if role else {}
    return {"Alive": alive, "Resources": resources, "Labels": labels, "NodeManagerAddress": "10.0.0.1"}


def elastic(workers: int | str = "1:4", cpus: int = 0, gpu: bool = False) -> ResourcesConfig:
    return ResourcesConfig(workers=workers, cpus_per_worker=cpus, gpu=gpu)


@pytest.mark.parametrize(
    ("workers", "least", "most", "words"),
    [(4, 4, 4, "4"), ("4", 4, 4, "4"), ("2:8", 2, 8, "2 to 8"), ("3:3", 3, 3, "3")],
)
def test_a_number_or_a_range_of_workers(workers: int | str, least: int, most: int, words: str) -> None:
    found = from_dict({"resources": {"workers": workers}}, preset("debug")).resources
    assert (found.min_workers, found.max_workers, found.workers_in_words) == (least, most, words)
    assert found.elastic == (least < most)


@pytest.mark.parametrize(("cpus", "reserved"), [([3, 3], 2), ([4], 3), ([96, 8], 6), ([5, 7], 4)])
def test_a_worker_on_cpus_reserves_most_of_the_smallest_node(cpus: list[int], reserved: int) -> None:
    nodes = [node(n) for n in cpus]
    found = resolve_elastic(elastic(), nodes, local=False)
    assert found == elastic(cpus=reserved)
    assert sum(n - fitting_workers([node(n)], found) * reserved >= 1 for n in cpus) == len(cpus)


def test_of_two_nodes_each_holds_one_and_a_lost_one_leaves_one() -> None:
    resources = elastic("1:2", cpus=2)
    assert fitting_workers([node(3), node(3)], resources) == 2
    assert fitting_workers([node(3), node(3, alive=False)], resources) == 1
    assert training_cpus([node(3), node(3, alive=False)], resources) == 2
    assert training_cpus([node(3)], elastic(4, cpus=2)) == 8  # a plain number, wherever they will be


def test_gpus_hold_a_worker_each() -> None:
    resources = elastic("2:8", gpu=True)
    assert resolve_elastic(resources, [node(96, 8)], local=False) == resources
    assert fitting_workers([node(96, 4), node(96), node(96, 2)], resources) == 6
    assert fitting_workers([node(96, 8), node(96, 8)], resources) == 8


@pytest.mark.parametrize(
    ("nodes", "resources", "message"),
    [
        (
            [node(2), node(2)],
            elastic(),
            "2 worker(s) of 1 CPU(s) take all 2 CPUs of node 10.0.0.1 and leave none",
        ),
        ([node(4)], elastic(cpus=2), "2 worker(s) of 2 CPU(s) take all 4 CPUs"),
        ([], elastic(), "workers 1:4: how many CPUs a node has is not known"),
    ],
)
def test_nodes_without_a_cpu_to_decode_are_refused(
    nodes: list[dict[str, Any]], resources: ResourcesConfig, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        resolve_elastic(resources, nodes, local=False)
    assert str(caught.value).startswith(message)
    assert "--resources.cpus-per-worker" in str(caught.value)


def test_workers_may_fill_nodes_where_others_decode() -> None:
    resources = elastic(cpus=2)
    assert resolve_elastic(resources, [node(4), node(4, role="data")], local=False) == resources


def test_a_ray_of_this_machine_has_a_fixed_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert resolve_elastic(elastic("2:4"), [node(7)], local=True).workers == 4
    assert resolve_elastic(elastic("1:4", gpu=True), [node(7, 3)], local=True).workers == 3
    assert "no node can join a Ray of this machine alone: 3 worker(s)" in capsys.readouterr().out


def test_only_the_fewest_are_demanded(capsys: pytest.CaptureFixture[str]) -> None:
    one = [{"CPU": 8.0, "GPU": 2.0}]
    check_resources(elastic("2:8", gpu=True), one, AutoscalerLimits())
    with pytest.raises(UserError, match="3 workers of 1 CPU and 1 GPU do not fit"):
        check_resources(elastic("3:8", gpu=True), one, AutoscalerLimits())
    auto = ResourcesConfig(workers="2:8")
    assert resolve_use_gpu(auto, 2, lambda: None).gpu is True
    assert resolve_use_gpu(auto, 1, lambda: None).gpu is False
    said = capsys.readouterr().out
    assert "one for each of 2 to 8 worker(s)" in said
    assert "1 GPUs are too few for 2 workers" in said
