"""Training steps of small networks: batches, snapshots of all that an update changes, and two ranks."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from mipnet.config import Config
from mipnet.models.precision import Precision
from mipnet.training.checkpoint import model_from_config
from mipnet.training.cpu_step import CpuTrainStep
from mipnet.training.step import TrainStep

CPU = torch.device("cpu")
Work = Callable[[int, str, Config, torch.device], dict[str, Any]]
"""Of a rank: takes its number, a folder, the configuration and its device."""
CORRUPT = torch.tensor([True, False, False, True])


def make(
    config: Config, total_steps: int = 40, precision: Precision = "fp32", device: torch.device = CPU
) -> TrainStep:
    torch.manual_seed(0)
    return TrainStep(model_from_config(config), config, total_steps, device, precision)


def make_parallel(config: Config, parallel: int = 2, precision: Precision = "fp32") -> CpuTrainStep:
    torch.manual_seed(0)
    return CpuTrainStep(model_from_config(config), config, 40, precision, parallel)


def batch(
    count: int = 4, instances: int = 2, seed: int = 1, device: torch.device = CPU
) -> tuple[Tensor, Tensor]:
    """Images of noise and random keypoints."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 120, (count, 48, 32, 3), generator=g, dtype=torch.uint8)
    joints = torch.rand(count, instances, 17, 3, generator=g) * torch.tensor([28.0, 44.0, 0]) + 2
    return images.to(device), joints.to(device)


def snapshot(step: TrainStep) -> dict[str, Tensor]:
    """Copies of all that an update may change."""
    state = {f"model.{k}": v for k, v in step.model.state_dict().items()}
    state |= {f"average.{i}": v for i, v in enumerate(step.ema_params)}
    for i, moments in enumerate(step.optimizer.state.values()):
        state |= {f"optimizer.{i}.{k}": v for k, v in moments.items()}
    return {k: v.clone() for k, v in state.items() if not k.endswith("num_batches_tracked")}


def different(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def poison_gradient(step: TrainStep) -> Any:
    """One weight's gradient becomes nan; activations and batch-norm statistics stay ordinary."""
    weight = next(p for p in step.parameters if p.dim() == 4)
    return weight.register_hook(lambda g: torch.full_like(g, math.nan))


def poison_activation(step: TrainStep) -> Any:
    """An early activation becomes inf: batch-norm statistics, loss and all gradients are spoilt."""
    conv = next(m for m in step.model.modules() if isinstance(m, nn.Conv2d))
    return conv.register_forward_hook(lambda _m, _i, out: out * math.inf)


def one_rank(rank: int, folder: str, config: Config, work: Work, kind: str, ranks: int) -> None:
    """Save what ``work`` returns as rank0.pt, rank1.pt, …"""
    torch.set_num_threads(1)
    if kind == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        {"cpu": "gloo", "cuda": "nccl"}[kind],
        init_method=f"file://{folder}/init",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=300),
    )
    device = torch.device(kind, rank) if kind == "cuda" else CPU
    torch.save(work(rank, folder, config, device), f"{folder}/rank{rank}.pt")
    # DDP's reducer must go first: as the last owner of the process group it would wait for the group's
    # threads while it holds the interpreter's lock, and they may need that.
    gc.collect()
    dist.destroy_process_group()


def two_steps(rank: int, folder: str, config: Config, device: torch.device) -> dict[str, Any]:
    """What a rank sees of two steps, each with its half of the batch."""
    torch.manual_seed(10 + rank)  # DDP makes the start the same
    config = replace(config, train=replace(config.train, batch_size=4))
    step = TrainStep(model_from_config(config), config, 40, device, "fp32")
    step.model.load_state_dict(torch.load(f"{folder}/start.pt", weights_only=True))
    images, joints = batch(device=device)
    mine = slice(2 * rank, 2 * rank + 2)
    step(images[mine], joints[mine], CORRUPT[mine].to(device))
    seen: dict[str, Any] = {
        "gradients": [p.grad.clone().cpu() for p in step.parameters if p.grad is not None],
        "after_one_step": step.bn_buffers.clone().cpu(),
        "metrics": step.read_metrics(),
    }
    before = snapshot(step)
    if rank == 1:  # what spoils one rank masks the update of both; a compiled network has no forward hooks
        (poison_gradient if config.train.compile else poison_activation)(step)
    step(images[mine], joints[mine])
    seen["changed"] = different(before, snapshot(step))
    seen["skipped"] = step.read_metrics()["skipped"]
    seen["parameters"] = [p.detach().clone().cpu() for p in step.parameters]
    step.bn_buffers.fill_(float(rank))
    step.all_reduce_bn_buffers()
    seen["statistics"] = step.bn_buffers.clone().cpu()
    return seen


def run_ranks(
    folder: Path,
    config: Config,
    work: Work = two_steps,
    *,
    kind: str = "cpu",
    ranks: int = 2,
    seconds: float = 300,
) -> list[dict[str, Any]]:
    """What each rank returns from ``work``, on CPUs with gloo or on as many GPUs with NCCL."""
    spawned = spawn(one_rank, (str(folder), config, work, kind, ranks), nprocs=ranks, join=False)
    assert spawned is not None
    deadline = time.monotonic() + seconds
    while not spawned.join(timeout=5):
        if time.monotonic() > deadline:
            for process in spawned.processes:
                process.kill()
            pytest.fail(f"the ranks did not end within {seconds} s")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(ranks)]
