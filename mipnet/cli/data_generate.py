"""``mipnet data generate``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mipnet.cli.shared_options import STORAGE_HELP, VERBOSE_HELP, Call
from mipnet.config.flags import option
from mipnet.console import say
from mipnet.experiment.arguments import writable_storage
from mipnet.experiment.datasets import ensure_dataset

ABOUT = "Render the generated crowd benchmark."
SECTIONS = ("scenes", "resources")


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet data generate``."""

    preset: str = option("tiny", "whose benchmark to render")
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, VERBOSE_HELP)


def run(options: Options, call: Call) -> int:
    """Render the benchmark of a preset, if it is not there already, and say where it is."""
    config, storage = call.config, writable_storage(options.storage)

    from mipnet.experiment.preflight import connected

    one = replace(config.resources, workers=1, gpu=False)  # it trains nothing
    with connected(one, storage, options.verbose):
        folder = ensure_dataset(config, storage, options.verbose)
    say(f"benchmark: {folder.uri}")
    return 0
