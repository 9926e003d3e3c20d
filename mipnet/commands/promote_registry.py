"""``mipnet registry promote``: a candidate becomes champion, unless it is worse than the present one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from mipnet.commands.common import storage_at
from mipnet.commands.comparing import SECTIONS, ComparingOptions, compare_versions, tolerance_of
from mipnet.config import preset
from mipnet.config.flags import option, parse, say
from mipnet.errors import UserError
from mipnet.tracking.champions import Decision, check_unmoved, move_champion, record_decision
from mipnet.tracking.versions import CHAMPION, open_registry


@dataclass(frozen=True)
class Options(ComparingOptions):
    """Flags of ``mipnet registry promote``."""

    version: str = option("candidate", "number, alias, models:/…, or the name or id of its run", True)
    force: bool = option(False, "promote it even if it is worse; that is recorded")


def main(command: str, argv: Sequence[str]) -> int:
    """Compare with the champion, record what is decided, and move the alias if it is accepted or forced."""
    about = "Make a version champion if neither the occlusion AP nor the easy AP falls."
    options, settings = parse(command, about, Options, SECTIONS, preset("tiny"), argv)
    tolerance = tolerance_of(options.tolerance)
    storage = storage_at(options.storage)
    with open_registry(storage, options.name) as registry:
        candidate, champion = registry.find(options.version), registry.champion()
        before = champion.number if champion else 0
        if candidate.number == before:
            say(f"version {candidate.number} is the champion already")
            return 0
        compared = compare_versions(
            registry, candidate, champion, options.dataset, settings, tolerance, options.verbose
        )
        say(compared.text)
        judgement = compared.judgement
        decision: Decision = "accepted" if judgement.accepted else "forced" if options.force else "refused"
        check_unmoved(registry, before)  # or the comparison is with somebody of the past
        record_decision(
            registry,
            candidate,
            decision,
            champion,
            judgement.reason,
            judgement.lines,
            compared.text,
            compared.values,
        )
        if decision == "refused":
            raise UserError(
                f"version {candidate.number} is not promoted: {judgement.reason}",
                ("--data.evaluate says on which splits" if judgement.missing else "--tolerance allows more")
                + ", --force promotes it all the same",
                exit_code=1,
            )
        move_champion(registry, candidate, before, "promote", decision)
    forced = f", forced although {judgement.reason}" if decision == "forced" else ""
    say(f"\nchampion  {options.name} version {candidate.number}{forced}")
    say(f"before    {f'version {before}; mipnet registry rollback goes back to it' if before else 'none'}")
    store = shlex.quote(registry.where)
    serve = f"mlflow models serve --env-manager local -m models:/{options.name}@{CHAMPION} -p 8000"
    say(f"serve     MLFLOW_TRACKING_URI={store} {serve}")
    return 0
