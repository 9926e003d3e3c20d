"""Files by path and by URI."""

from __future__ import annotations

import os
import pickle
import uuid
from pathlib import Path
from typing import Any

import pytest

from mipnet.errors import DataError, UserError
from mipnet.storage import Folder, default_storage, plain_uri, safe_relative_path


@pytest.fixture(params=["path", "file", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """The same promises for a local path, a file:// URI, and a store that is not a local file system."""
    if request.param == "memory":
        pytest.importorskip("fsspec")
        return Folder.of(f"fsspec+memory://{uuid.uuid4().hex}/storage")
    return Folder.of(f"file://{tmp_path}/storage" if request.param == "file" else tmp_path / "storage")


def test_write_read_list_remove(folder: Folder) -> None:
    assert not folder.exists()
    assert folder.names() == []
    folder.write("b/deep/er.txt", "grün\n")
    folder.write("a.bin", b"\x00\xff")
    assert folder.read("b/deep/er.txt") == "grün\n".encode()
    assert folder.read("a.bin") == b"\x00\xff"
    assert folder.names() == ["a.bin", "b"]
    assert folder.names("b") == ["deep"]
    assert folder.names("nothing") == []
    assert folder.exists()
    assert folder.exists("b")
    assert folder.exists("b/deep/er.txt")
    assert not folder.exists("b/deep/er")
    folder.write("a.bin", b"new and longer")
    assert folder.read("a.bin") == b"new and longer"
    folder.remove("nothing")
    folder.remove("a.bin")
    folder.remove("b")
    assert folder.names() == []


def test_no_part_of_a_file_is_left_behind(folder: Folder) -> None:
    for i in range(3):
        folder.write("x/state.json", str(i))
    assert folder.names("x") == ["state.json"]


def test_reading_what_is_not_there(folder: Folder) -> None:
    folder.write("there", "x")
    for name in ("gone", "gone/deeper"):
        with pytest.raises(FileNotFoundError):
            folder.read(name)


def test_join_and_path(folder: Folder) -> None:
    inner = folder.join("runs/one")
    inner.write("config.yaml", "x")
    assert folder.read("runs/one/config.yaml") == b"x"
    assert inner.path("config.yaml") == folder.uri + "/runs/one/config.yaml"
    assert pickle.loads(pickle.dumps(inner)) == inner


def test_upload_and_download(folder: Folder, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "one.bin").write_bytes(b"1")
    (source / "sub" / "two.bin").write_bytes(b"22")
    folder.upload(source, "model")
    assert folder.names("model") == ["one.bin", "sub"]
    local = folder.join("model").download(tmp_path / "copy")
    assert (local / "one.bin").read_bytes() == b"1"
    assert (local / "sub" / "two.bin").read_bytes() == b"22"
    assert folder.is_local == (local != tmp_path / "copy")  # local folders are not copied
    folder.upload(source)
    assert folder.names() == ["model", "one.bin", "sub"]


LEAVING = ["../x", "a/../../x", "..", "/etc/passwd", "a\\..\\..\\x", "\\x", "s3://b/x", "a/s3://b", "x\0y"]


@pytest.mark.parametrize("name", LEAVING)
def test_names_cannot_leave_the_folder(name: str, tmp_path: Path) -> None:
    folder = Folder.of(tmp_path / "storage")
    with pytest.raises(DataError, match="leads out of its folder"):
        safe_relative_path(name, "root")
    for act in (
        folder.read,
        folder.exists,
        folder.names,
        folder.remove,
        folder.join,
        folder.path,
        lambda n: folder.write(n, "x"),
        lambda n: folder.upload(tmp_path, n + "/"),
    ):
        (tmp_path / "file").write_text("so that upload has one")
        with pytest.raises(DataError, match="leads out of its folder"):
            act(name)
    assert not (tmp_path / "x").exists()


def test_a_name_sets_no_parameters_of_a_uri() -> None:
    """Or an annotation file would choose the server that gets our signed requests."""
    name = "a.jpg?endpoint_override=example.com&scheme=http"
    for uri in ("s3://bucket/images?region=r", "s3://bucket", "gs://bucket"):
        for act in (Folder.of(uri).path, Folder.of(uri).join):
            with pytest.raises(
                DataError, match=r"has a '\?', behind which \w+://[\w/]+ would take parameters"
            ):
                act(name)
    assert safe_relative_path("why?.jpg", "/local/images") == "why?.jpg"


@pytest.mark.parametrize(
    ("uri", "plain"),
    [
        ("/a?b/c", "/a?b/c"),
        ("s3://key:secret@bucket/a@b/c?region=r", "s3://bucket/a@b/c"),
        ("s3://bucket/t.parquet?region=r#row=3", "s3://bucket/t.parquet#row=3"),
        ("s3://bucket/t.parquet#row=3", "s3://bucket/t.parquet#row=3"),
    ],
)
def test_a_plain_uri_tells_no_secret(uri: str, plain: str) -> None:
    assert plain_uri(uri) == plain


def test_names_inside_are_normalised() -> None:
    assert safe_relative_path("a/./b//c", "") == "a/b/c"
    assert safe_relative_path("a/../b", "") == "b"
    assert safe_relative_path("a\\b", "") == "a/b"
    assert safe_relative_path("..a/b..c", "") == "..a/b..c"


def test_where_a_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Folder.of("here").uri == str(tmp_path / "here")
    assert Folder.of("~/x").uri == str(Path("~/x").expanduser())
    assert Folder.of("/").uri == "/"
    assert Folder.of("s3://bucket/prefix/").uri == "s3://bucket/prefix"
    assert Folder.of("s3://bucket/prefix").join("runs").uri == "s3://bucket/prefix/runs"
    assert Folder.of(f"file://{tmp_path}").local_path == tmp_path
    assert not Folder.of("gs://bucket").is_local
    with pytest.raises(UserError, match="s3://bucket is not a local folder"):
        _ = Folder.of("s3://bucket").local_path


def test_an_unknown_kind_of_storage_is_named() -> None:
    with pytest.raises(UserError, match="gopher://x: no such kind of storage") as caught:
        Folder.of("gopher://x/y").exists("z")
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot write .*choose another place with --storage"):
        Folder.of(tmp_path / "file").write("config.yaml", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        Folder.of(tmp_path).write("folder", "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]  # no .part


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_user_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write"):
        Folder.of(tmp_path).write("x", "y")


def test_a_full_disk_is_a_user_error_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder.of(tmp_path)
    folder.write("x", "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        folder.write("x", "new")
    assert folder.read("x") == b"old"
    assert folder.names() == ["x"]


def test_readers_see_the_old_file_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder.of(tmp_path)
    folder.write("x", "old")
    seen: list[bytes] = []
    replace: Any = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append(folder.read("x")), replace(a, b)))
    folder.write("x", "new")
    assert seen == [b"old"]
    assert folder.read("x") == b"new"


def test_the_default_storage_is_in_the_users_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_storage().is_local
    assert default_storage().local_path.name == "mipnet"
