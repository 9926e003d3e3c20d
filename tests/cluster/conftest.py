"""Clusters on this machine for the drills; ``pytest -m drill tests/cluster`` runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.isolated_cluster import PROJECT

SCRIPTS = {"shared": PROJECT / "cluster/local.py", "isolated": PROJECT / "tests/helpers/isolated_cluster.py"}


class Drill:
    """The verbs of a cluster.

    Args:
        script: that has them.
        state: folder of the cluster.
    """

    def __init__(self, script: Path, state: Path) -> None:
        self.script, self.state = script, state
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}

    def __call__(self, verb: str, *argv: object) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end."""
        words = self.words(verb, *argv)
        return subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=900)

    def start(self, *command: object) -> subprocess.Popen[str]:
        """Start a command on the head's side; MLflow is the storage's."""
        words = self.words("run", "--", "env", "-u", "MLFLOW_TRACKING_URI", *command)
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(words, env=self.env, text=True, **pipes)

    def words(self, verb: str, *argv: object) -> list[str]:
        return [sys.executable, str(self.script), verb, "--state", str(self.state), *map(str, argv)]


@pytest.fixture
def drill(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Drill]:
    """A cluster in ``tmp_path``, which is ended after the test; ``isolated`` by parameter."""
    made = Drill(SCRIPTS[getattr(request, "param", "shared")], tmp_path)
    yield made
    done = made("down")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def namespaces() -> None:
    """Skip where isolated nodes cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("network and mount namespaces need root")
    if shutil.which("ip") is None:
        pytest.skip("needs the command ip (iproute2)")
    if subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let root make namespaces")
