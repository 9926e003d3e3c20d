"""What the drills of records share: a training that is disturbed, and what it has to leave behind."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.helpers.commands import clean_environment
from tests.helpers.servers import free_port, process, responds

MEASURED = ("samples_per_second", "waited_for_data")
"""Metrics of a step whose values differ from run to run."""

SLOW_RAY = "Ray did not start in time"
"""Is said on a busy machine, with the advice to give the command again."""
PROXY_HEADERS = ("connection", "transfer-encoding", "content-length")
"""Of a request's way to a proxy, not beyond."""

GONE, HANG = -1, -2


def only_run(storage: Path) -> Path:
    (run,) = (storage / "runs").iterdir()
    return run


def descendants(pid: int) -> list[int]:
    """All processes below one, from /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = list[int](), [pid]
    while todo:
        todo += children.get(todo.pop(), [])
        found = list(dict.fromkeys([*found, *todo]))
    return found


def kill_all(driver: subprocess.Popen[str]) -> None:
    """SIGKILL to the driver and to all that it started."""
    for pid in [*descendants(driver.pid), driver.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    driver.communicate()


def processes_called(name: str, driver: subprocess.Popen[str]) -> list[int]:
    """The processes below the driver that Ray calls so."""
    found = []
    for pid in descendants(driver.pid):
        with contextlib.suppress(OSError):  # some end while we look
            if name in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(pid)
    return found


def start(argv: list[str], tracking_uri: str = "") -> subprocess.Popen[str]:
    """``mipnet ARGV`` on a Ray of its own."""
    env = clean_environment() | ({"MLFLOW_TRACKING_URI": tracking_uri} if tracking_uri else {})
    env |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}  # a busy machine is no server that hangs
    words = [sys.executable, "-m", "mipnet", *argv]
    return subprocess.Popen(words, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(argv: list[str], tracking_uri: str = "", status: int = 0) -> str:
    """Run ``mipnet ARGV`` to its end, which has this exit status; returns what it said."""
    said = SLOW_RAY
    while SLOW_RAY in said:
        driver = start(argv, tracking_uri)
        said, _ = driver.communicate(timeout=1500)
    assert driver.returncode == status, said
    assert "Traceback" not in said
    return said


def wait_for(driver: subprocess.Popen[str], what: Callable[[], object], seconds: float = 1500) -> None:
    """Wait until something holds while the driver works; so long, because all of a busy machine is slow."""
    deadline = time.monotonic() + seconds
    while not what():
        assert driver.poll() is None, f"the run ended too early: {driver.communicate()[0]}"
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def training_rows(storage: Path) -> list[dict[str, float]]:
    """All rows of training that were ever recorded."""
    lines = [
        line for path in storage.glob("runs/*/records/*-worker-*") for line in path.read_text().splitlines()
    ]
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return [record["row"] for record in records if record["do"] == "training"]


def recorded_steps(storage: Path) -> list[int]:
    """Steps of all rows of training that were ever recorded."""
    return [int(row["step"]) for row in training_rows(storage)]


def mlflow_run(storage: Path) -> str:
    """The id of the MLflow run; "" as long as there is none."""
    states = [json.loads(path.read_text()) for path in storage.glob("runs/*/run.json")]
    return str(states[0].get("mlflow_run", "")) if states else ""


def checkpoints(storage: Path) -> list[Path]:
    """Ray's snapshots: there is one after the first checkpoint."""
    return list(storage.glob("runs/*/training/checkpoint_manager_snapshot.json"))


def mlflow_points(uri: str, run_id: str) -> dict[tuple[str, int], list[float]]:
    """(name, step) -> values in MLflow, without system metrics, which follow the clock, and restarts."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found: dict[tuple[str, int], list[float]] = {}
    for name in client.get_run(run_id).data.metrics:
        if not name.startswith("system/") and name != "learning/restarts":
            for point in client.get_metric_history(run_id, name):
                found.setdefault((name, point.step), []).append(point.value)
    return found


def left_behind(storage: Path, uri: str = "") -> dict[str, Any]:
    """All that a run leaves which no disturbance may change."""
    from mlflow import MlflowClient

    uri = uri or f"sqlite:///{storage / 'mlflow.db'}"
    run = only_run(storage)
    state = json.loads((run / "run.json").read_text())
    client = MlflowClient(uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    (mlflow_run,) = client.search_runs(experiments)
    points = mlflow_points(uri, state["mlflow_run"])
    restarts = [p.step for p in client.get_metric_history(state["mlflow_run"], "learning/restarts")]
    assert len(restarts) == len(set(restarts)) == len(state.get("events", [])) + 1
    return {
        "times sent": Counter({key: len(values) for key, values in points.items()}),
        "values": {k: v[0] for k, v in points.items() if not k[0].endswith(MEASURED)},
        "validations": {row["step"]: row for row in state["validations"]},
        "best": state["trained"]["best"]["step"],
        "weights": {"best": weights_sha256(run / "model"), "last": weights_sha256(last_checkpoint(run))},
        "status": mlflow_run.info.status,
        "finished": (state["finished"], state["owed"]),
        "version": client.get_model_version_by_alias("mipnet", "candidate").run_id == state["mlflow_run"],
    }


def last_checkpoint(run: Path) -> Path:
    return max((run / "training").glob("step-*"))


def weights_sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


class Proxy:
    """Stands before an MLflow server.

    Attributes:
        url: its address.
        answer: called with each path: 0 passes the request on, ``GONE`` ends the connection, ``HANG`` waits
            until it says something else; otherwise it is the HTTP status.
    """

    def __init__(self, target: int) -> None:
        self.answer: Callable[[str], int] = lambda path: 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.read_body()
                while (status := proxy.answer(self.path)) == HANG:
                    time.sleep(0.1)
                self.close_connection = True
                if status == GONE:
                    return
                content, kind = b"{}", "application/json"
                if not status:
                    server = http.client.HTTPConnection("127.0.0.1", target, timeout=120)
                    headers = {k: v for k, v in self.headers.items() if k.lower() not in PROXY_HEADERS}
                    headers["Host"] = f"127.0.0.1:{target}"
                    server.request(self.command, self.path, body, headers)
                    got = server.getresponse()
                    status, content = got.status, got.read()
                    kind = got.headers.get("Content-Type") or kind
                    server.close()
                with contextlib.suppress(ConnectionError):  # nobody waits for it any more
                    self.respond(status, kind, content)

            def read_body(self) -> bytes:
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def respond(self, status: int, kind: str, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def mlflow_server(folder: Path) -> Iterator[Proxy]:
    """``mlflow server`` with its own database and artifacts, behind a proxy."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    env |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    ready = lambda: responds(f"http://127.0.0.1:{port}/health")  # noqa: E731
    with process(command, folder / "server.log", ready, cwd=str(folder), env=env):
        proxy = Proxy(port)
        thread = threading.Thread(target=proxy.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.server.shutdown()
            proxy.server.server_close()
