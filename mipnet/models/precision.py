"""The floating-point format of the network: resolved when a run begins, on its device."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist

Precision = Literal["fp32", "bf16"]

CPU_BF16_CAPABILITIES = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
"""Capabilities of CPUs (x86, ARM) that multiply in bfloat16 natively; others emulate it, slowly."""


def resolve_precision(wanted: str, device: torch.device) -> Precision:
    """fp32 or bf16 for ``train.precision``; the same on all ranks: auto is bf16 if every device has it.

    Args:
        wanted: fp32, bf16 or auto.
        device: of this rank.
    """
    if wanted != "auto":
        return "bf16" if wanted == "bf16" else "fp32"
    native = torch.tensor(float(native_bf16(device)), device=device)
    if dist.is_initialized():
        dist.all_reduce(native, dist.ReduceOp.MIN)
    return "bf16" if native.item() else "fp32"


def native_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively instead of emulating it."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in CPU_BF16_CAPABILITIES)
