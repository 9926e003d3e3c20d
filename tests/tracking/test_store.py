"""MLflow's SQLite file is created whole or not at all, and its errors are ours to say."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from mipnet.storage import Folder
from mipnet.tracking.sender import failure_reason
from mipnet.tracking.store import SQLITE_PREFIX, create_database, prepare_mlflow

FULL = OperationalError("INSERT INTO metrics …", {}, sqlite3.OperationalError("database or disk is full"))


def client_that_creates(monkeypatch: pytest.MonkeyPatch, *also: Path, error: Exception | None = None) -> None:
    """In the place of MLflow's: writes "new" into its database, and "other" into others."""

    class Client:
        def __init__(self, uri: str) -> None:
            self.path = Path(uri.removeprefix(SQLITE_PREFIX))

        def search_experiments(self, max_results: int) -> None:
            self.path.write_text("new")
            for path in also:
                path.write_text("other")
            if error is not None:
                raise error

    monkeypatch.setattr(mlflow, "MlflowClient", Client)


def test_a_creation_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "storage" / "mlflow.db"
    client_that_creates(monkeypatch, error=FULL)
    with pytest.raises(OperationalError):
        create_database(path)
    assert list(path.parent.iterdir()) == []
    client_that_creates(monkeypatch)
    create_database(path)
    assert [(p.name, p.read_text()) for p in path.parent.iterdir()] == [("mlflow.db", "new")]


def test_a_database_that_is_there_or_comes_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    client_that_creates(monkeypatch, path)
    for _ in range(2):
        create_database(path)
        assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("mlflow.db", "other")]


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("mipnet.tracking.store.os.link", refuse)
    client_that_creates(monkeypatch)
    create_database(tmp_path / "mlflow.db")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("mlflow.db", "new")]


@pytest.mark.parametrize("name", ["mlflow.store.db.utils", "sqlalchemy.pool.impl.QueuePool", "alembic.x"])
def test_their_tracebacks_are_not_printed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """They log an error that they raise, too."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{SQLITE_PREFIX}{tmp_path / 'mlflow.db'}?timeout=30")
    (tmp_path / "mlflow.db").touch()
    prepare_mlflow(Folder.of(tmp_path))
    logging.getLogger(name).error("an error with a traceback")
    assert capfd.readouterr().err == ""


def test_the_reason_is_the_databases_own() -> None:
    error = MlflowException(str(FULL))
    error.__cause__ = FULL
    assert failure_reason(error) == "database or disk is full"
    assert failure_reason(MlflowException("no such run\nTraceback")) == "no such run"
