"""``mipnet registry show``: one version, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mipnet.cli.registry_options import RegistryOptions, named_registry
from mipnet.config.flags import option
from mipnet.console import say
from mipnet.formats import aligned
from mipnet.registry.lineage import lineage


@dataclass(frozen=True)
class Options(RegistryOptions):
    """Flags of ``mipnet registry show``."""

    version: str = option("candidate", "number, alias, models:/…, or the name or id of its run", True)


def main(command: str, argv: Sequence[str]) -> int:
    """Print a version's run, configuration, data, commit, search, results and decisions."""
    with named_registry(command, "Where a version comes from.", Options, argv) as (registry, options, _):
        rows = lineage(registry, registry.find(options.version))
    say("\n".join(aligned(rows, 2)))
    return 0
