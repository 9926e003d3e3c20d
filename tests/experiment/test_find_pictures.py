"""What ``mipnet predict`` finds in a folder, and what it says of the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mipnet.cli.main import main
from mipnet.data.image_names import PICTURE_SUFFIXES
from mipnet.errors import DataError, UserError
from mipnet.experiment.prediction import check_if_few, find_pictures


def test_what_is_no_picture_to_use_is_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jpg", "b.TIF", "c.JFIF", "d.heic", "e.HEIC", "list.json"):
        (tmp_path / name).write_bytes(b"")
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff.png", os.O_CREAT))
    found = find_pictures([str(tmp_path)])
    assert [Path(uri).name for uri in found.uris] == ["a.jpg", "b.TIF", "c.JFIF"]
    assert capsys.readouterr().out.splitlines() == [
        "left out: 2 x .heic picture, which cannot be decoded; convert it to JPEG or PNG: d.heic, e.HEIC",
        "left out: 1 x picture whose name is not UTF-8; rename it: \\udcff.png",
    ]


def test_only_such_pictures_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d.heic").write_bytes(b"")
    assert main(["predict", str(tmp_path)]) != 0
    said = capsys.readouterr()
    assert "1 x .heic picture, which cannot be decoded; convert it to JPEG or PNG: d.heic" in said.out
    assert f"{tmp_path} holds no pictures; they end in {', '.join(PICTURE_SUFFIXES)}" in said.err


def test_one_such_picture(tmp_path: Path) -> None:
    (tmp_path / "d.heic").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 1 images cannot be read \(.*d.heic\); convert HEIC to JPEG$"):
        check_if_few(find_pictures([str(tmp_path / "d.heic")]), 0.5)
    name = os.fsdecode(b"\xff.png")
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"/\\udcff\.png is not UTF-8; rename it"):
        find_pictures([str(tmp_path / name)])
