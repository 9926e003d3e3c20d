"""``mipnet registry rollback``: the champion before the present one is champion again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mipnet.commands.common import STORAGE_HELP
from mipnet.config import preset
from mipnet.config.flags import option, parse, say
from mipnet.storage import storage_named
from mipnet.tracking.champions import roll_back
from mipnet.tracking.versions import open_registry


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet registry rollback``."""

    name: str = option("mipnet", "name of the registered model")
    storage: str = option("", STORAGE_HELP)


def main(command: str, argv: Sequence[str]) -> int:
    """Go back one champion; given again, one more."""
    about = "Make the earlier champion champion again; given again, the one before it."
    options, _ = parse(command, about, Options, [], preset("tiny"), argv)
    storage = storage_named(options.storage)
    with open_registry(storage, options.name) as registry:
        now, before, skipped = roll_back(registry)
    for number in skipped:
        say(f"version {number} was deleted and is passed over")
    say(f"champion  {options.name} version {now.number}")
    say(f"before    {f'version {before.number}' if before else 'none'}")
    return 0
