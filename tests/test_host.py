"""How many cores and how much memory a process may use."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from mipnet.cli.main import exit_status
from mipnet.data.image_index import ImageIndex
from mipnet.data.image_inspection import read_columns
from mipnet.host import Termination, cores, has_compiler, interruption_status, memory
from mipnet.storage import Folder
from mipnet.tracking.store import warn_of_tracking_store


def quota(folder: Path, version: int, cores: str) -> Path:
    """A control group with a quota of so many cores; "" is none."""
    micro = str(int(float(cores) * 100_000)) if cores else ("max" if version == 2 else "-1")
    if version == 2:
        (folder / "cpu.max").write_text(f"{micro} 100000\n")
    else:
        (folder / "cpu").mkdir()
        (folder / "cpu" / "cpu.cfs_quota_us").write_text(f"{micro}\n")
        (folder / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    return folder


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("limit", "expected"), [("", 8), ("4", 4), ("2.5", 3), ("0.2", 1), ("64", 8)])
def test_a_containers_quota_limits_the_cores(eight_cores, tmp_path, version, limit, expected):
    assert cores(quota(tmp_path, version, limit)) == expected


@pytest.mark.parametrize("content", ["", "nonsense", "100000", "1 0", "a b"])
def test_a_quota_of_another_kind_is_none(eight_cores, tmp_path, content):
    (tmp_path / "cpu.max").write_text(content)
    assert cores(tmp_path) == 8


def test_without_control_groups_the_affinity_counts(eight_cores, tmp_path):
    assert cores(tmp_path / "missing") == 8


@pytest.mark.parametrize(
    ("name", "limit", "expected"),
    [
        ("memory.max", "max", 500),
        ("memory.max", "300", 300),
        ("memory.max", "900", 500),
        ("memory/memory.limit_in_bytes", "300", 300),
        ("memory/memory.limit_in_bytes", "9223372036854771712", 500),
        ("other", "300", 500),
    ],
)
def test_a_containers_limit_limits_the_memory(tmp_path, monkeypatch, name, limit, expected):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=500))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(f"{limit}\n")
    assert memory(tmp_path) == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_pinned_process_has_fewer():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("uri", "kind", "said"),
    [
        ("", "ext4", ""),
        ("", "nfs4", "SQLite file is on nfs4, where processes can damage it"),
        ("", "fuse.s3fs", "SQLite file is on fuse.s3fs"),
        ("s3://bucket/mipnet", "ext4", "are on this machine only"),
    ],
)
def test_a_store_of_records_that_is_not_safe_is_said(uri, kind, said, tmp_path, monkeypatch, capsys):
    mounts = [
        SimpleNamespace(mountpoint="/", fstype="ext4"),
        SimpleNamespace(mountpoint=tmp_path, fstype=kind),
    ]
    for mount in mounts:
        mount.mountpoint = str(mount.mountpoint)
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    storage = Folder.of(uri or tmp_path / "storage")
    warn_of_tracking_store(storage)
    found = capsys.readouterr().out
    assert said in found
    assert len(found.splitlines()) == bool(said)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    warn_of_tracking_store(storage)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_exit_status_tells_how_a_command_was_stopped(number, status, capsys):
    handlers = {
        signal.SIGTERM: Termination(),
        signal.SIGINT: signal.default_int_handler,
    }  # xdist ignores SIGINT
    before = {each: signal.signal(each, handler) for each, handler in handlers.items()}
    try:
        assert exit_status("mipnet", lambda argv: signal.raise_signal(number), []) == status
        assert "interrupted; the same command goes on" in capsys.readouterr().err
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert interruption_status() == 130


def test_a_system_without_affinities_has_cores(tmp_path, monkeypatch):
    """As macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores(tmp_path) == os.cpu_count()
    found = read_columns(ImageIndex(np.array([str(tmp_path / "none.jpg")]), np.array([1])))
    assert not found["size"].any()


@pytest.mark.parametrize(("device", "name", "variable"), [("cpu", "g++", "CXX"), ("cuda", "gcc", "CC")])
def test_compilers_are_found_by_name_and_by_variable(
    device: str, name: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(variable, raising=False)
    assert not has_compiler(device)
    for file in (name, "mine"):
        (tmp_path / file).touch(mode=0o755)
    assert has_compiler(device)
    (tmp_path / name).unlink()
    assert not has_compiler(device)
    monkeypatch.setenv(variable, "mine")
    assert has_compiler(device)
