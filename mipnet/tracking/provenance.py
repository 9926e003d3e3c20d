"""Where a run comes from: code, packages, command, person and machines, as tags of its MLflow run."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

COMMIT = "MIPNET_SOURCE_COMMIT"
"""Environment variable that tells it where the code is a copy without its history, as in a submitted job."""
PACKAGES = {
    "mipnet": "mipnet",
    "torch": "torch",
    "ray": "ray",
    "mlflow": "mlflow",
    "numpy": "numpy",
    "opencv": "opencv-python-headless",
    "pycocotools": "pycocotools",
}
"""The name that people use -> the name of the distribution."""


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on, those that are installed."""
    found = {"python": platform.python_version()}
    for name, distribution in PACKAGES.items():
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(distribution)
    return found


def source_tags(command: str, argv: Sequence[str]) -> dict[str, str]:
    """Tags for versions, code, command line and person; those with ``mlflow.`` have a place of their own
    in MLflow's pages.

    Args:
        command: its words, e.g. "train".
        argv: the words after it.
    """
    line = shlex.join(["mipnet", *command.split(), *argv])
    tags = {
        **{f"version.{name}": number for name, number in versions().items()},
        "command": re.sub(r"://[^/@\s]+@", "://", line),  # no password goes into a record
        "mlflow.source.name": f"mipnet {command}",
        "mlflow.source.type": "JOB" if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else "LOCAL",
    }
    with contextlib.suppress(OSError, KeyError, ImportError):  # a container may have no name for its user
        tags["mlflow.user"] = getpass.getuser()
    commit = source_commit()
    if commit:
        tags["mlflow.source.git.commit"] = commit
    return tags


def source_commit() -> str:
    """The commit of the checkout that this package is run from, else of the current folder's, else what
    ``COMMIT`` tells; "" if nobody does."""
    package = Path(__file__).parents[1]
    # An environment inside somebody's checkout is not that checkout's code: git must know the file.
    if _git(package, "ls-files", "__init__.py"):
        return git_commit(package)
    return git_commit(Path.cwd()) or os.environ.get(COMMIT, "")


def git_commit(folder: Path) -> str:
    """HEAD of the folder's checkout, with "-dirty" if tracked files differ from it; "" if there is none."""
    commit = _git(folder, "rev-parse", "HEAD")
    changed = commit and _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *words: str) -> str:
    """What git prints; "" where there is no git, no checkout or no permission."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def cluster_summary(nodes: Sequence[Mapping[str, Any]], cores: int) -> str:
    """E.g. "3 nodes, 196 CPUs, 16 GPUs (H100)".

    Args:
        nodes: as ``ray.nodes()`` tells them.
        cores: of this machine: where it is the only node, Ray may have been told of more than there are.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    count = {kind: round(sum(node.get(kind, 0) for node in alive)) for kind in ("CPU", "GPU")}
    if len(alive) == 1:
        count["CPU"] = min(count["CPU"], cores)
    models = sorted(
        {name.partition(":")[2] for node in alive for name in node if name.startswith("accelerator_type:")}
    )
    return f"{_many(len(alive), 'node')}, {_many(count['CPU'], 'CPU')}, {_many(count['GPU'], 'GPU')}" + (
        f" ({', '.join(models)})" if models else ""
    )


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("" if count == 1 else "s")
