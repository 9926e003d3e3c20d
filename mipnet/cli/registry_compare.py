"""``mipnet registry compare``: two versions on the same data."""

from __future__ import annotations

from dataclasses import dataclass

from mipnet.cli.registry_options import COMPARING_SECTIONS, ComparingOptions, named_registry, tolerance_of
from mipnet.cli.shared_options import VERSION_HELP, Call
from mipnet.config.flags import option
from mipnet.console import say
from mipnet.errors import UserError
from mipnet.experiment.comparison import compare_versions
from mipnet.registry.store import version_number

ABOUT = "Two versions on the same data; by default the champion and the candidate."
SECTIONS = COMPARING_SECTIONS


@dataclass(frozen=True)
class Options(ComparingOptions):
    """Flags of ``mipnet registry compare``."""

    first: str = option("champion", VERSION_HELP, True)
    second: str = option("candidate", "the other; its configuration says on which data", True)


def run(options: Options, call: Call) -> int:
    """Evaluate both on the same data and show the differences; decides nothing."""
    with named_registry(options) as registry:
        first, second = versions = registry.find(options.first), registry.find(options.second)
        if version_number(first) == version_number(second):
            raise UserError(f"both are version {first.version}", "name two versions")
        data, tolerance = options.dataset, tolerance_of(options.tolerance)
        judgement, text = compare_versions(
            registry, versions, call.settings, dataset=data, tolerance=tolerance, verbose=options.verbose
        )
    say(text)
    verdict = judgement.reason
    say(f"version {second.version} " + (f"would be refused: {verdict}" if verdict else "may replace it"))
    return 0
