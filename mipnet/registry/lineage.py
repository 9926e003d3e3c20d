"""Where a version comes from, in words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mipnet.registry.champion import decision_line
from mipnet.registry.store import Registry, uri_of

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

RESULT = "results/occlusion_AP"
"""The run's metric by which its tables are summed up."""


def lineage(registry: Registry, version: ModelVersion) -> list[tuple[str, str]]:
    """(what, which), in the order in which they are read; what nobody knows is left out."""
    rows = [
        ("version", f"{version.name} {version.version}"),
        ("alias", ", ".join(version.aliases) or "none"),
        ("registered", moment(version.creation_timestamp)),
        ("weights", uri_of(version)),
    ]
    run = registry.run_of(version)
    if run is not None:
        rows += _of_run(registry, version, run)
    elif version.run_id:
        rows.append(("run", f"{version.run_id} (gone)"))
    rows.append(("promotion", decision_line(version)))
    return [(what, which) for what, which in rows if which]


def _of_run(registry: Registry, version: ModelVersion, run: Run) -> list[tuple[str, str]]:
    """The run's configuration, data, commit, search and results."""
    info, tags, metrics, client = run.info, run.data.tags, run.data.metrics, registry.client
    search, parent = tags.get("search", ""), tags.get("mlflow.parentRunId", "")
    if parent:
        search = f"{search or client.get_run(parent).info.run_name} ({parent})"
    config, folder = f"{info.artifact_uri}/config.yaml", f"runs/{version.tags.get('run', '')}"
    if registry.storage.exists(f"{folder}/config.yaml"):
        config = registry.storage.path(f"{folder}/config.yaml")
    packages = [
        f"{name.partition('.')[2]} {tags[name]}" for name in sorted(tags) if name.startswith("version.")
    ]
    aps = [
        f"{name.removeprefix('results/').removesuffix('/merged/AP')} {100 * metrics[name]:.1f}"
        for name in sorted(metrics)
        if name.startswith("results/") and name.endswith("/merged/AP")
    ]
    rows = [
        ("run", f"{info.run_name} ({info.run_id}), {info.status.lower()} {moment(info.end_time)}"),
        ("experiment", client.get_experiment(info.experiment_id).name),
        ("search", search),
        ("command", tags.get("command", "")),
        ("config", config),
        ("preset", tags.get("preset", "")),
    ]
    for given in run.inputs.dataset_inputs:
        uses = ", ".join(tag.value for tag in given.tags if tag.key == "mlflow.data.context")
        rows.append(("data", f"{given.dataset.name} digest {given.dataset.digest} ({uses})"))
    rows += [
        ("git commit", tags.get("mlflow.source.git.commit", "")),
        ("by", ", ".join(filter(None, (tags.get("mlflow.user"), tags.get("cluster"))))),
        ("packages", ", ".join(packages)),
        ("restarts", tags.get("restarts", "")),
    ]
    if RESULT in metrics:
        rows.append(("steps", str(client.get_metric_history(info.run_id, RESULT)[-1].step)))
        rows.append(("occlusion AP", f"{100 * metrics[RESULT]:.1f}"))
    return [*rows, ("AP", ", ".join(aps))]


def moment(milliseconds: int | None) -> str:
    """MLflow's Unix time as UTC, to the minute; "" for none."""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M} UTC" if milliseconds else ""
