"""Clusters on this machine for the drills; ``pytest -m drill tests/cluster`` runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.isolated_cluster import PROJECT

SCRIPTS = {"shared": PROJECT / "cluster/local.py", "isolated": PROJECT / "tests/helpers/isolated_cluster.py"}


@pytest.fixture
def drill(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """The verbs of a cluster in ``tmp_path``, which is ended after the test; ``isolated`` by parameter."""
    script = SCRIPTS[getattr(request, "param", "shared")]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}

    def call(verb: str, *argv: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, str(script), verb, "--state", str(tmp_path), *map(str, argv)]
        return subprocess.run(words, env=env, capture_output=True, text=True, timeout=900)

    yield call
    done = call("down")
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
