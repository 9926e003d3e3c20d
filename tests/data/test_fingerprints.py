"""Files are told apart by size and time first, then by content."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mipnet.data import fingerprints
from mipnet.data.fingerprints import changed_files, file_of, from_table, take_fingerprints, to_table

YEAR_2020 = 1_577_836_800


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Three files of 2020, and one that is missing."""
    (tmp_path / "train").mkdir()
    named = {f"train/{name}.jpg": str(tmp_path / "train" / f"{name}.jpg") for name in "abcd"}
    for name, path in list(named.items())[:3]:
        Path(path).write_bytes(name.encode() * 9)
        os.utime(path, (YEAR_2020, YEAR_2020))
    return named


def rewritten(content: bytes, time: int | None = YEAR_2020 + 5) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_bytes(content)
        if time:
            os.utime(path, (time, time))

    return change


SAME, OTHER, LONGER = b"train/b.jpg" * 9, b"train/B.jpg" * 9, b"train/b.jpg" * 10
CHANGES: dict[str, tuple[Callable[[Path], None], bool]] = {
    "touched": (lambda path: os.utime(path), False),
    "set back in time": (lambda path: os.utime(path, (1, 1)), False),
    "written again": (rewritten(SAME, None), False),
    "other content of the same size": (rewritten(OTHER), True),
    "other content of the same size, older": (rewritten(OTHER, YEAR_2020 - 5), True),
    "longer, of the same time": (rewritten(LONGER, YEAR_2020), True),
    "emptied": (rewritten(b""), True),
    "gone": (lambda path: path.unlink(), True),
    "another content with the same size and time, which is out of reach": (
        rewritten(OTHER, YEAR_2020),
        False,
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_has_changed_when_its_content_has(files: dict[str, str], change: str) -> None:
    before = from_table(to_table(take_fingerprints(files)))
    alter, changed = CHANGES[change]
    alter(Path(files["train/b.jpg"]))
    assert changed_files(before, files) == ["train/b.jpg"] * changed


def test_a_file_that_came_has_changed(files: dict[str, str]) -> None:
    before = take_fingerprints(files)
    Path(files["train/d.jpg"]).write_bytes(b"d")
    assert changed_files(before, files) == ["train/d.jpg"]


def test_copies_elsewhere_are_the_same_files(files: dict[str, str], tmp_path: Path) -> None:
    before = take_fingerprints(files)
    for name, path in list(files.items())[:3]:
        (tmp_path / "moved" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, tmp_path / "moved" / name)
    assert changed_files(before, {name: str(tmp_path / "moved" / name) for name in files}) == []


def test_a_file_of_this_moment_may_change_without_another_time(files: dict[str, str]) -> None:
    path = Path(files["train/a.jpg"])
    path.write_bytes(b"new")
    before, time = take_fingerprints(files), path.stat().st_mtime_ns
    path.write_bytes(b"wen")
    os.utime(path, ns=(time, time))
    assert changed_files(before, files) == ["train/a.jpg"]


def test_content_is_read_of_evenly_spread_files_where_they_are_large(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "DIGESTED_BYTES", 150)  # of 297
    prints = take_fingerprints(files, digested={"train/b.jpg"})
    assert [bool(prints[name].sha256) for name in files] == [True, True, False, False]
    prints = take_fingerprints(files)
    assert [bool(prints[name].sha256) for name in files] == [True, False, True, False]


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("/a/b.jpg", "/a/b.jpg"),
        ("/a/t.parquet#row=3", "/a/t.parquet"),
        ("s3://a/shard-00000.parquet#9+12", "s3://a/shard-00000.parquet"),
    ],
)
def test_the_file_of_an_image(uri: str, file: str) -> None:
    assert file_of(uri) == file
