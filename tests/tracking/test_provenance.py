"""Where a run comes from: the right commit, no secrets, and machines as they are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mipnet.tracking import provenance
from mipnet.tracking.provenance import (
    cluster_summary,
    git_commit,
    package_versions,
    source_commit,
    source_tags,
)

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one committed file."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    folder = tmp_path / "checkout"
    (folder / "mipnet" / "tracking").mkdir(parents=True)
    (folder / "mipnet" / "__init__.py").write_text("")
    (folder / "mipnet" / "tracking" / "provenance.py").write_text("")
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)
    return folder


def head(folder: Path) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@needs_git
def test_changes_make_a_commit_dirty_and_stray_files_do_not(checkout: Path) -> None:
    assert git_commit(checkout) == head(checkout)
    (checkout / "notes.txt").write_text("mine")
    assert git_commit(checkout / "mipnet") == head(checkout)
    (checkout / "mipnet" / "__init__.py").write_text("changed = 1\n")
    assert git_commit(checkout) == head(checkout) + "-dirty"


@needs_git
def test_the_packages_own_checkout_comes_before_the_current_folders(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert git_commit(Path.cwd()) == ""
    monkeypatch.setattr(provenance, "__file__", str(checkout / "mipnet" / "tracking" / "provenance.py"))
    assert source_commit() == head(checkout)


@needs_git
def test_an_environment_inside_a_checkout_is_not_its_code(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = checkout / ".venv" / "mipnet"
    (installed / "tracking").mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    monkeypatch.setattr(provenance, "__file__", str(installed / "tracking" / "provenance.py"))
    monkeypatch.chdir(tmp_path)
    assert source_commit() == ""
    monkeypatch.chdir(checkout)  # as a submitted job runs in its working folder
    assert source_commit() == head(checkout)


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source_commit() == ""
    assert "mlflow.source.git.commit" not in source_tags("train", [])


def test_the_command_line_can_be_typed_again_and_tells_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    tags = source_tags("train", ["--storage", "s3://key:secret@bucket/runs", "--name", "a b"])
    assert tags["command"] == "mipnet train --storage s3://bucket/runs --name 'a b'"
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == ("mipnet train", "LOCAL")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert source_tags("train", [])["mlflow.source.type"] == "JOB"


def test_a_user_without_a_name_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(provenance.getpass, "getuser", nobody)
    assert "mlflow.user" not in source_tags("train", [])


def test_versions_of_what_results_depend_on() -> None:
    found = package_versions()
    assert {"python", "mipnet", "torch", "ray", "mlflow", "numpy", "opencv"} <= found.keys()
    assert all(number[0].isdigit() for number in found.values())


def node(alive: bool = True, **resources: float) -> dict[str, object]:
    return {"Alive": alive, "Resources": resources}


def test_the_cluster_in_one_line() -> None:
    h100 = {"accelerator_type:H100": 1.0}
    nodes = [
        node(CPU=4.0),
        node(CPU=96.0, GPU=8.0, **h100),
        node(CPU=96.0, GPU=8.0, **h100),
        node(False, CPU=9.0),
    ]
    assert cluster_summary(nodes, 2) == "3 nodes, 196 CPUs, 16 GPUs (H100)"
    assert cluster_summary([node(CPU=5.0)], 1) == "1 node, 1 CPU, 0 GPUs"  # a local Ray is told of more
    assert cluster_summary([node(CPU=1.0, GPU=1.0)], 64) == "1 node, 1 CPU, 1 GPU"
