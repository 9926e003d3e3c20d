"""What the benchmarks have in common: flags, how they are read, and the file of ``--json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipnet.config import Config, from_dict, preset
from mipnet.config.checks import require
from mipnet.config.flags import flag_value, option, parse
from mipnet.experiment.outputs import check_json_writable

if TYPE_CHECKING:
    import torch

DEFAULT = "coco-hrnet-w32-256x192"
JSON_HELP = "file for all figures of all rounds"


@dataclass(frozen=True)
class NetworkOptions:
    """Flags of ``mipnet bench step`` and ``inference``; their own come on top."""

    preset: str = option(DEFAULT, "whose network and crops")
    batch: int = option(0, "samples of a batch; 0: 4 on a CPU, 64 on a GPU")
    rounds: int = option(5, "rounds that count")
    threads: int = option(1, "CPU threads")
    device: str = option("auto", "auto, cpu or cuda")
    json: str = option("", JSON_HELP)


def read_network(
    command: str, about: str, options: type[NetworkOptions], argv: Sequence[str]
) -> tuple[Any, dict[str, Any], Config]:
    """``parse_benchmark`` for ``mipnet bench step`` and ``inference``."""
    base = preset(flag_value(argv, "--preset", DEFAULT))
    least = {"rounds": 1, "threads": 1, "batch": 0, "steps": 0}
    return parse_benchmark(command, argv, about, options, sections=["model", "input"], base=base, least=least)


def parse_benchmark(
    command: str,
    argv: Sequence[str],
    about: str,
    options: type[Any],
    *,
    sections: Sequence[str],
    base: Config,
    least: Mapping[str, int],
) -> tuple[Any, dict[str, Any], Config]:
    """The flags, the settings among them, and ``base`` with those settings.

    Args:
        command, argv, about, options, sections, base: as for ``parse``; the options have ``json``.
        least: smallest values of the command's own numbers, by name.

    Raises:
        ConfigError: an unknown flag, or a value that cannot work.
        UserError: the file of ``--json`` cannot be written.
    """
    found, settings = parse(command, about, options, argv, sections=sections, defaults=base)
    for name, smallest in least.items():
        require(f"--{name}", getattr(found, name), at_least=smallest)
    if found.json:
        check_json_writable(found.json)
    return found, settings, from_dict(settings, base)


def begin(options: NetworkOptions, config: Config) -> tuple[torch.device, int, dict[str, Any]]:
    """The device to measure on, once PyTorch keeps to the threads asked for; the samples of a batch; and the
    conditions to keep with the measurement.

    Raises:
        ConfigError: there is no such device.
    """
    import torch

    from mipnet.bench.device import choose_device
    from mipnet.bench.rounds import machine

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
