"""Whether a Ray cluster, or its autoscaler, can give what a configuration asks for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mipnet.config.schema import ResourcesConfig
from mipnet.console import say
from mipnet.errors import UserError
from mipnet.ray_runtime.gpus import GpuProblem

logger = logging.getLogger(__name__)

NODE_GROUP_LABEL = "ray.io/node-group"
"""Ray's label of nodes that ``ray up``, KubeRay or another autoscaler started."""


@dataclass(frozen=True)
class AutoscalerLimits:
    """What an autoscaler can add to a cluster.

    Attributes:
        can_add_nodes: there is an autoscaler.
        limits: most of each resource ("CPU", "GPU") of the whole cluster; empty if they are not known.
    """

    can_add_nodes: bool = False
    limits: Mapping[str, float] = field(default_factory=dict)


def resolve_use_gpu(
    resources: ResourcesConfig, gpus: int, find_problem: Callable[[], GpuProblem | None]
) -> ResourcesConfig:
    """Resolve ``gpu: auto`` to true or false, and say which, in one line.

    Args:
        resources: as configured.
        gpus: of the cluster, those included that an autoscaler can add.
        find_problem: why PyTorch cannot compute on them, or None; called only if there are enough.
    """
    if resources.gpu != "auto":
        return resources
    usable = False
    if not gpus:
        say("no GPU in Ray's cluster: computing on CPUs")
    elif gpus < resources.min_workers:
        say(f"{gpus} GPUs are too few for {resources.min_workers} workers: computing on CPUs")
    elif problem := find_problem():
        say(f"{problem.reason}: computing on CPUs")
    else:
        usable = True
        workers = resources.workers_in_words
        say(f"computing on GPUs: {gpus} in Ray's cluster, one for each of {workers} worker(s)")
    return replace(resources, gpu=usable)


def check_resources(
    resources: ResourcesConfig, nodes: Sequence[Mapping[str, float]], autoscaler: AutoscalerLimits
) -> None:
    """Raise if the cluster can never give what is asked for: Ray would wait for ever.

    Args:
        resources: with ``gpu`` resolved; of workers MIN:MAX, MIN are demanded.
        nodes: resources of each living node.
        autoscaler: what it can add.

    Raises:
        UserError: no node holds one worker, the nodes do not hold all, or no CPU is left for decoding.
    """
    workers, one = resources.min_workers, worker_resources(resources)
    text = " and ".join(f"{amount:g} {name}{'s' if amount > 1 else ''}" for name, amount in one.items())
    less = "leave out --gpu or lower" if resources.gpu is True else "lower"
    capacity = sum(int(min(node.get(name, 0) // amount for name, amount in one.items())) for node in nodes)
    wanted = {name: workers * amount for name, amount in one.items()}
    wanted["CPU"] += 1  # for decoding
    have = {name: sum(node.get(name, 0) for node in nodes) for name in wanted}
    if capacity >= workers and have["CPU"] >= wanted["CPU"]:
        return
    if autoscaler.can_add_nodes:
        for name, amount in wanted.items():
            if autoscaler.limits and autoscaler.limits.get(name, 0) < amount:
                raise UserError(
                    f"{workers} worker(s) of {text} and the decoding of images need {amount:g} {name}s, but "
                    f"Ray's autoscaler gives {autoscaler.limits.get(name, 0):g} at most",
                    f"ask for fewer --workers, {less} --resources.cpus-per-worker, or raise its limits",
                )
        say(f"Ray has room for {capacity} of {workers} worker(s) now; its autoscaler has to start nodes")
    elif not capacity:
        largest = max(nodes, key=lambda node: [node.get(name, 0) for name in reversed(one)], default={})
        found = " and ".join(f"{largest.get(name, 0):g} {name}s" for name in one)
        raise UserError(
            f"no node of Ray's cluster holds one worker of {text} (the largest has {found})",
            f"{less} --resources.cpus-per-worker",
        )
    elif capacity < workers:
        raise UserError(
            f"resources.workers: {workers} workers of {text} do not fit into Ray's cluster, which has room "
            f"for {capacity}",
            f"use --workers {capacity}, or {less} --resources.cpus-per-worker",
        )
    else:
        raise UserError(
            f"resources.workers: {workers} workers of {text} take all {have['CPU']:g} CPUs of Ray's cluster "
            "and leave none to decode images",
            "ask for fewer --workers or lower --resources.cpus-per-worker",
        )


def worker_resources(resources: ResourcesConfig) -> dict[str, float]:
    """What a training process reserves; ``resources`` as ``session.connect`` yields them."""
    cpus = float(max(resources.cpus_per_worker, 1))
    return {"CPU": cpus, **({"GPU": 1.0} if resources.gpu is True else {})}


def local_gpu_count() -> int:
    """GPUs of this machine, as a local Ray counts them."""
    import torch

    return torch.cuda.device_count()


def autoscaler_limits(labels: Iterable[Mapping[str, str]]) -> AutoscalerLimits:
    """The autoscaler of the cluster that this process is connected to.

    Ray has no public call for the limits, and few autoscalers publish them. Where they are not known, nothing
    is refused: Ray waits for the autoscaler.

    Args:
        labels: of each living node.
    """
    import ray

    try:
        limits = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    except AttributeError:
        logger.info("this Ray does not tell its autoscaler's limits", exc_info=True)
        limits = {}
    return AutoscalerLimits(bool(limits) or any(NODE_GROUP_LABEL in each for each in labels), limits)
