"""The versions of a registered model: which there are, where each comes from, and what is kept with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from mipnet.errors import UserError, nearest
from mipnet.storage import Folder
from mipnet.tracking.registry import check_server
from mipnet.tracking.tracker import SQLITE, prepare_mlflow, tracking_uri

CHAMPION = "champion"
RESULT = "results/occlusion_AP"
"""The run's metric by which its tables are summed up."""
EVALUATIONS = "evaluations"
"""Folder among the artifacts of a version's run, with one file for each data set it was compared on."""


@dataclass(frozen=True)
class Version:
    """One version of a registered model.

    Attributes:
        model: the registered model's name.
        number: the version's.
        run_id: of the MLflow run that made it; "" if none did.
        aliases: that point at it.
        created: Unix time.
        tags: of the version.
    """

    model: str
    number: int
    run_id: str
    aliases: tuple[str, ...]
    created: float
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        return f"models:/{self.model}/{self.number}"

    @property
    def label(self) -> str:
        """E.g. "3 champion"."""
        return " ".join([str(self.number), *self.aliases])


class Registry:
    """A registered model and its versions; made by ``open_registry``.

    Attributes:
        storage: where runs lie.
        where: the tracking store, for people.
        client: MLflow's.
        model: name of the registered model.
    """

    def __init__(self, storage: Folder, where: str, client: Any, model: str) -> None:
        self.storage, self.where, self.client, self.model = storage, where, client, model

    def aliases(self) -> dict[str, int]:
        """Alias -> version, as they are now."""
        return {alias: int(v) for alias, v in self.client.get_registered_model(self.model).aliases.items()}

    def versions(self) -> list[Version]:
        """All versions, the newest first."""
        by_version: dict[int, list[str]] = {}
        for alias, number in sorted(self.aliases().items()):
            by_version.setdefault(number, []).append(alias)
        found = [
            Version(
                self.model,
                int(v.version),
                v.run_id or "",
                tuple(by_version.get(int(v.version), ())),
                v.creation_timestamp / 1000,
                dict(v.tags),
            )
            for v in self.client.search_model_versions(f"name = '{self.model}'")
        ]
        return sorted(found, key=lambda v: -v.number)

    def find(self, wanted: str) -> Version:
        """The version that a person means.

        Args:
            wanted: its number, an alias, models:/NAME/NUMBER, models:/NAME@ALIAS, or the name or id of its
                run.

        Raises:
            UserError: there is none.
        """
        word = wanted.removeprefix(f"models:/{self.model}").lstrip("/@")
        versions = self.versions()
        for version in versions:
            if word in (str(version.number), *version.aliases):
                return version
        for version in versions:  # the newest of a run
            if word in (version.run_id, version.tags.get("run")):
                return version
        numbers = sorted(str(v.number) for v in versions)
        choices = [*numbers, *self.aliases(), *filter(None, (v.tags.get("run") for v in versions))]
        raise UserError(f"{self.model} has no version {wanted!r}", nearest(word, choices))

    def champion(self) -> Version | None:
        """The version that bears the alias now."""
        number = self.aliases().get(CHAMPION)
        return None if number is None else self.find(str(number))

    def run_of(self, version: Version) -> Any:
        """MLflow's run that made a version; None if there is none, or it is gone."""
        from mlflow.exceptions import MlflowException

        if not version.run_id:
            return None
        try:
            return self.client.get_run(version.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def kept_evaluation(self, version: Version, key: str) -> dict[str, float] | None:
        """The metrics that ``keep_evaluation`` kept under this key; None if there are none."""
        import mlflow

        path = f"{EVALUATIONS}/{_file(version, key)}"
        if self.run_of(version) is None:
            return None
        with artifact_errors(f"cannot read what is kept with version {version.number}"):
            if path not in [file.path for file in self.client.list_artifacts(version.run_id, EVALUATIONS)]:
                return None
            return json.loads(mlflow.artifacts.load_text(f"runs:/{version.run_id}/{path}"))["metrics"]

    def keep_evaluation(
        self, version: Version, key: str, about: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> None:
        """Keep a version's metrics with its run.

        Args:
            version: whose.
            key: what they depend on, as a digest.
            about: the same for people.
            metrics: ``split/source/view/metric`` -> value.
        """
        content = {"version": version.number, **about, "metrics": dict(metrics)}
        self.keep_text(version, f"{EVALUATIONS}/{_file(version, key)}", json.dumps(content, indent=2))

    def keep_text(self, version: Version, path: str, content: str) -> str:
        """Keep a file with a version's run; returns where it is, "" if there is no run that could keep it."""
        run = self.run_of(version)
        if run is None or run.info.lifecycle_stage != "active":
            return ""
        with artifact_errors(f"cannot keep {path} with version {version.number}"):
            self.client.log_text(version.run_id, content, path)
        return f"runs:/{version.run_id}/{path}"


@contextmanager
def artifact_errors(what: str) -> Iterator[None]:
    """One line for whatever the artifacts' store does: each kind of store has errors of its own."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{what} ({_first_line(error)})", "try again", 1) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _file(version: Version, key: str) -> str:
    return f"version-{version.number}-{key}.json"


@contextmanager
def open_registry(storage: Folder, model: str) -> Iterator[Registry]:
    """A registered model; what MLflow refuses inside the block becomes one line.

    Args:
        storage: tells which tracking store, see ``tracking_uri``.
        model: name of the registered model.

    Raises:
        UserError: there is no store, no such model, or the store does not answer.
    """
    where = tracking_uri(storage)
    if where.startswith(SQLITE) and not Path(where.removeprefix(SQLITE)).exists():
        raise UserError(
            f"no models are registered in {storage.uri}", "mipnet train registers them; name their --storage"
        )
    prepare_mlflow(storage)
    check_server(where)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient()
        names = [found.name for found in client.search_registered_models()]
        if model not in names:
            raise UserError(
                f"{shown(where)} has no registered model {model!r}",
                nearest(model, names) if names else "mipnet train registers one",
            )
        yield Registry(storage, shown(where), client, model)
    except MlflowException as error:
        raise UserError(
            f"the registry at {shown(where)} refuses ({_first_line(error)})", "try again", 1
        ) from error


def shown(where: str) -> str:
    """A tracking URI without a password."""
    scheme, mark, rest = where.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{mark}{place.rpartition('@')[2]}{slash}{path}"


class Lineage:
    """Where a version comes from, in words.

    Args:
        registry: the version's.
        version: which.
    """

    def __init__(self, registry: Registry, version: Version) -> None:
        self.registry, self.version = registry, version
        self.run = registry.run_of(version)

    @cached_property
    def tags(self) -> Mapping[str, str]:
        return self.run.data.tags if self.run else {}

    def rows(self) -> list[tuple[str, str]]:
        """(what, which), in the order in which they are read; what nobody knows is left out."""
        version = self.version
        rows = [
            ("version", f"{version.model} {version.number}"),
            ("alias", ", ".join(version.aliases) or "none"),
            ("registered", moment(version.created)),
            ("weights", version.uri),
            *self._run_rows(),
            *self._results(),
            ("promotion", decision_line(version)),
        ]
        return [(what, which) for what, which in rows if which]

    def _run_rows(self) -> list[tuple[str, str]]:
        if self.run is None:
            return [("run", f"{self.version.run_id} (gone)" if self.version.run_id else "")]
        info, tags = self.run.info, self.tags
        name = info.run_name or info.run_id
        rows = [
            ("run", f"{name} ({info.run_id}), {info.status.lower()} {moment((info.end_time or 0) / 1000)}"),
            ("experiment", self.registry.client.get_experiment(info.experiment_id).name),
            ("search", self._search()),
            ("command", tags.get("command", "")),
            ("config", self._config()),
            ("preset", tags.get("preset", "")),
        ]
        for given in self.run.inputs.dataset_inputs:
            context = ", ".join(tag.value for tag in given.tags if tag.key == "mlflow.data.context")
            rows.append(("data", f"{given.dataset.name} digest {given.dataset.digest} ({context})"))
        versions = [f"{k.partition('.')[2]} {v}" for k, v in sorted(tags.items()) if k.startswith("version.")]
        rows += [
            ("git commit", tags.get("mlflow.source.git.commit", "")),
            ("by", ", ".join(filter(None, (tags.get("mlflow.user"), tags.get("cluster"))))),
            ("packages", ", ".join(versions)),
            ("restarts", tags.get("restarts", "")),
        ]
        return rows

    def _search(self) -> str:
        """The search that the run was a trial of."""
        parent = self.tags.get("mlflow.parentRunId", "")
        if not parent:
            return self.tags.get("search", "")
        name = self.tags.get("search") or self.registry.client.get_run(parent).info.run_name
        return f"{name} ({parent})"

    def _config(self) -> str:
        """Where the resolved configuration lies: in the storage if it is there, else among the artifacts."""
        name = self.version.tags.get("run", "")
        kept = self.registry.storage.join("runs")
        if name and kept.exists(f"{name}/config.yaml"):
            return kept.path(f"{name}/config.yaml")
        return f"{self.run.info.artifact_uri}/config.yaml"

    def _results(self) -> list[tuple[str, str]]:
        if self.run is None:
            return []
        metrics = self.run.data.metrics
        rows = []
        if RESULT in metrics:
            steps = self.registry.client.get_metric_history(self.version.run_id, RESULT)[-1].step
            rows.append(("steps", f"{steps}"))
            rows.append(("occlusion AP", f"{100 * metrics[RESULT]:.1f}"))
        merged = {
            name.removeprefix("results/").removesuffix("/merged/AP"): value
            for name, value in metrics.items()
            if name.startswith("results/") and name.endswith("/merged/AP")
        }
        rows.append(("AP", ", ".join(f"{name} {100 * value:.1f}" for name, value in sorted(merged.items()))))
        return rows


def decision_line(version: Version) -> str:
    """What was decided of it last, and why; "" if nothing was."""
    tags = version.tags
    if "promotion" not in tags:
        return ""
    reason = f": {tags['promotion.reason']}" if tags.get("promotion.reason") else ""
    return (
        f"{tags['promotion']} against {tags.get('promotion.against', '?')}, {tags.get('promotion.at', '?')} "
        f"by {tags.get('promotion.by', '?')}{reason}"
    )


def moment(seconds: float) -> str:
    """UTC, to the minute; "" for 0."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC" if seconds else ""
