"""What Ray Train writes appears whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest

from mipnet.storage import Folder
from mipnet.training.files import storage_options


def file_system(folder: Path) -> Any:
    """As it arrives in another process."""
    options = storage_options(Folder.of(folder))
    assert options["storage_path"] == str(folder)
    return pickle.loads(pickle.dumps(options["storage_filesystem"]))


def write(fs: Any, path: Path, content: bytes) -> None:
    with fs.open_output_stream(str(path)) as stream:
        stream.write(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_are_written_and_replaced(tmp_path: Path) -> None:
    fs = file_system(tmp_path)
    for content in (b"old", b"new and longer", b""):
        write(fs, tmp_path / "record.json", content)
        assert (tmp_path / "record.json").read_bytes() == content
    assert names(tmp_path) == ["record.json"]
    assert fs.get_file_info(str(tmp_path / "gone")).type == pyarrow.fs.FileType.NotFound


def test_a_folder_is_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "a").write_bytes(os.urandom(3_000_000))
    fs = file_system(tmp_path)
    fs.create_dir(str(target))
    pyarrow.fs.copy_files(str(source), str(target), destination_filesystem=fs, chunk_size=1_000_000)
    assert (target / "a").read_bytes() == (source / "a").read_bytes()
    fs.delete_dir(str(target))
    assert not target.exists()


def refuse(*_: object) -> None:
    raise OSError(errno.ENOSPC, "as the system says it")


class Full(io.FileIO):
    def write(self, data: Any) -> int:
        refuse()
        return 0


@pytest.mark.parametrize("when", ["written", "flushed", "replaced"])
def test_a_full_disk_keeps_the_old_file_and_no_part_of_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    fs = file_system(tmp_path)
    write(fs, tmp_path / "record.json", b"old")
    if when == "written":
        monkeypatch.setattr("mipnet.training.files.WholeFile.__bases__", (Full,))
    else:
        monkeypatch.setattr(os, {"flushed": "fsync", "replaced": "replace"}[when], refuse)
    with pytest.raises(OSError, match="No space left|as the system says it") as caught:
        write(fs, tmp_path / "record.json", b"new")
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "record.json").read_bytes() == b"old"
    assert names(tmp_path) == ["record.json"]


def test_object_stores_keep_their_own_file_system() -> None:
    assert storage_options(Folder.of("s3://bucket/runs")) == {"storage_path": "s3://bucket/runs"}
