"""``mipnet registry compare``: two versions on the same data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mipnet.commands.common import storage_at
from mipnet.commands.comparing import SECTIONS, ComparingOptions, compare_versions, tolerance_of
from mipnet.config import preset
from mipnet.config.flags import option, parse, say
from mipnet.errors import UserError
from mipnet.tracking.versions import open_registry


@dataclass(frozen=True)
class Options(ComparingOptions):
    """Flags of ``mipnet registry compare``."""

    first: str = option("champion", "number, alias, models:/…, or the name or id of its run", True)
    second: str = option("candidate", "the other; its configuration says on which data", True)


def main(command: str, argv: Sequence[str]) -> int:
    """Evaluate both on the same data and show the differences; decides nothing."""
    about = "Two versions on the same data; by default the champion and the candidate."
    options, settings = parse(command, about, Options, SECTIONS, preset("tiny"), argv)
    tolerance = tolerance_of(options.tolerance)
    storage = storage_at(options.storage)
    with open_registry(storage, options.name) as registry:
        first, second = registry.find(options.first), registry.find(options.second)
        if first.number == second.number:
            raise UserError(f"both are version {first.number}", "name two versions")
        compared = compare_versions(
            registry, second, first, options.dataset, settings, tolerance, options.verbose
        )
    say(compared.text)
    verdict = compared.judgement.reason
    say(f"version {second.number} " + (f"would be refused: {verdict}" if verdict else "may replace it"))
    return 0
