"""The floating-point format of the network: resolved when a run begins, and set while it computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.distributed as dist

from mipnet.config.schema import Precision as Precision

CPU_BF16_CAPABILITIES = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
"""Capabilities of CPUs (x86, ARM) that multiply in bfloat16 natively; others emulate it, slowly."""


def device_precision(wanted: str, device: torch.device) -> Precision:
    """What to compute in on one device.

    Args:
        wanted: fp32, tf32, bf16 or auto, which is bf16 where the device has it and otherwise fp32.
        device: of the network.
    """
    if wanted != "auto":
        return cast(Precision, wanted)
    return "bf16" if native_bf16(device) else "fp32"


def resolve_precision(wanted: str, device: torch.device) -> Precision:
    """``device_precision``, the same on all ranks: auto is bf16 if every device has it."""
    found = device_precision(wanted, device)
    if wanted != "auto" or not dist.is_initialized():
        return found
    native = torch.tensor(float(found == "bf16"), device=device)
    dist.all_reduce(native, dist.ReduceOp.MIN)
    return "bf16" if native.item() else "fp32"


@contextmanager
def kernel_settings(precision: Precision, device: torch.device, benchmark: bool = False) -> Iterator[None]:
    """What a GPU's kernels may do in a precision, for a ``with`` block around forward and backward pass.

    PyTorch's settings are those of the process and let convolutions, but not matrix products, round to TF32.
    Here both do, or with fp32 neither. On a CPU nothing is set.

    Args:
        precision: of the network; under bf16 TF32 is for what autocast leaves in fp32.
        device: of the network.
        benchmark: let cuDNN time its kernels once for each shape and keep the fastest.
    """
    if device.type != "cuda":
        yield
        return
    # Not the newer ``fp32_precision``: PyTorch's compiler still reads these, and refuses a mixture.
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = precision != "fp32"
        cudnn.benchmark = benchmark
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def native_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively instead of emulating it."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in CPU_BF16_CAPABILITIES)
