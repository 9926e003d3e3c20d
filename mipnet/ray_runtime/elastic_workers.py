"""Workers MIN:MAX: how many of them a cluster holds, and how many CPUs each takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mipnet.config.schema import ResourcesConfig
from mipnet.console import say
from mipnet.data.stream import decoding_label_selector
from mipnet.errors import UserError
from mipnet.ray_runtime.resources import worker_resources


def fitting_workers(nodes: Sequence[Mapping[str, Any]], resources: ResourcesConfig) -> int:
    """How many workers the nodes hold, at most ``max_workers``, as Ray Train counts them.

    Args:
        nodes: as from ``ray.nodes()``.
        resources: as ``resolve_elastic`` returns them.
    """
    held = sum(_workers_on(node["Resources"], resources) for node in nodes if node["Alive"])
    return min(held, resources.max_workers)


def training_cpus(nodes: Sequence[Mapping[str, Any]], resources: ResourcesConfig) -> float:
    """CPUs that the workers reserve, of workers MIN:MAX those for which there is room now.

    Args:
        nodes, resources: as for ``fitting_workers``.
    """
    workers = fitting_workers(nodes, resources) if resources.elastic else resources.min_workers
    return workers * worker_resources(resources)["CPU"]


def _workers_on(node: Mapping[str, float], resources: ResourcesConfig) -> int:
    return int(min(node.get(name, 0) // amount for name, amount in worker_resources(resources).items()))


def resolve_elastic(
    resources: ResourcesConfig, nodes: Sequence[Mapping[str, Any]], *, local: bool
) -> ResourcesConfig:
    """Resolve workers MIN:MAX for a cluster.

    Ray starts as many workers as their CPUs fit, so each reserves what it computes with: on CPUs without
    ``cpus_per_worker`` three quarters of the smallest node, which thus holds one and decodes with the rest.

    Args:
        resources: with ``gpu`` resolved.
        nodes: the living ones, as from ``ray.nodes()``.
        local: a Ray of this machine alone, to which no node comes: the number of workers is fixed.

    Raises:
        UserError: workers would fill a node and leave no CPU there to decode.
    """
    if local:
        number = max(fitting_workers(nodes, resources), resources.min_workers)
        say(f"no node can join a Ray of this machine alone: {number} worker(s)")
        return replace(resources, workers=number)
    sizes = [int(cpus) for node in nodes if (cpus := node["Resources"].get("CPU", 0)) >= 1]
    if not resources.cpus_per_worker and resources.gpu is not True:
        if not sizes:
            what = "how many CPUs a node has is not known before the autoscaler has started one"
            raise UserError(f"workers {resources.workers}: {what}", "set --resources.cpus-per-worker")
        smallest = min(sizes)
        resources = replace(resources, cpus_per_worker=smallest - max(smallest // 4, 1) or 1)
        say(f"each worker computes with {resources.cpus_per_worker} CPU(s) (--resources.cpus-per-worker)")
    if decoding_label_selector(nodes):
        return resources
    cpus = int(worker_resources(resources)["CPU"])
    for node in nodes:
        have = node["Resources"].get("CPU", 0)
        held = min(_workers_on(node["Resources"], resources), resources.max_workers)
        if held and have - held * cpus < 1:  # training would wait for ever for a stream on such nodes alone
            raise UserError(
                f"{held} worker(s) of {cpus} CPU(s) take all {have:g} CPUs of node "
                f"{node['NodeManagerAddress']} and leave none to decode images",
                "set --resources.cpus-per-worker so that one is left on each node, or label nodes for data",
            )
    return resources
