"""``mipnet ui``: what is said before anything starts, and a real server from start to end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from mipnet.cli import ui
from mipnet.cli.main import run
from mipnet.cli.ui import is_loopback
from mipnet.errors import ConfigError, UserError
from mipnet.ports import require_free_port
from mipnet.storage import Folder
from mipnet.tracking.store import prepare_mlflow
from tests.helpers.servers import free_port


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks as if runs were recorded in it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").touch()
    return tmp_path


def test_a_port_in_use_is_one_line_with_another_port(storage: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as caught:
            run(["ui", "--port", str(port), "--storage", str(storage)])
    said = re.fullmatch(
        rf"port {port} is in use by another program; choose another, e.g. --port (\d+)", str(caught.value)
    )
    assert said
    require_free_port("127.0.0.1", int(said[1]))  # what it proposes can be had


def test_a_foreign_address_is_refused(storage: Path) -> None:
    with pytest.raises(UserError, match=r"--host: 203.0.113.7 is not an address of this machine; leave it"):
        run(["ui", "--host", "203.0.113.7", "--storage", str(storage)])


def test_a_port_that_is_no_number() -> None:
    with pytest.raises(ConfigError, match=r"--port: 'http' is not a whole number"):
        run(["ui", "--port", "http"])


def test_a_storage_without_runs_is_named_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"no runs are recorded in .*nothing; mipnet train records them"):
        run(["ui", "--storage", str(tmp_path / "nothing")])
    assert not (tmp_path / "nothing").exists()


def test_a_server_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    assert run(["ui"]) == 0
    assert capsys.readouterr().out == (
        "MLFLOW_TRACKING_URI names a server, open https://mlflow.example.org\n"
    )


@pytest.mark.parametrize(
    ("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True)]
)
def test_only_what_lets_others_in_is_warned_about(
    host: str,
    warned: bool,
    storage: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert is_loopback(host) is not warned
    monkeypatch.setattr(ui, "require_free_port", lambda *_: None)
    monkeypatch.setattr(ui, "serve", lambda *_: 0)
    assert run(["ui", "--host", host, "--storage", str(storage)]) == 0
    assert ("can read and change all runs" in capsys.readouterr().out) is warned


@pytest.mark.slow
def test_a_server_that_does_not_start_says_why(storage: Path) -> None:
    (storage / "mlflow.db").write_text("this is not a database, and long enough to be seen as none" * 20)
    port = free_port()
    with pytest.raises(UserError, match=r"MLflow's server ended: .*not a database"):
        run(["ui", "--port", str(port), "--storage", str(storage)])


@pytest.mark.slow
def test_the_pages_are_there_until_ctrl_c(storage: Path) -> None:
    (storage / "mlflow.db").unlink()
    prepare_mlflow(Folder.of(storage))
    from mlflow import MlflowClient

    experiment = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}").create_experiment("mine")
    port = free_port()
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    child = subprocess.Popen(
        [sys.executable, "-m", "mipnet", "ui", "--port", str(port), "--storage", str(storage)],
        env={**env, "http_proxy": "http://127.0.0.1:1"},  # nobody there: loopback must not go that way
        cwd=storage,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Whoever runs the tests in the background of a script has Ctrl-C ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert child.stdout is not None
        said = child.stdout.readline()  # comes when the server answers, or ends with the command
        assert said == f"http://127.0.0.1:{port}/#/experiments/{experiment}/runs\n"
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{port}/health", timeout=30) as answer:
            assert (answer.status, answer.read()) == (200, b"OK")
    finally:
        child.send_signal(signal.SIGINT)
        rest, complaints = child.communicate(timeout=60)
    assert (child.returncode, rest, complaints) == (0, "", "")
    assert sorted(p.name for p in storage.iterdir()) == ["mlflow.db"]  # nothing is left lying about
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return
    pytest.fail("the server outlived the command")
