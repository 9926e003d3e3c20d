"""``mipnet registry compare``: two versions on the same data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mipnet.cli.registry_options import EVALUATION_SECTIONS, ComparingOptions, named_registry, tolerance_of
from mipnet.config.flags import option
from mipnet.console import say
from mipnet.errors import UserError
from mipnet.experiment.comparison import compare_versions
from mipnet.registry.store import version_number


@dataclass(frozen=True)
class Options(ComparingOptions):
    """Flags of ``mipnet registry compare``."""

    first: str = option("champion", "number, alias, models:/…, or the name or id of its run", True)
    second: str = option("candidate", "the other; its configuration says on which data", True)


def main(command: str, argv: Sequence[str]) -> int:
    """Evaluate both on the same data and show the differences; decides nothing."""
    about = "Two versions on the same data; by default the champion and the candidate."
    with named_registry(command, about, Options, argv, EVALUATION_SECTIONS) as (registry, options, settings):
        first, second = versions = registry.find(options.first), registry.find(options.second)
        if version_number(first) == version_number(second):
            raise UserError(f"both are version {first.version}", "name two versions")
        judgement, text = compare_versions(
            registry,
            versions,
            settings,
            dataset=options.dataset,
            tolerance=tolerance_of(options.tolerance),
            verbose=options.verbose,
        )
    say(text)
    verdict = judgement.reason
    say(f"version {second.version} " + (f"would be refused: {verdict}" if verdict else "may replace it"))
    return 0
