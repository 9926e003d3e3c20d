"""The lineage of a version as text rows: run, configuration, data, code and results."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mipnet.registry.champion import decision_line
from mipnet.registry.store import Registry, model_uri
from mipnet.run_folder import MODEL_CARD_FILE, MODEL_FOLDER

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

OCCLUSION_AP_METRIC = "results/occlusion_AP"
"""Name of the run's metric with the occlusion AP."""


def lineage(registry: Registry, version: ModelVersion) -> list[tuple[str, str]]:
    """(label, value) in display order; unknown values are left out."""
    rows = [
        ("version", f"{version.name} {version.version}"),
        ("alias", ", ".join(version.aliases) or "none"),
        ("registered", format_timestamp(version.creation_timestamp)),
        ("weights", model_uri(version)),
    ]
    run = registry.run_of(version)
    if run is not None:
        rows += _of_run(registry, version, run)
    elif version.run_id:
        rows.append(("run", f"{version.run_id} (gone)"))
    rows.append(("promotion", decision_line(version)))
    return [(label, value) for label, value in rows if value]


def _of_run(registry: Registry, version: ModelVersion, run: Run) -> list[tuple[str, str]]:
    """Rows of the run: configuration, data, commit, search and results."""
    info, tags, metrics, client = run.info, run.data.tags, run.data.metrics, registry.client
    search, parent = tags.get("search", ""), tags.get("mlflow.parentRunId", "")
    if parent:
        search = f"{search or client.get_run(parent).info.run_name} ({parent})"
    config, folder = f"{info.artifact_uri}/config.yaml", f"runs/{version.tags.get('run', '')}"
    card = f"{folder}/{MODEL_FOLDER}/{MODEL_CARD_FILE}"
    if registry.storage.exists(f"{folder}/config.yaml"):
        config = registry.storage.path(f"{folder}/config.yaml")
    packages = [name.partition(".")[2] for name in sorted(tags) if name.startswith("version.")]
    aps = [
        f"{name.removeprefix('results/').removesuffix('/merged/AP')} {100 * metrics[name]:.1f}"
        for name in sorted(metrics)
        if name.startswith("results/") and name.endswith("/merged/AP")
    ]
    rows = [
        ("run", f"{info.run_name} ({info.run_id}), {info.status.lower()} {format_timestamp(info.end_time)}"),
        ("experiment", client.get_experiment(info.experiment_id).name),
        ("search", search),
        ("command", tags.get("command", "")),
        ("config", config),
        ("model card", registry.storage.path(card) if registry.storage.exists(card) else ""),
        ("preset", tags.get("preset", "")),
    ]
    for dataset_input in run.inputs.dataset_inputs:
        dataset = dataset_input.dataset
        uses = ", ".join(tag.value for tag in dataset_input.tags if tag.key == "mlflow.data.context")
        rows.append(("data", f"{dataset.name} digest {dataset.digest} ({uses})"))
    rows += [
        ("git commit", tags.get("mlflow.source.git.commit", "")),
        ("by", ", ".join(filter(None, (tags.get("mlflow.user"), tags.get("cluster"))))),
        ("packages", ", ".join(f"{name} {tags[f'version.{name}']}" for name in packages)),
        ("restarts", tags.get("restarts", "")),
    ]
    if OCCLUSION_AP_METRIC in metrics:
        rows.append(("steps", str(client.get_metric_history(info.run_id, OCCLUSION_AP_METRIC)[-1].step)))
        rows.append(("occlusion AP", f"{100 * metrics[OCCLUSION_AP_METRIC]:.1f}"))
    return [*rows, ("AP", ", ".join(aps))]


def format_timestamp(milliseconds: int | None) -> str:
    """MLflow's Unix time in ms as UTC, to the minute; "" for none."""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M} UTC" if milliseconds else ""
