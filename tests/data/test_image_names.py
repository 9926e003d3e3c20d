"""File names as tools and other machines write them, and which files of a folder are pictures."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from mipnet.data.image_names import match_names, pictures_among
from mipnet.data.validation import Findings
from mipnet.errors import DataError
from mipnet.storage import Folder

NFC, NFD = (unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD"))


def matched(root: Path, *names: str, packed: tuple[str, ...] = ()) -> tuple[list[str], Findings]:
    found = Findings()
    paths = match_names(names, Folder.of(root), packed, found)
    return [paths[name] for name in names], found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.jpg", "day/1.jpg", "night/1.jpg", "night/B.JPG", "day/x y.jpg", NFD):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"")
    (tmp_path / "secret.jpg").write_bytes(b"")
    return tmp_path / "images"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.jpg", "a.jpg"),
        ("./day//1.jpg", "day/1.jpg"),
        ("day\\1.jpg", "day/1.jpg"),
        ("C:\\data\\set\\a.jpg", "a.jpg"),
        ("C:\\data\\night\\1.jpg", "night/1.jpg"),
        ("\\\\server\\share\\a.jpg", "a.jpg"),
        ("/mnt/x/a.jpg", "a.jpg"),
        ("file:///home/me/day/1.jpg", "day/1.jpg"),
        ("upload/1/a.jpg", "a.jpg"),
        ("/data/local-files/?d=set/day/1.jpg", "day/1.jpg"),
        ("s3://bucket/set/a.jpg", "a.jpg"),
        ("../images/a.jpg", "a.jpg"),
        ("images/day/1.jpg", "day/1.jpg"),
        ("night/b.jpg", "night/B.JPG"),
        ("A.JPG", "a.jpg"),
        ("x%20y.jpg", "day/x y.jpg"),
        (NFC, NFD),
        (NFD, NFD),
        (f"D:\\{NFC.upper()}", NFD),
    ],
)
def test_a_name_finds_its_picture(root: Path, name: str, path: str) -> None:
    paths, found = matched(root, name)
    assert paths == [path]
    assert (root / path).exists()
    plain = name.replace("\\", "/").replace("//", "/").removeprefix("./")
    assert found.total == (plain != path)


@pytest.mark.parametrize(
    "names",
    [
        ["1.jpg"],  # of day or of night?
        ["dusk/B.JPG"],  # not that of night
        ["/mnt/dusk/1.jpg"],
        ["/x/a.jpg", "/y/a.jpg"],  # two pictures of which one is here
        ["a.jpg", "A.JPG"],
        ["C:\\a.jpg", "D:\\a.jpg"],
        ["/etc/passwd"],
        ["s3://bucket/x.jpg"],
        ["/secret.jpg"],
        [""],
    ],
)
def test_a_name_that_may_mean_several_or_none_keeps_a_path_below_the_root(
    root: Path, names: list[str]
) -> None:
    paths, found = matched(root, *names)
    assert not found.total
    assert paths[-1] not in Folder.of(root).files()
    for path in paths:
        assert os.path.normpath(root / path).startswith(str(root))


def test_two_names_of_one_path_are_one_picture(root: Path) -> None:
    paths, found = matched(root, "a.jpg", "/mnt/images/a.jpg", "C:\\mnt\\images\\a.jpg")
    assert paths == ["a.jpg"] * 3
    assert found.total == 2


@pytest.mark.parametrize("name", ["../secret.jpg", "day/../../secret.jpg", "..\\secret.jpg", "../a\0.jpg"])
def test_no_name_leads_out_of_the_root(root: Path, name: str) -> None:
    with pytest.raises(DataError, match="leads out of its folder"):
        matched(root, name)


def test_exact_letter_case_wins(root: Path) -> None:
    (root / "A.jpg").write_bytes(b"")
    assert matched(root, "/x/A.jpg", "/x/a.jpg")[0] == ["A.jpg", "a.jpg"]
    assert matched(root, "/x/a.JPG")[0] == ["x/a.JPG"]


def test_names_in_shards(root: Path) -> None:
    paths, found = matched(root, "D:\\p\\q.jpg", "r.jpg", "a.jpg", packed=("p/q.jpg", "r.jpg"))
    assert paths == ["p/q.jpg", "r.jpg", "a.jpg"]
    assert found.counts.total() == 1


def test_many_folders_and_names_that_are_not_utf_8(root: Path) -> None:
    names = []
    for i in range(40):
        (root / f"f{i}").mkdir()
        (root / f"f{i}/{i}.jpg").write_bytes(b"")
        names.append(f"f{i}/{i}.jpg")
    (root / "f39/z.jpg").write_bytes(b"")
    os.close(os.open(os.fsencode(root) + b"/f0/\xe9.jpg", os.O_CREAT))
    paths, found = matched(root, *names, "f0/\udce9.jpg", "/mnt/z.jpg")
    assert paths == [*names, "f0/udce9.jpg", "f39/z.jpg"]
    assert found.lines()[0].endswith("/mnt/z.jpg = f39/z.jpg")


def test_pictures_of_a_folder(root: Path) -> None:
    used = ["b.TIF", "c.gif", "d.avif", "e.jfif", "f.Jpeg", "g.pgm"]
    other = ["h.heic", "i.HEIC", "j.psd", "day/._a.jpg"]
    for name in (*used, *other, "notes.txt", "labels.json", "nosuffix"):
        (root / name).write_bytes(b"")
    os.close(os.open(os.fsencode(root) + b"/\xe9.jpg", os.O_CREAT))
    names, left_out = pictures_among(Folder.of(root).files())
    assert names == sorted(["a.jpg", "day/1.jpg", "night/1.jpg", "night/B.JPG", "day/x y.jpg", NFD, *used])
    assert sorted(left_out.lines()) == [
        "1 x .psd picture, which cannot be decoded; convert it to JPEG or PNG: j.psd",
        "1 x picture whose name is not UTF-8; rename it: \\udce9.jpg",
        "1 x resource fork of macOS, which is no picture: day/._a.jpg",
        "2 x .heic picture, which cannot be decoded; convert it to JPEG or PNG: h.heic, i.HEIC",
    ]


def test_a_name_out_of_the_root_is_not_the_picture_that_is_listed_by_its_own(root: Path) -> None:
    assert matched(root, "../x/a.jpg")[0] == ["a.jpg"]
    with pytest.raises(DataError, match="leads out of its folder"):
        matched(root, "a.jpg", "../x/a.jpg")


def test_a_name_that_is_no_text_is_a_missing_picture(root: Path) -> None:
    assert matched(root, "\ud800.jpg") == (["ud800.jpg"], Findings())
