"""``mipnet ui``: MLflow's pages over the runs and models of a storage."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from mipnet.cli.shared_options import STORAGE_HELP, Call
from mipnet.config.flags import option
from mipnet.console import say
from mipnet.errors import UserError
from mipnet.ports import open_local_url, require_free_port
from mipnet.storage import Folder, readable_storage
from mipnet.tracking.store import SQLITE_PREFIX, artifact_settings, tracking_uri

ABOUT = "Look at runs and models in MLflow's pages."
SECONDS_TO_START = 120


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet ui``."""

    port: int = option(5000, "where on this machine the pages are")
    host: str = option("127.0.0.1", "address to listen on; any but this one lets others in")
    storage: str = option("", STORAGE_HELP)


def run(options: Options, call: Call) -> int:
    """Serve the pages until Ctrl-C, or say where the server is that already does."""
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    if server.startswith(("http://", "https://")):
        say(f"MLFLOW_TRACKING_URI names a server, open {server}")
        return 0
    storage = readable_storage(options.storage)
    store = tracking_uri(storage)
    if store.startswith(SQLITE_PREFIX) and not Path(store.removeprefix(SQLITE_PREFIX)).exists():
        hint = "mipnet train records them; name their --storage"
        raise UserError(f"no runs are recorded in {storage.uri}", hint)
    require_free_port(options.host, options.port)
    if not is_loopback(options.host):
        say(f"warning: whoever reaches port {options.port} of this machine can read and change all runs")
    return serve(store, storage, options.host, options.port)


def is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def serve(store: str, storage: Folder, host: str, port: int) -> int:
    """Run MLflow's server as a child until Ctrl-C.

    Raises:
        UserError: it does not start, or ends by itself; with its last words.
    """
    with TemporaryDirectory(prefix="mipnet-ui-") as scratch, open(f"{scratch}/log", "wb+") as log:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
        command += ["--host", host, "--port", str(port), "--workers", "1"]
        command += ["--default-artifact-root", storage.path("mlartifacts")]
        settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        for number in (signal.SIGTERM, signal.SIGHUP):  # a polite kill and a closed terminal are as Ctrl-C
            signal.signal(number, signal.default_int_handler)
        child = subprocess.Popen(
            command,
            cwd=scratch,  # it would leave folders of its own in the current one
            env={**os.environ, **artifact_settings(storage), **settings},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # one process group, which Ctrl-C reaches only through us
        )
        try:
            local = "127.0.0.1" if host in ("0.0.0.0", "::") else host
            address = f"http://[{local}]:{port}" if ":" in local else f"http://{local}:{port}"
            if wait_until_healthy(address, child):
                say(address + runs_page(address))
                child.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            stop_server(child)
        log.seek(0)
        reason = last_error_line(log.read().decode(errors="replace"))
        raise UserError(f"MLflow's server ended: {reason}", exit_code=1)


def last_error_line(log: str) -> str:
    """The last line that names an error, or else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["no reason given"]
    return next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception):", line)), lines[-1])


def wait_until_healthy(address: str, child: subprocess.Popen[bytes]) -> bool:
    """Whether the server answers; False if it ended, or after two minutes."""
    deadline = time.monotonic() + SECONDS_TO_START
    while child.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, HTTPException), open_local_url(f"{address}/health"):
            return True
        time.sleep(0.2)
    return False


def runs_page(address: str) -> str:
    """The page of the runs that were made last: MLflow's first page is about other things than training."""
    query = json.dumps({"max_results": 1, "order_by": ["last_update_time DESC"]}).encode()
    url = f"{address}/api/2.0/mlflow/experiments/search"
    request = urllib.request.Request(url, query, {"Content-Type": "application/json"})
    try:
        with open_local_url(request) as answer:
            return f"/#/experiments/{json.load(answer)['experiments'][0]['experiment_id']}/runs"
    except (OSError, HTTPException, ValueError, LookupError):
        return ""


def stop_server(child: subprocess.Popen[bytes]) -> None:
    """End the server with the processes that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(10)
