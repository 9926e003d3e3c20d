"""``mipnet registry list``: the versions of the registered model, and who is and was champion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mipnet.cli.registry_options import RegistryOptions as Options
from mipnet.cli.registry_options import named_registry
from mipnet.cli.shared_options import Call
from mipnet.console import say
from mipnet.formats import aligned
from mipnet.registry.champion import champions
from mipnet.registry.lineage import OCCLUSION_AP_METRIC, format_timestamp
from mipnet.registry.store import CHAMPION, Registry

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

ABOUT = "The versions of a model."
VERSION_COLUMNS = ("version", "alias", "registered", "run", "preset", "occlusion AP", "decision")


def run(options: Options, call: Call) -> int:
    """One line a version, the newest first, then the champions in their order."""
    with named_registry(options) as registry:
        rows = [VERSION_COLUMNS, *(row(registry, version) for version in registry.versions())]
        line = champions(registry, registry.aliases().get(CHAMPION, 0))
    say("\n".join(aligned(rows, len(VERSION_COLUMNS))))
    if line:
        say("\nchampions")
    for champion in line:
        say(f"  {champion.at}  {champion.version} ({champion.how}) by {champion.by}")
    return 0


def row(registry: Registry, version: ModelVersion) -> tuple[str, ...]:
    """The cells of one version; "-" where nobody knows."""
    run, tags = registry.run_of(version), version.tags
    ap = run.data.metrics.get(OCCLUSION_AP_METRIC) if run else None
    return (
        str(version.version),
        ", ".join(version.aliases) or "-",
        format_timestamp(version.creation_timestamp),
        tags.get("run") or (run.info.run_name if run else None) or "-",
        tags.get("preset", "-"),
        "-" if ap is None else f"{100 * ap:.1f}",
        tags.get("promotion", "-"),
    )
