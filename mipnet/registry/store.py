"""A registered model in MLflow: its versions by any of their names, and what is kept with their runs."""

from __future__ import annotations

import contextlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipnet.errors import UserError, first_line, nearest, reason_of
from mipnet.storage import Folder
from mipnet.tracking.tracker import SQLITE, prepare_mlflow, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

CANDIDATE, CHAMPION = "candidate", "champion"
SECONDS_TO_ANSWER = 10.0


@dataclass(frozen=True)
class Registry:
    """A registered model; made by ``open_registry``.

    Attributes:
        storage: where runs lie.
        where: the tracking store, for people.
        client: MLflow's.
        model: name of the registered model.
    """

    storage: Folder
    where: str
    client: MlflowClient
    model: str

    def aliases(self) -> dict[str, int]:
        """Alias -> version, as they are now."""
        return {alias: int(v) for alias, v in self.client.get_registered_model(self.model).aliases.items()}

    def versions(self) -> list[ModelVersion]:
        """All versions, the newest first, with the aliases that point at them now."""
        aliases = sorted(self.aliases().items())
        found = list(self.client.search_model_versions(f"name = '{self.model}'"))
        for version in found:  # MLflow's search leaves them out
            version.aliases = [alias for alias, number in aliases if number == number_of(version)]
        return sorted(found, key=number_of, reverse=True)

    def find(self, wanted: str) -> ModelVersion:
        """The version that a person means.

        Args:
            wanted: its number, an alias, models:/NAME/NUMBER, models:/NAME@ALIAS, or the name or id of its
                run (of several the newest).

        Raises:
            UserError: there is none.
        """
        word = wanted.removeprefix(f"models:/{self.model}").lstrip("/@")
        versions = self.versions()
        direct = {name: v for v in versions for name in (str(v.version), *v.aliases)}
        by_run = {name: v for v in reversed(versions) for name in (v.run_id, v.tags.get("run"))}
        if word and word in (known := by_run | direct):
            return known[word]
        choices = [*sorted(direct), *filter(None, (v.tags.get("run") for v in versions))]
        raise UserError(f"{self.model} has no version {wanted!r}", nearest(word, choices))

    def champion(self) -> ModelVersion | None:
        """The version that bears the alias now."""
        number = self.aliases().get(CHAMPION)
        return None if number is None else self.find(str(number))

    def run_of(self, version: ModelVersion) -> Run | None:
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

    def kept(self, version: ModelVersion, path: str) -> dict[str, Any] | None:
        """What ``keep`` put there; None if there is nothing."""
        import mlflow

        if self.run_of(version) is None:
            return None
        with artifact_errors(f"cannot read what is kept with version {version.version}"):
            listed = self.client.list_artifacts(version.run_id, path.rpartition("/")[0])
            if path not in [file.path for file in listed]:
                return None
            return mlflow.artifacts.load_dict(f"runs:/{version.run_id}/{path}")

    def keep(self, version: ModelVersion, path: str, content: Mapping[str, Any]) -> str:
        """Keep something as a JSON artifact of a version's run.

        Returns:
            where it is; "" if there is no run that could keep it.
        """
        run = self.run_of(version)
        if run is None or run.info.lifecycle_stage != "active":
            return ""
        with artifact_errors(f"cannot keep {path} with version {version.version}"):
            self.client.log_dict(version.run_id, dict(content), path)
        return f"runs:/{version.run_id}/{path}"


def number_of(version: ModelVersion | None) -> int:
    """A version's number, 0 for none; MLflow gives it as a number or as text, depending on the store."""
    return int(version.version) if version else 0


def uri_of(version: ModelVersion) -> str:
    return f"models:/{version.name}/{version.version}"


@contextlib.contextmanager
def artifact_errors(what: str) -> Iterator[None]:
    """One line for whatever the artifacts' store does: each kind of store has errors of its own."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{what} ({first_line(error)})", "try again", 1) from error


@contextlib.contextmanager
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
        if not client.search_registered_models(f"name = '{model}'"):
            names = [found.name for found in client.search_registered_models()]
            raise UserError(
                f"{shown(where)} has no registered model {model!r}",
                nearest(model, names) if names else "mipnet train registers one",
            )
        yield Registry(storage, shown(where), client, model)
    except MlflowException as error:
        raise UserError(
            f"the registry at {shown(where)} refuses ({first_line(error)})", "try again", 1
        ) from error


def shown(where: str) -> str:
    """A tracking URI without a password."""
    scheme, mark, rest = where.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{mark}{place.rpartition('@')[2]}{slash}{path}"


def check_server(where: str, otherwise: str = "") -> None:
    """MLflow's own client tries a dead server for long, and says so at length.

    Args:
        where: the tracking URI; only a server is asked.
        otherwise: what to do without one, after the advice to check the URI.

    Raises:
        UserError: it does not answer.
    """
    if not where.startswith(("http://", "https://")):
        return
    where = shown(where)
    try:
        with contextlib.suppress(urllib.error.HTTPError):  # somebody answers, if only to say no
            urllib.request.urlopen(f"{where.rstrip('/')}/health", timeout=SECONDS_TO_ANSWER).close()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        reason = reason_of(reason) if isinstance(reason, OSError) else str(reason)
        raise UserError(
            f"no MLflow server answers at {where} ({reason})", f"check MLFLOW_TRACKING_URI{otherwise}"
        ) from None
