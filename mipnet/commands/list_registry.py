"""``mipnet registry list``: the versions of the registered model, and who is and was champion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mipnet.commands.common import STORAGE_HELP
from mipnet.config import preset
from mipnet.config.flags import option, parse, say
from mipnet.formats import aligned
from mipnet.storage import storage_named
from mipnet.tracking.champions import moves
from mipnet.tracking.versions import RESULT, Registry, Version, moment, open_registry

COLUMNS = ("version", "alias", "registered", "run", "preset", "occlusion AP", "decision")


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet registry list``."""

    name: str = option("mipnet", "name of the registered model")
    storage: str = option("", STORAGE_HELP)


def main(command: str, argv: Sequence[str]) -> int:
    """One line a version, the newest first, then the champions in their order."""
    options, _ = parse(command, "The versions of a model.", Options, [], preset("tiny"), argv)
    storage = storage_named(options.storage)
    with open_registry(storage, options.name) as registry:
        rows: list[Sequence[str]] = [COLUMNS, *(row(registry, version) for version in registry.versions())]
        done = moves(registry)
    say("\n".join(aligned(rows, len(COLUMNS))))
    if done:
        say("\nchampions")
    for move in done:
        how = f" ({move.decision})" if move.decision else ""
        say(f"  {move.at}  {move.action} {move.previous or 'none'} -> {move.version}{how} by {move.by}")
    return 0


def row(registry: Registry, version: Version) -> tuple[str, ...]:
    """The cells of one version; "-" where nobody knows."""
    run = registry.run_of(version)
    ap = run.data.metrics.get(RESULT) if run else None
    tags = version.tags
    return (
        str(version.number),
        ", ".join(version.aliases) or "-",
        moment(version.created),
        tags.get("run") or (run.info.run_name if run else None) or "-",
        tags.get("preset", "-"),
        "-" if ap is None else f"{100 * ap:.1f}",
        tags.get("promotion", "-"),
    )
