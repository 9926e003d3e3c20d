"""Batches from the host's memory to the training device, one ahead of its computation. Torch only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.profiler import record_function

Batch = dict[str, Tensor]


def needs_pinned_memory(device: torch.device) -> bool:
    """Whether batches have to lie in pinned memory: only from there the host starts a copy and goes on."""
    return device.type == "cuda"


def copy_ahead(batches: Iterable[Batch], names: Sequence[str], device: torch.device) -> Iterator[Batch]:
    """Copy batches to a device while it still computes with the ones before.

    The host asks for a batch once it has launched the step before, long before a GPU has done that step.
    Copied in a stream of its own, the batch is there when the step ends; in the steps' stream its copy would
    only begin then. On a CPU a batch is handed on as it is.

    Args:
        batches: on the host; pinned (``needs_pinned_memory``), or each copy waits for the device.
        names: of the tensors to copy; the others are left out.
        device: the training's.
    """
    if device.type != "cuda":
        for batch in batches:
            yield {name: batch[name].to(device) for name in names}
        return
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for batch in batches:
        with record_function("copy to the device"), torch.cuda.stream(copies):
            copied = {name: batch[name].to(device, non_blocking=True) for name in names}
        steps = torch.cuda.current_stream(device)
        steps.wait_stream(copies)
        for tensor in copied.values():
            tensor.record_stream(steps)  # its memory is not reused for a copy while the step reads it
        yield copied
