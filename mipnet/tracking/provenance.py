"""Provenance of a run as tags of its MLflow run: code, packages, command, user and machines."""

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

COMMIT_ENV_VAR = "MIPNET_SOURCE_COMMIT"
"""Environment variable with the git commit, for copies of the code without git history (submitted jobs)."""
RECORDED_PACKAGES = ("mipnet", "torch", "ray", "mlflow", "numpy", "opencv", "pycocotools")
"""Names in tags; of ``DISTRIBUTIONS`` where that of the distribution differs."""
DISTRIBUTIONS = {"opencv": "opencv-python-headless"}


def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages of ``RECORDED_PACKAGES``."""
    found = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(DISTRIBUTIONS.get(name, name))
    return found


def source_tags(command: str, argv: Sequence[str]) -> dict[str, str]:
    """Tags with versions, code, command line and user; MLflow's pages show those with ``mlflow.`` specially.

    Args:
        command: e.g. "train".
        argv: the arguments after it.
    """
    line = shlex.join(["mipnet", *command.split(), *argv])
    tags = {
        **{f"version.{name}": number for name, number in package_versions().items()},
        "command": re.sub(r"://[^/@\s]+@", "://", line),  # drop passwords of URIs
        "mlflow.source.name": f"mipnet {command}",
        "mlflow.source.type": "JOB" if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else "LOCAL",
    }
    more = {"mlflow.user": user_name(), "mlflow.source.git.commit": source_commit()}
    return tags | {name: value for name, value in more.items() if value}


def user_name() -> str:
    """Of this process's user; "" if there is none, as in a container."""
    with contextlib.suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return ""


def source_commit() -> str:
    """Commit of this package's checkout, else of the current folder's, else ``COMMIT_ENV_VAR``, else ""."""
    package = Path(__file__).parents[1]
    # Only if git tracks the file: a virtual environment inside another checkout is not that checkout's code.
    if _git(package, "ls-files", "__init__.py"):
        return git_commit(package)
    return git_commit(Path.cwd()) or os.environ.get(COMMIT_ENV_VAR, "")


def git_commit(folder: Path) -> str:
    """HEAD of the folder's checkout, with "-dirty" if tracked files differ from it; "" if there is none."""
    commit = _git(folder, "rev-parse", "HEAD")
    changed = commit and _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *words: str) -> str:
    """Output of a git command; "" if there is no git, no checkout or no permission."""
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
        nodes: as from ``ray.nodes()``.
        cores: of this machine; a limit if it is the only node, whose number of CPUs in Ray may be a setting.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    count = {kind: round(sum(node.get(kind, 0) for node in alive)) for kind in ("CPU", "GPU")}
    if len(alive) == 1:
        count["CPU"] = min(count["CPU"], cores)
    kinds = {name for node in alive for name in node if name.startswith("accelerator_type:")}
    models = ", ".join(sorted(name.partition(":")[2] for name in kinds))
    counts = f"{_many(len(alive), 'node')}, {_many(count['CPU'], 'CPU')}, {_many(count['GPU'], 'GPU')}"
    return f"{counts} ({models})" if models else counts


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("" if count == 1 else "s")
