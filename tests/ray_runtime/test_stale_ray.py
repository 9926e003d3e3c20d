"""A Ray that somebody left running on the machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.commands import clean_environment, command
from tests.helpers.drills import descendants


@pytest.mark.ray
@pytest.mark.slow
def test_a_ray_that_somebody_left_running_is_not_joined(tmp_path: Path) -> None:
    """It has no CPUs: a command that joined it would never end."""
    start = ["start", "--head", "--port=0", "--num-cpus=0", "--include-dashboard=false", "--block"]
    ray_command = str(Path(sys.executable).with_name("ray"))
    stale = subprocess.Popen(
        [ray_command, *start],
        env=clean_environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert stale.stdout is not None
        said = []
        for line in stale.stdout:
            said.append(line)
            if "Ray runtime started" in line:
                break
        joined = Path("/tmp/ray/ray_current_cluster")  # what Ray would join by itself
        deadline = time.monotonic() + 60
        while not joined.exists():  # written after it has said that it runs
            assert stale.poll() is None, "".join(said)
            assert time.monotonic() < deadline, "Ray has not said where it runs"
            time.sleep(0.05)
        argv = ["data", "generate", "--preset", "debug", "--scenes.easy", "0", "--scenes.hard", "0"]
        done = command(*argv, "--scenes.validation", "1", "--storage", str(tmp_path / "storage"))
        assert done.returncode == 0, done.stderr
    finally:
        for pid in [*descendants(stale.pid), stale.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        stale.wait()
