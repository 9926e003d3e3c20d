"""``mipnet registry show``: one version, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from mipnet.cli.registry_options import RegistryOptions, named_registry
from mipnet.cli.shared_options import VERSION_HELP, Call
from mipnet.config.flags import option
from mipnet.console import say
from mipnet.formats import aligned
from mipnet.registry.lineage import lineage

ABOUT = "Where a version comes from."


@dataclass(frozen=True)
class Options(RegistryOptions):
    """Flags of ``mipnet registry show``."""

    version: str = option("candidate", VERSION_HELP, True)


def run(options: Options, call: Call) -> int:
    """Print a version's run, configuration, data, commit, search, results and decisions."""
    with named_registry(options) as registry:
        rows = lineage(registry, registry.find(options.version))
    say("\n".join(aligned(rows, 2)))
    return 0
