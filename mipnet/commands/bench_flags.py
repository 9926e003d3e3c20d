"""What ``mipnet bench step``, ``inference`` and ``merge`` have in common: flags, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mipnet.commands.common import check_json
from mipnet.config import Config, from_dict, preset
from mipnet.config.checks import require
from mipnet.config.flags import chosen, option, parse

if TYPE_CHECKING:
    import torch

DEFAULT = "coco-hrnet-w32-256x192"


@dataclass(frozen=True)
class BenchOptions:
    """Flags of every one of them; their own come on top."""

    preset: str = option(DEFAULT, "whose network and crops")
    rounds: int = option(5, "rounds that count")
    threads: int = option(1, "CPU threads")
    device: str = option("auto", "auto, cpu or cuda")
    json: str = option("", "file for the whole measurement")


def read(
    command: str,
    about: str,
    options: type[BenchOptions],
    sections: Sequence[str],
    argv: Sequence[str],
    least: Mapping[str, int],
) -> tuple[Any, dict[str, Any], Config]:
    """The flags, the settings among them, and the preset with those settings.

    Args:
        command, about, options, sections, argv: as for ``parse``.
        least: of the command's own numbers, by name.

    Raises:
        ConfigError: an unknown flag or preset, or a value that cannot work.
        UserError: the file of ``--json`` cannot be written.
    """
    base = preset(chosen(argv, "--preset", DEFAULT))
    found, settings = parse(command, about, options, sections, base, argv)
    for name, smallest in {"rounds": 1, "threads": 1, **least}.items():
        require(f"--{name}", getattr(found, name), at_least=smallest)
    if found.json:
        check_json(found.json)
    return found, settings, from_dict(settings, base)


def begin(options: BenchOptions) -> torch.device:
    """The device to measure on, once PyTorch keeps to the threads asked for.

    Raises:
        ConfigError: there is no such device.
    """
    import torch

    from mipnet.bench.device import choose_device

    device = choose_device(options.device)
    torch.set_num_threads(options.threads)
    return device
