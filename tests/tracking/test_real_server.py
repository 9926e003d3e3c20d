"""The registry on a real ``mlflow server`` with PostgreSQL and a store that speaks S3, each a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mipnet.storage import Folder
from tests.helpers.registering import (
    BOXES,
    ask,
    check_same,
    encoded,
    expected,
    own_truth,
    pictures,
    register_small,
    serving,
)
from tests.helpers.servers import BUCKET, KEYS, free_port, objects, postgres, process, responds


@dataclass(frozen=True)
class Server:
    """A running MLflow, and what is behind it."""

    address: str
    database: str
    s3: object


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with postgres() as database, objects(tmp_path) as (endpoint, s3):
        parts = dict(part.split("=") for part in database.split())
        store = f"postgresql+psycopg2://{parts['user']}@{parts['host']}:{parts['port']}/{parts['dbname']}"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--workers", "1", "--backend-store-uri", store]
        command += ["--artifacts-destination", f"s3://{BUCKET}/artifacts"]
        env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | KEYS
        env |= {"MLFLOW_S3_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
        env |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        ready = lambda: responds(f"{address}/health")  # noqa: E731
        with process(command, tmp_path / "mlflow.log", ready, cwd=tmp_path, env=env):
            yield Server(address, database, s3)


@pytest.mark.drill
@pytest.mark.slow
@pytest.mark.ray
def test_the_whole_life_of_versions_on_a_real_server(
    ray_session: None,
    server: Server,
    small_models: list[Path],
    small_coco: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Registered, evaluated, promoted, refused, forced, rolled back, shown and served, with no key of S3."""
    import psycopg2
    import ray

    storage = Folder.of(tmp_path / "storage")
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    root = own_truth(small_models[0], small_coco, tmp_path / "data")
    for seed in (0, 1):
        tags = {"mlflow.source.git.commit": f"commit-{seed}", "search": "a-search"}
        register_small(storage, small_models[seed], "team", f"run-{seed}", tags)
    env = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}

    def command(status: int, *argv: str) -> str:
        words = ["registry", *argv, "--name", "team", "--storage", storage.uri]
        done = subprocess.run(
            [sys.executable, "-m", "mipnet", *words], env=env, text=True, capture_output=True, timeout=600
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    data = ("--data", str(root))
    assert "champion  team version 1" in command(0, "promote", "1", *data)
    refused = command(1, "promote", "candidate", *data)
    assert "version 2 is not promoted: occlusion AP falls by" in refused
    assert "difference" in refused
    assert "before    version 1" in command(0, "promote", "2", "--force", *data)
    assert "champion  team version 1" in command(0, "rollback")
    shown = command(0, "show", "run-1")
    for words in ("forced against 1", "commit-1", "a-search", "mlflow-artifacts:/"):
        assert words in shown
    listed = command(0, "list").splitlines()
    assert listed[-2] == "champions"
    assert "Z  1 (rolled back from 2) by " in listed[-1]

    with psycopg2.connect(server.database) as connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from model_versions")
        assert cursor.fetchone() == (2,)
        cursor.execute("select key from registered_model_tags")
        assert cursor.fetchall() == [("champions",)]
    keys = [found["Key"] for found in server.s3.list_objects_v2(Bucket=BUCKET)["Contents"]]  # type: ignore[attr-defined]
    assert sum(key.endswith("weights.safetensors") for key in keys) == 2
    assert sum("/promotion/version-2-" in key for key in keys) == 2
    assert sum("/evaluations/version-" in key for key in keys) == 2

    files = pictures(small_coco)
    rows = [{"image": encoded(f), "boxes": boxes} for f, boxes in zip(files, BOXES, strict=True)]
    with serving("models:/team@champion", server.address, tmp_path / "serving.log") as address:
        status, answer = ask(address, {"dataframe_records": rows})
    assert status == 200, answer
    check_same(answer["predictions"], expected(small_models[0], small_coco))
