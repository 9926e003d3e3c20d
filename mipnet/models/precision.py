"""Which number format the network computes in: settled when a run begins, on the device that it gets."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist

Precision = Literal["fp32", "bf16"]

CPU_BF16 = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
"""Capabilities (x86, ARM) of a CPU that multiplies in bfloat16 itself; others only emulate it, slowly."""


def resolve_precision(wanted: str, device: torch.device) -> Precision:
    """fp32 or bf16 for ``train.precision``; all ranks agree, so auto is bf16 only if each device can.

    Args:
        wanted: fp32, bf16 or auto.
        device: this rank's.
    """
    if wanted != "auto":
        return "bf16" if wanted == "bf16" else "fp32"
    able = torch.tensor(float(native_bf16(device)), device=device)
    if dist.is_initialized():
        dist.all_reduce(able, dist.ReduceOp.MIN)
    return "bf16" if able.item() else "fp32"


def native_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself instead of emulating it."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in CPU_BF16)
