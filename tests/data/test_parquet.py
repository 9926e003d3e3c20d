"""Pictures that are rows of Parquet tables."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mipnet.data.image_index import read_uri
from mipnet.data.parquet import row_names, row_uris
from mipnet.errors import DataError, UserError
from mipnet.experiment.prediction import find_pictures

PICTURES = [f"picture {i}".encode() for i in range(12)]


def write(path: Path, columns: dict[str, object]) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=5)
    return str(path)


def test_every_row_is_a_picture_in_plain_and_nested_columns(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(12)]
    plain = write(tmp_path / "a.parquet", {"file_name": names, "image": PICTURES})
    nested = write(tmp_path / "b.parquet", {"image": [{"bytes": p, "path": ""} for p in PICTURES]})
    for table in (plain, nested):
        assert [read_uri(uri) for uri in row_uris(table)] == PICTURES
    assert row_names(plain) == names
    assert row_names(nested) is None
    with pytest.raises(FileNotFoundError):
        read_uri(f"{plain}#row=12")


def test_an_empty_cell_is_no_picture(tmp_path: Path) -> None:
    table = write(tmp_path / "a.parquet", {"bytes": [b"one", None]})
    first, second = row_uris(table)
    assert read_uri(first) == b"one"
    with pytest.raises(FileNotFoundError):
        read_uri(second)


def test_tables_without_pictures_and_no_tables(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column of pictures; name a binary column image or bytes"):
        row_uris(write(tmp_path / "a.parquet", {"image": ["text"]}))
    (tmp_path / "b.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match="is not a Parquet table"):
        row_uris(str(tmp_path / "b.parquet"))


def test_what_predict_finds(tmp_path: Path) -> None:
    (tmp_path / "p" / "deep").mkdir(parents=True)
    for name in ("2.jpg", "10.PNG", "deep/3.jpeg", "notes.txt"):
        (tmp_path / "p" / name).write_bytes(b"")
    table = write(tmp_path / "t.parquet", {"image": PICTURES, "name": [f"{20 + i}.jpg" for i in range(12)]})
    found = find_pictures([str(tmp_path / "p"), table, str(tmp_path / "p" / "2.jpg")])
    assert found.uris[:3] == [str(tmp_path / "p" / n) for n in ("10.PNG", "2.jpg", "deep/3.jpeg")]
    assert found.uris[3:] == [f"{table}#row={i}" for i in range(12)]  # by number, not by spelling
    assert found.names == ["10.PNG", "2.jpg", "deep/3.jpeg", *(f"{20 + i}.jpg" for i in range(12))]
    assert found.ids == [10, 2, 3, *range(20, 32)]
    twice = find_pictures([str(tmp_path / "p" / "2.jpg"), table, str(tmp_path / "p" / "deep")])
    assert len(twice.uris) == 14
    with pytest.raises(UserError, match="does not exist"):
        find_pictures([str(tmp_path / "p" / "notes.txt").removesuffix("notes.txt") + "none"])


def test_a_folder_of_tables_has_their_rows_unless_it_has_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hf" / "deep").mkdir(parents=True)
    tables = [write(tmp_path / "hf" / name, {"image": PICTURES}) for name in ("b.parquet", "deep/A.PARQUET")]
    (tmp_path / "hf" / "parts").mkdir()
    for name in ("results.parquet", "parts/000000.parquet"):  # of an earlier prediction
        write(tmp_path / "hf" / name, {"readable": [True]})
    found = find_pictures([str(tmp_path / "hf")], str(tmp_path / "hf"))
    assert found.uris == [f"{table}#row={i}" for table in tables for i in range(12)]
    assert [read_uri(uri) for uri in found.uris] == 2 * PICTURES
    assert capsys.readouterr().out == ""
    (tmp_path / "hf" / "x.jpg").write_bytes(b"")
    assert find_pictures([str(tmp_path / "hf")], str(tmp_path / "hf")).names == ["x.jpg"]
    line = f"2 x Parquet table beside pictures: b.parquet, deep/A.PARQUET; give {tmp_path}/hf/*.parquet"
    assert capsys.readouterr().out == f"left out: {line}\n"
