"""``mipnet data generate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mipnet.config import from_dict, preset
from mipnet.config.flags import chosen, option, parse
from mipnet.console import say
from mipnet.experiment.common import STORAGE_HELP, data_folder, storage_at


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet data generate``."""

    preset: str = option("tiny", "whose benchmark to render")
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, "show Ray's own messages")


def main(command: str, argv: Sequence[str]) -> int:
    """Render the benchmark of a preset, if it is not there already, and say where it is."""
    base = preset(chosen(argv, "--preset", "tiny"))
    options, settings = parse(
        command, "Render the generated crowd benchmark.", Options, ["scenes", "resources"], base, argv
    )
    config = from_dict(settings, base)
    storage = storage_at(options.storage)

    from mipnet.ray_runtime.session import connect, probe_storage

    with connect(replace(config.resources, workers=1, gpu=False), options.verbose):  # it trains nothing
        probe_storage(storage)
        folder = data_folder(config, storage, options.verbose)
    say(f"benchmark: {folder.uri}")
    return 0
