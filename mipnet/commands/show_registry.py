"""``mipnet registry show``: one version, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mipnet.commands.common import STORAGE_HELP
from mipnet.config import preset
from mipnet.config.flags import option, parse, say
from mipnet.storage import storage_named
from mipnet.tracking.versions import Lineage, open_registry


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet registry show``."""

    version: str = option("candidate", "number, alias, models:/…, or the name or id of its run", True)
    name: str = option("mipnet", "name of the registered model")
    storage: str = option("", STORAGE_HELP)


def main(command: str, argv: Sequence[str]) -> int:
    """Print a version's run, configuration, data, commit, search, results and decisions."""
    options, _ = parse(command, "Where a version comes from.", Options, [], preset("tiny"), argv)
    storage = storage_named(options.storage)
    with open_registry(storage, options.name) as registry:
        rows = Lineage(registry, registry.find(options.version)).rows()
    width = max(len(what) for what, _ in rows)
    for what, which in rows:
        say(f"{what.ljust(width)}  {which}")
    return 0
