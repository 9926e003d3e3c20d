"""``mipnet data generate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mipnet.cli.shared_options import STORAGE_HELP
from mipnet.config import from_dict, preset
from mipnet.config.flags import flag_value, option, parse
from mipnet.console import say
from mipnet.experiment.datasets import ensure_dataset
from mipnet.experiment.outputs import writable_storage


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet data generate``."""

    preset: str = option("tiny", "whose benchmark to render")
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, "show Ray's own messages")


def main(command: str, argv: Sequence[str]) -> int:
    """Render the benchmark of a preset, if it is not there already, and say where it is."""
    base = preset(flag_value(argv, "--preset", "tiny"))
    options, settings = parse(
        command,
        "Render the generated crowd benchmark.",
        Options,
        argv,
        sections=["scenes", "resources"],
        defaults=base,
    )
    config = from_dict(settings, base)
    storage = writable_storage(options.storage)

    from mipnet.ray_runtime.probes import probe_storage
    from mipnet.ray_runtime.session import connect

    with connect(replace(config.resources, workers=1, gpu=False), options.verbose):  # it trains nothing
        probe_storage(storage)
        folder = ensure_dataset(config, storage, options.verbose)
    say(f"benchmark: {folder.uri}")
    return 0
