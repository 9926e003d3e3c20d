"""Access to a registered model in MLflow: its versions, aliases and JSON artifacts of their runs."""

from __future__ import annotations

import contextlib
import http.client
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipnet.errors import UserError, first_line, reason_of, suggest
from mipnet.storage import Folder
from mipnet.tracking.store import SQLITE_PREFIX, prepare_mlflow, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

CANDIDATE, CHAMPION = "candidate", "champion"
HEALTH_CHECK_SECONDS = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registry:
    """A registered model, as from ``open_registry``.

    Attributes:
        storage: of the runs.
        display_uri: of the tracking store, without a password.
        client: MLflow's client.
        model: name of the registered model.
    """

    storage: Folder
    display_uri: str
    client: MlflowClient
    model: str

    def aliases(self) -> dict[str, int]:
        """Alias -> number of its current version."""
        return {alias: int(v) for alias, v in self.client.get_registered_model(self.model).aliases.items()}

    def versions(self) -> list[ModelVersion]:
        """All versions with their current aliases, the newest first."""
        aliases = sorted(self.aliases().items())
        found = list(self.client.search_model_versions(f"name = '{self.model}'"))
        for version in found:  # MLflow's search does not return aliases
            version.aliases = [alias for alias, number in aliases if number == version_number(version)]
        return sorted(found, key=version_number, reverse=True)

    def find(self, wanted: str) -> ModelVersion:
        """Find a version by any of its names.

        Args:
            wanted: number, alias, models:/NAME/NUMBER, models:/NAME@ALIAS, or the name or id of its
                run (of several versions the newest).

        Raises:
            UserError: there is no such version.
        """
        word = wanted.removeprefix(f"models:/{self.model}").lstrip("/@")
        versions = self.versions()
        direct = {name: v for v in versions for name in (str(v.version), *v.aliases)}
        by_run = {name: v for v in reversed(versions) for name in (v.run_id, v.tags.get("run"))}
        if word and word in (known := by_run | direct):
            return known[word]
        choices = [*sorted(direct), *filter(None, (v.tags.get("run") for v in versions))]
        raise UserError(f"{self.model} has no version {wanted!r}", suggest(word, choices))

    def champion(self) -> ModelVersion | None:
        """The version with the alias ``champion``; None if there is none."""
        number = self.aliases().get(CHAMPION)
        return None if number is None else self.find(str(number))

    def run_of(self, version: ModelVersion) -> Run | None:
        """The MLflow run of a version; None if it has none, or the run is deleted."""
        from mlflow.exceptions import MlflowException

        if not version.run_id:
            return None
        try:
            return self.client.get_run(version.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def load_dict(self, version: ModelVersion, path: str) -> dict[str, Any] | None:
        """Load a JSON artifact of a version's run; None if there is none."""
        import mlflow

        if self.run_of(version) is None:
            return None
        with artifact_errors(f"cannot read what is kept with version {version.version}"):
            listed = self.client.list_artifacts(version.run_id, path.rpartition("/")[0])
            if path not in [file.path for file in listed]:
                return None
            content: dict[str, Any] = mlflow.artifacts.load_dict(f"runs:/{version.run_id}/{path}")
            return content

    def log_dict(self, version: ModelVersion, path: str, content: Mapping[str, Any]) -> str:
        """Log a JSON artifact of a version's run.

        Returns:
            its URI; "" if the version has no active run.
        """
        run = self.run_of(version)
        if run is None or run.info.lifecycle_stage != "active":
            logger.info("version %s has no active run for %s", version.version, path)
            return ""
        with artifact_errors(f"cannot keep {path} with version {version.version}"):
            self.client.log_dict(version.run_id, dict(content), path)
        return f"runs:/{version.run_id}/{path}"


def version_number(version: ModelVersion | None) -> int:
    """Number of a version, 0 for None; MLflow returns a number or text, depending on the store."""
    return int(version.version) if version else 0


def model_uri(version: ModelVersion) -> str:
    return f"models:/{version.name}/{version.version}"


@contextlib.contextmanager
def artifact_errors(what: str) -> Iterator[None]:
    """Turn any error of an artifact store into a UserError; each kind of store has its own errors."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{what} ({first_line(error)})", "try again", 1) from error


@contextlib.contextmanager
def open_registry(storage: Folder, model: str) -> Iterator[Registry]:
    """Open a registered model; an MLflow error inside the block becomes a UserError.

    Args:
        storage: selects the tracking store, see ``tracking_uri``.
        model: name of the registered model.

    Raises:
        UserError: no store, no such model, or the store does not answer or raises an error.
    """
    where = tracking_uri(storage)
    shown = without_password(where)
    if where.startswith(SQLITE_PREFIX) and not Path(where.removeprefix(SQLITE_PREFIX)).exists():
        hint = "mipnet train registers them; name their --storage"
        raise UserError(f"no models are registered in {storage.uri}", hint)
    prepare_mlflow(storage)
    check_server_answers(where)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient()
        try:
            client.get_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            names = [found.name for found in client.search_registered_models(max_results=1000)]
            hint = suggest(model, names) if names else "mipnet train registers one"
            raise UserError(f"{shown} has no registered model {model!r}", hint) from None
        yield Registry(storage, shown, client, model)
    except MlflowException as error:
        message = f"the registry at {shown} refuses ({first_line(error)})"
        raise UserError(message, "try again", 1) from error


def without_password(uri: str) -> str:
    """A URI without user name and password."""
    scheme, mark, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"


def check_server_answers(where: str, otherwise: str = "") -> None:
    """Check that a tracking server responds, because MLflow's client retries a dead one for long.

    Args:
        where: the tracking URI; only http(s) URIs are checked.
        otherwise: end of the hint, an alternative without a server.

    Raises:
        UserError: the server does not respond.
    """
    if not where.startswith(("http://", "https://")):
        return
    where = without_password(where)
    try:
        with contextlib.suppress(urllib.error.HTTPError):  # any response will do
            urllib.request.urlopen(f"{where.rstrip('/')}/health", timeout=HEALTH_CHECK_SECONDS).close()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        reason = reason_of(reason) if isinstance(reason, OSError) else str(reason)
        hint = f"check MLFLOW_TRACKING_URI{otherwise}"
        raise UserError(f"no MLflow server answers at {where} ({reason})", hint) from None
