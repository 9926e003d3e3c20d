"""``mipnet`` as its users run it: a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WITHOUT = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
"""Variables of the tests' own environment that a command must not see."""


def clean_environment(ray_address: str = "") -> dict[str, str]:
    """The environment for a command: on the Ray at ``ray_address``, or on one of its own if that is empty."""
    env = {name: value for name, value in os.environ.items() if name not in WITHOUT}
    return {**env, "RAY_ADDRESS": ray_address} if ray_address else env


def command(*argv: str, address: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``mipnet ARGV`` to its end, 15 minutes at most.

    Args:
        argv: words of the command line.
        address: of a Ray to join; a command without one starts its own.
        cwd: its working directory.
    """
    words = [sys.executable, "-m", "mipnet", *argv]
    return subprocess.run(
        words, env=clean_environment(address), cwd=cwd, text=True, capture_output=True, timeout=900
    )
