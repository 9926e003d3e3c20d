"""Device, cores and peak rate of a benchmark."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.benchmark import Timer

from mipnet.errors import ConfigError, suggest

DENSE_BF16_TFLOPS = {"B200": 2250, "H200": 989, "H100": 989, "A100": 312, "L40S": 362, "A10G": 70, "L4": 121}
"""Dense bf16 Tflop/s of the data sheets (SXM where there are two)."""


def choose_device(wanted: str) -> torch.device:
    """The device for ``--device``: cpu, cuda, or auto, which is a GPU if there is one.

    Raises:
        ConfigError: anything else, or no GPU.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device: unknown device {wanted!r}", suggest(wanted, ("auto", "cpu", "cuda")))
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device: there is no GPU that PyTorch can use", "choose --device cpu")
    available = wanted != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if available else torch.device("cpu")


@contextmanager
def pin_to_cores(count: int) -> Iterator[None]:
    """Bind this process, and processes that it starts in the block, to ``count`` of its cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def synchronize(device: torch.device) -> None:
    """Wait for all work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bf16_peak(device: torch.device) -> tuple[float, str]:
    """Peak bf16 flop/s, and its source: the data sheet, else a measured matrix product."""
    name = torch.cuda.get_device_name(device)
    for card, tera in DENSE_BF16_TFLOPS.items():
        if card in name.replace("-", " ").split():
            return tera * 1e12, f"{tera} Tflop/s by the data sheet of the {card}"
    side = 8192
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    rate = 2 * side**3 / Timer("a @ a", globals={"a": a}).blocked_autorange().median
    return rate, f"{rate / 1e12:.0f} Tflop/s, measured on a product of {side} x {side} matrices"
