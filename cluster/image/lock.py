"""Writes ``requirements.txt`` beside this file: the image's exact versions, within pyproject.toml's ranges.

Run it on Linux with the image's Python whenever the dependencies change; nothing is installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
CLOUDS = ("boto3", "google-api-python-client")
"""What Ray's autoscaler needs on the head to start machines on AWS and GCP."""


def resolve() -> dict[str, str]:
    """Version by package name, as pip would install them."""
    dependencies = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        # From PyPI itself: a mirror in pip's settings might prefer a torch without CUDA.
        pip = [sys.executable, "-m", "pip", "--isolated", "install", "--index-url=https://pypi.org/simple"]
        plan = ["--dry-run", "--ignore-installed", "--only-binary=:all:", f"--report={report.name}"]
        subprocess.run([*pip, "--quiet", *plan, *dependencies, *CLOUDS], check=True)
        found = [entry["metadata"] for entry in json.load(report)["install"]]
    return {package["name"].lower().replace("_", "-"): package["version"] for package in found}


def main() -> None:
    versions = resolve()
    lines = [f"{name}=={version}" for name, version in sorted(versions.items())]
    head = "# Written by lock.py for Linux on x86-64; change pyproject.toml and run that again.\n"
    (HERE / "requirements.txt").write_text(head + "\n".join(lines) + "\n")
    print(f"{len(lines)} packages")


if __name__ == "__main__":
    main()
