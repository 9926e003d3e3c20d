"""Real servers for tests, each a process: PostgreSQL, a store that speaks S3, a Ray cluster's head."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mipnet.storage import Folder

BUCKET, KEYS = "mlflow", {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret"}


def postgres_programs() -> Path | None:
    """Folder of the newest ``initdb`` and ``postgres``; None if there are none."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: -float(p.parent.name))
    return next((p for p in found if (p / "initdb").exists() and (p / "postgres").exists()), None)


def free_ports(count: int) -> list[int]:
    """Different TCP ports of 127.0.0.1 on which nothing listens.

    Between those of Ray's workers (10002 to 19999) and those that the kernel gives to outgoing connections
    (from 32768), so that neither takes one before the caller's server does.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} free ports between 20000 and 32000")


def free_port() -> int:
    """One of ``free_ports``."""
    return free_ports(1)[0]


def opener() -> urllib.request.OpenerDirector:
    """Opens addresses of this machine, which must not go through a proxy."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def responds(url: str) -> bool:
    """Whether a server responds there with status 200."""
    try:
        with opener().open(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def process(
    command: list[str],
    log: Path,
    ready: Callable[[], bool],
    *,
    cwd: str | None = None,
    user: int | None = None,
    env: Mapping[str, str] | None = None,
    seconds: float = 300,
) -> Iterator[None]:
    """Run a server during the ``with`` block, which begins when the server is ready.

    Args:
        command: the server's command line.
        log: file for its stdout and stderr.
        ready: asked five times a second whether the server responds.
        cwd: its working directory.
        user: ID of the user that it runs as.
        env: its environment, if it is not that of the tests.
        seconds: how long it may take to start.
    """
    with log.open("wb") as said:
        child = subprocess.Popen(
            command, stdout=said, stderr=said, start_new_session=True, cwd=cwd, user=user, env=env
        )
        try:
            deadline = time.monotonic() + seconds
            while not ready():
                assert child.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield
        finally:
            # SIGINT is PostgreSQL's fast shutdown; children of a script's background jobs ignore it.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(5)


@contextmanager
def postgres() -> Iterator[str]:
    """Run a fresh PostgreSQL; yields libpq's connection string. Skips the test if there is none."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL here (initdb)")
    psycopg2 = pytest.importorskip("psycopg2", reason="the extra 'server' is not installed")
    with tempfile.TemporaryDirectory(prefix="mipnet-postgres-") as folder:
        user = None
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            known = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
            user = known.get("postgres") or known["nobody"]
            os.chown(folder, user, -1)
        data, port = Path(folder) / "data", free_port()
        initdb = [str(programs / "initdb"), "-D", str(data), "-U", "mlflow", "--auth=trust", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, user=user)
        place = f"host=127.0.0.1 port={port} user=mlflow dbname=postgres"

        def ready() -> bool:
            try:
                psycopg2.connect(place).close()
            except psycopg2.OperationalError:
                return False
            return True

        command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-k", folder]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with process(command, Path(folder) / "log", ready, cwd=folder, user=user):
            yield place


@contextmanager
def objects(folder: Path) -> Iterator[tuple[str, Any]]:
    """Run an S3 store (moto) with the bucket ``BUCKET``; yields its address and a boto3 client."""
    pytest.importorskip("moto", reason="the extra 'server' is not installed")
    boto3 = pytest.importorskip("boto3", reason="the extra 'server' is not installed")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with process(command, folder / "objects.log", lambda: responds(f"{address}/moto-api/")):
        s3 = boto3.client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )
        s3.create_bucket(Bucket=BUCKET)
        yield address, s3


def bucket_at(address: str) -> Folder:
    """The bucket of ``objects`` by the address of the store, or of a proxy before it."""
    host = address.removeprefix("http://")
    return Folder.of(f"s3://{BUCKET}?scheme=http&endpoint_override={host}&region=us-east-1")


@contextmanager
def slow_proxy(address: str, folder: Path, seconds: float = 0.0, fail_every: int = 0) -> Iterator[str]:
    """Run a proxy before the server at ``address`` (``slow_proxy.py``); yields its own address."""
    port = free_port()
    program = Path(__file__).with_name("slow_proxy.py")
    target = address.rpartition(":")[2]
    command = [sys.executable, str(program), str(port), target, str(seconds), str(fail_every)]
    url = f"http://127.0.0.1:{port}"
    with process(command, folder / "proxy.log", lambda: responds(f"{url}/proxy")):
        yield url


@contextmanager
def ray_head(folder: Path, *flags: str) -> Iterator[dict[str, str]]:
    """Run ``ray start --head`` on 127.0.0.1 with four CPUs; yields the environment for its commands.

    Args:
        folder: for Ray's files; its path is short, because sockets lie below it.
        flags: of ``ray start``.
    """
    port, log = free_port(), folder / "head.log"
    hidden = ("RAY_", "MLFLOW_", "CUDA_VISIBLE_DEVICES")  # the last: Ray refuses GPUs that it cannot name
    env = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    env["RAY_memory_monitor_refresh_ms"] = "0"  # or it ends workers when others fill the machine's memory
    words = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}"]
    words += ["--node-ip-address=127.0.0.1", "--num-cpus=4", "--object-store-memory=300000000"]
    words += [f"--temp-dir={folder}/t", "--disable-usage-stats", *flags]
    with process(words, log, lambda: "Ray runtime started" in log.read_text(), env=env):
        yield env | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
