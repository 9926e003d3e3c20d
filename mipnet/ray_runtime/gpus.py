"""Whether PyTorch can compute on the GPUs that Ray counts: Ray asks the driver, and never PyTorch."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mipnet.console import say
from mipnet.errors import UserError, first_line
from mipnet.ray_runtime.probes import living_nodes

logger = logging.getLogger(__name__)

IMPORT_TIMEOUT_SECONDS = 300
"""Of the probe on a living node: it imports PyTorch, 6 GB with CUDA, perhaps from a cold disk."""
NODE_START_TIMEOUT_SECONDS = 1800
"""Of the probe on a node that the autoscaler has to start, as Ray Train's in the files of ``cluster/``."""

LOOK = "see whether nvidia-smi answers there"


class GpuProblem(NamedTuple):
    """Why GPUs cannot be used, and how to mend that."""

    reason: str
    mend: str


def gpu_problem(nodes: Sequence[Mapping[str, Any]], can_add_nodes: bool) -> GpuProblem | None:
    """Why PyTorch cannot compute on the GPUs of the cluster that this process is connected to.

    All nodes with GPUs are asked at once, without those that are lost meanwhile. If there are none yet, the
    autoscaler has to start one.

    Args:
        nodes: the living ones, as from ``ray.nodes()``.
        can_add_nodes: there is an autoscaler.

    Returns:
        the first problem, with the node's address where there are several nodes; None if there is none.
    """
    import ray

    task = ray.remote(num_cpus=0, max_retries=1, max_calls=1)(probe_cuda)  # its process ends with it
    asked: dict[Any, Mapping[str, Any] | None] = {
        # It reserves no GPU: those that another job uses at the moment are asked about, too.
        task.options(label_selector={"ray.io/node-id": node["NodeID"]}).remote(gpus): node
        for node in nodes
        if (gpus := int(node["Resources"].get("GPU", 0)))
    }
    seconds = IMPORT_TIMEOUT_SECONDS
    late = GpuProblem(
        f"PyTorch did not say within {seconds} s whether it can use the GPUs",
        "see whether nvidia-smi answers",
    )
    if not asked and can_add_nodes:
        say("waiting for a node with a GPU, to ask whether PyTorch can compute on it")
        asked = {task.options(num_gpus=1).remote(1): None}
        seconds = NODE_START_TIMEOUT_SECONDS
        late = GpuProblem(f"no node with a GPU started within {seconds} s", "see what 'ray status' says")
    done, waiting = ray.wait(list(asked), num_returns=len(asked), timeout=seconds) if asked else ([], [])
    for ref in waiting:
        ray.cancel(ref, force=True)
    living = living_nodes()
    for ref, node in asked.items():
        if node is not None and node["NodeID"] not in living:
            continue  # lost meanwhile: nothing will be computed there
        if problem := _answer(ref) if ref in done else late:
            where = f"node {node['NodeManagerAddress']}: " if node and len(nodes) > 1 else ""
            return GpuProblem(where + problem.reason, problem.mend)
    return None


def _answer(ref: Any) -> GpuProblem | None:
    """The problem that a probe found, or that it had itself."""
    import ray

    try:
        problem: GpuProblem | None = ray.get(ref)
        return problem
    except ray.exceptions.RayError as error:  # as where the driver ends the process
        logger.warning("the probe of a node's GPUs failed", exc_info=True)
        reason = f"the probe of its GPUs failed ({first_line(getattr(error, 'cause', None) or error)})"
        return GpuProblem(reason, LOOK)


def gpus_refused(problem: GpuProblem) -> UserError:
    """The error for ``--gpu`` where GPUs cannot be used."""
    return UserError(f"--gpu: {problem.reason}", f"{problem.mend}, or leave out --gpu")


def probe_cuda(gpus: int) -> GpuProblem | None:
    """``cuda_problem``, as a task of Ray."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # Ray hides GPUs from a task that reserves none
        del os.environ["CUDA_VISIBLE_DEVICES"]
    return cuda_problem(gpus)


def cuda_problem(gpus: int) -> GpuProblem | None:
    """Why PyTorch cannot compute on so many GPUs of this machine; None if it can."""
    import torch

    version = f"PyTorch {torch.__version__}"
    built_for = torch.version.cuda or torch.version.hip
    if not built_for:
        return GpuProblem(f"{version} is built without CUDA", "install a build of PyTorch for CUDA")
    if not torch.cuda.is_available():
        reason = f"{version} (CUDA {built_for}) finds no GPU, {_driver()}"
        return GpuProblem(reason, "update the driver, or install a build of PyTorch for an older CUDA")
    count = torch.cuda.device_count()
    usable = [device for device in range(count) if _has_kernels(torch.cuda.get_device_capability(device))]
    if len(usable) >= gpus:
        return None
    if len(usable) == count:
        return GpuProblem(
            f"{version} sees {count} of {gpus} GPUs", "start Ray there with a smaller --num-gpus"
        )
    device = next(device for device in range(count) if device not in usable)
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    return GpuProblem(
        f"{version} has no kernels for {name} (compute capability {capability[0]}.{capability[1]})",
        "install a version of PyTorch that has",
    )


def _has_kernels(capability: tuple[int, int]) -> bool:
    """Whether PyTorch has machine code for a GPU, or code that the driver compiles for later ones (PTX)."""
    import torch

    if torch.version.hip:
        return True  # its architectures have names, not numbers
    for architecture in torch.cuda.get_arch_list():  # sm_90, sm_100, compute_120
        kind, _, number = architecture.partition("_")
        digits = "".join(filter(str.isdecimal, number))  # of sm_90a, too
        major, minor = int(digits[:-1]), int(digits[-1])
        same_family = major == capability[0] and minor <= capability[1]
        if same_family if kind == "sm" else (major, minor) <= capability:
            return True
    return False


def _driver() -> str:
    """The driver of this machine, in words."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return "there is no driver of NVIDIA"
    version = pynvml.nvmlSystemGetDriverVersion()
    newest = pynvml.nvmlSystemGetCudaDriverVersion()  # 12020 is 12.2
    return f"driver {version} is for CUDA {newest // 1000}.{newest % 1000 // 10} and older"
