"""Real servers for tests, each a process: PostgreSQL, and a store that speaks S3."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.registering import answers

BUCKET, KEYS = "mlflow", {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret"}


def postgres_programs() -> Path | None:
    """The folder of the newest initdb and postgres; None if there are none."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: -float(p.parent.name))
    return next((p for p in found if (p / "initdb").exists() and (p / "postgres").exists()), None)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def process(command: list[str], log: Path, ready: Callable[[], bool], **kwargs: object) -> Iterator[None]:
    """A server for the time of the block, which begins when it is ready."""
    with log.open("wb") as said:
        child = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True, **kwargs)  # type: ignore[call-overload]
        try:
            deadline = time.monotonic() + 240
            while not ready():
                assert child.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGKILL):  # PostgreSQL: fast shutdown
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(20)


@contextmanager
def postgres() -> Iterator[str]:
    """A fresh PostgreSQL; yields where its database is."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL here (initdb)")
    psycopg2 = pytest.importorskip("psycopg2", reason="the extra 'server' is not installed")
    with tempfile.TemporaryDirectory(prefix="mipnet-postgres-") as folder:
        who: dict[str, object] = {"cwd": folder}
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            with contextlib.suppress(KeyError):
                who["user"] = pwd.getpwnam("postgres").pw_uid
            who.setdefault("user", pwd.getpwnam("nobody").pw_uid)
            os.chown(folder, who["user"], -1)  # type: ignore[arg-type]
        data, port = Path(folder) / "data", free_port()
        initdb = [str(programs / "initdb"), "-D", str(data), "-U", "mlflow", "--auth=trust", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, **who)  # type: ignore[call-overload]
        place = f"host=127.0.0.1 port={port} user=mlflow dbname=postgres"

        def ready() -> bool:
            try:
                psycopg2.connect(place).close()
            except psycopg2.OperationalError:
                return False
            return True

        command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-k", folder]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with process(command, Path(folder) / "log", ready, **who):
            yield place


@contextmanager
def objects(folder: Path) -> Iterator[tuple[str, object]]:
    """A store that speaks S3, with one bucket; yields its address and a client."""
    pytest.importorskip("moto", reason="the extra 'server' is not installed")
    boto3 = pytest.importorskip("boto3", reason="the extra 'server' is not installed")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with process(command, folder / "objects.log", lambda: answers(f"{address}/moto-api/")):
        s3 = boto3.client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )
        s3.create_bucket(Bucket=BUCKET)
        yield address, s3
