"""Pictures that two splits have in common, found by the sizes and bytes of their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mipnet.data.image_index import ImageIndex, read_uri
from mipnet.data.shared_pictures import file_sizes, shared_pictures, shared_pictures_lines
from mipnet.storage import byte_range_name


def split_of(root: Path, contents: dict[str, bytes]) -> ImageIndex:
    root.mkdir(exist_ok=True)
    for name, content in contents.items():
        (root / name).write_bytes(content)
    return ImageIndex(np.array([str(root / name) for name in contents]), np.arange(len(contents)))


def test_equal_bytes_under_any_name_are_found_and_only_candidates_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = split_of(tmp_path / "train", {"a": b"12345", "b": b"123", "c": b"54321", "d": b"1"})
    val = split_of(tmp_path / "val", {"x": b"54321", "y": b"1234567", "z": b"99999", "again": b"54321"})
    read: list[str] = []
    monkeypatch.setattr(
        "mipnet.data.shared_pictures.read_uri", lambda uri: read.append(Path(uri).name) or read_uri(uri)
    )
    found = shared_pictures({"train": train, "val": val, "none": ImageIndex(np.array([]), np.array([]))})
    root = tmp_path
    pairs = [(f"{root}/train/c", f"{root}/val/x"), (f"{root}/train/c", f"{root}/val/again")]
    assert found == {("train", "val"): pairs}
    assert sorted(read) == ["a", "again", "c", "x", "z"]  # those of 5 bytes
    (line,) = shared_pictures_lines(found, str(root))
    assert line.startswith("the same picture in train and in val: 2 (train/c = val/x, train/c = val/again); ")


def test_one_file_in_three_splits_is_in_each_pair_of_them(tmp_path: Path) -> None:
    images = split_of(tmp_path, {"a": b"1", "b": b"22"})
    first = ImageIndex(images.uris[:1], images.ids[:1])
    found = shared_pictures({"train": images, "val": first, "test": images})
    assert {pair: len(names) for pair, names in found.items()} == {
        ("train", "val"): 1,
        ("train", "test"): 2,
        ("val", "test"): 1,
    }


def test_missing_and_empty_files_are_nobodys_copy(tmp_path: Path) -> None:
    train, val = (split_of(tmp_path / name, {"a": b"", "b": b"1"}) for name in ("train", "val"))
    (tmp_path / "val" / "b").unlink()
    assert file_sizes(val.uris).tolist() == [0, -1]
    assert shared_pictures({"train": train, "val": val}) == {}


def test_packed_pictures_are_compared_by_their_byte_ranges(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "shard.parquet").write_bytes(b"PAR1abcdefPAR1")
    uris = [f"{tmp_path}/train/{byte_range_name('shard.parquet', begin, 3)}" for begin in (4, 7)]
    packed = ImageIndex(np.array(uris), np.arange(2))
    val = split_of(tmp_path / "val", {"x": b"def", "y": b"xyz"})
    assert file_sizes(packed.uris).tolist() == [3, 3]
    assert shared_pictures({"train": packed, "val": val}) == {
        ("train", "val"): [(uris[1], f"{tmp_path}/val/x")]
    }
