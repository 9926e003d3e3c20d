"""``mipnet registry rollback``: the champion before the present one is champion again."""

from __future__ import annotations

from collections.abc import Sequence

from mipnet.cli.registry_options import RegistryOptions, named_registry
from mipnet.console import say
from mipnet.registry.champion import roll_back


def main(command: str, argv: Sequence[str]) -> int:
    """Go back one champion; given again, one more."""
    about = "Make the earlier champion champion again; given again, the one before it."
    with named_registry(command, about, RegistryOptions, argv) as (registry, _, _):
        now, before, deleted = roll_back(registry)
    for number in deleted:
        say(f"version {number} was deleted and is passed over")
    say(f"champion  {registry.model} version {now}")
    say(f"before    {f'version {before}' if before else 'none'}")
    return 0
