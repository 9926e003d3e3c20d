"""What the benchmarks have in common: flags, how they are read, and the file of ``--json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipnet.cli.shared_options import JSON_HELP
from mipnet.config import Config
from mipnet.config.flags import option
from mipnet.config.schema import Count, NonNegativeInt
from mipnet.experiment.arguments import check_json_writable

if TYPE_CHECKING:
    import torch

NETWORK_SECTIONS = ("model", "input")


@dataclass(frozen=True)
class NetworkOptions:
    """Flags of ``mipnet bench step`` and ``inference``; their own come on top."""

    preset: str = option("coco-hrnet-w32-256x192", "whose network and crops")
    batch: NonNegativeInt = option(0, "samples of a batch; 0: 4 on a CPU, 64 on a GPU")
    rounds: Count = option(5, "rounds that count")
    threads: Count = option(1, "CPU threads")
    device: str = option("auto", "auto, cpu or cuda")
    json: str = option("", JSON_HELP)


def begin(options: NetworkOptions, config: Config) -> tuple[torch.device, int, dict[str, Any]]:
    """The device to measure on, once PyTorch keeps to the threads asked for; the samples of a batch; and the
    conditions to keep with the measurement.

    Raises:
        ConfigError: there is no such device.
        UserError: the file of ``--json`` cannot be written.
    """
    import torch

    from mipnet.bench.device import choose_device
    from mipnet.bench.rounds import machine

    check_json_writable(options.json)
    device = choose_device(options.device)
    torch.set_num_threads(options.threads)
    batch = options.batch or (64 if device.type == "cuda" else 4)
    facts = {
        "preset": options.preset,
        "instances": config.model.instances,
        "batch": batch,
        "threads": options.threads,
        "machine": machine(device.type),
    }
    return device, batch, facts


def write_json(path: str, found: Mapping[str, Any]) -> None:
    """Keep a measurement, if a file is named."""
    if path:
        Path(path).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
