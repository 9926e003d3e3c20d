"""``mipnet registry rollback``: the champion before the present one is champion again."""

from __future__ import annotations

from mipnet.cli.registry_options import RegistryOptions as Options
from mipnet.cli.registry_options import named_registry
from mipnet.cli.shared_options import Call
from mipnet.console import say
from mipnet.registry.champion import roll_back

ABOUT = "Make the earlier champion champion again; given again, the one before it."


def run(options: Options, call: Call) -> int:
    """Go back one champion; given again, one more."""
    with named_registry(options) as registry:
        now, before, deleted = roll_back(registry)
    for number in deleted:
        say(f"version {number} was deleted and is passed over")
    say(f"champion  {registry.model} version {now}")
    say(f"before    {f'version {before}' if before else 'none'}")
    return 0
