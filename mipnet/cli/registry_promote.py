"""``mipnet registry promote``: a candidate becomes champion, unless it is worse than the present one."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from mipnet.cli.registry_options import COMPARING_SECTIONS, ComparingOptions, named_registry, tolerance_of
from mipnet.cli.shared_options import VERSION_HELP, Call
from mipnet.config.flags import option
from mipnet.console import say
from mipnet.errors import UserError
from mipnet.experiment.comparison import compare_versions
from mipnet.registry.champion import check_champion_unchanged, make_champion, record_decision
from mipnet.registry.store import CHAMPION, version_number
from mipnet.tracking.store import SQLITE_PREFIX, artifact_settings

ABOUT = "Make a version champion if neither the occlusion AP nor the easy AP falls."
SECTIONS = COMPARING_SECTIONS


@dataclass(frozen=True)
class Options(ComparingOptions):
    """Flags of ``mipnet registry promote``."""

    version: str = option("candidate", VERSION_HELP, True)
    force: bool = option(False, "promote it even if it is worse; that is recorded")


def run(options: Options, call: Call) -> int:
    """Compare with the champion, record what is decided, and move the alias if it is accepted or forced."""
    with named_registry(options) as registry:
        candidate, champion = registry.find(options.version), registry.champion()
        before = version_number(champion)
        if version_number(candidate) == before:
            say(f"version {before} is the champion already")
            return 0
        versions = [champion, candidate] if champion else [candidate]
        data, tolerance = options.dataset, tolerance_of(options.tolerance)
        judgement, text = compare_versions(
            registry, versions, call.settings, dataset=data, tolerance=tolerance, verbose=options.verbose
        )
        say(text)
        decision = "accepted" if not judgement.reason else "forced" if options.force else "refused"
        check_champion_unchanged(registry, before)  # or the comparison is with somebody of the past
        record_decision(registry, candidate, decision, against=before, judgement=judgement, table=text)
        if decision == "refused":
            hint = "--data.evaluate says on which splits" if judgement.missing else "--tolerance allows more"
            refused = f"version {candidate.version} is not promoted: {judgement.reason}"
            raise UserError(refused, f"{hint}, --force promotes it all the same", exit_code=1)
        make_champion(registry, candidate, decision, before)
    forced = f", forced although {judgement.reason}" if decision == "forced" else ""
    say(f"\nchampion  {options.name} version {candidate.version}{forced}")
    say(f"before    {f'version {before}; mipnet registry rollback goes back to it' if before else 'none'}")
    settings = {"MLFLOW_TRACKING_URI": registry.display_uri}
    if registry.display_uri.startswith(SQLITE_PREFIX):
        settings |= artifact_settings(registry.storage)
    environment = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    serve = f"mlflow models serve --env-manager local -m models:/{options.name}@{CHAMPION} -p 8000"
    say(f"serve     {environment} {serve}")
    return 0
