"""Parquet tables, in memory and of images: ``TABLE.parquet#row=N`` is the URI of the image in a row.

The image column is ``image``, ``bytes``, ``content`` or ``jpeg``: binary, or a struct with a binary field
``bytes``. Row groups are read as a whole and cached, so reading rows in order reads each group once.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Sequence
from typing import Any

from mipnet.errors import DataError, reason_of
from mipnet.storage import split_uri

ROW_URI = re.compile(r"(.+\.parquet(?:\?[^#]*)?)#row=(\d+)", re.IGNORECASE)
IMAGE_COLUMNS = ("image", "bytes", "content", "jpeg")
NAME_COLUMNS = ("file_name", "name", "path")


def to_parquet(table: Any, **options: Any) -> bytes:
    """The content of a table's Parquet file; ``options`` as for ``pyarrow.parquet.write_table``."""
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def from_parquet(content: bytes, columns: Sequence[str] | None = None) -> Any:
    """The pyarrow table in the content of a Parquet file, with all or some of its columns."""
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(content), columns=columns)


def row_uris(uri: str) -> list[str]:
    """The URIs of all images of a table.

    Raises:
        DataError: not a Parquet table, or one without an image column.
    """
    file = _open(uri)
    image_column(file, uri)
    return [f"{uri}#row={row}" for row in range(file.metadata.num_rows)]


def row_names(uri: str) -> list[str] | None:
    """The names of a table's images; None if it has no name column."""
    file = _open(uri)
    name = next((n for n in NAME_COLUMNS if n in file.schema_arrow.names), None)
    return None if name is None else [str(v) for v in file.read(columns=[name])[name].to_pylist()]


def read_row(uri: str) -> bytes | None:
    """The encoded image of a row's URI; None if ``uri`` is not the URI of a row.

    Raises:
        FileNotFoundError: there is no such row, or it is null.
        DataError: not a Parquet table, or one without an image column.
    """
    found = ROW_URI.fullmatch(uri)
    if not found:
        return None
    row = int(found[2])
    for group, rows in enumerate(_group_rows(found[1])):
        if row < rows:
            cell = _group(found[1], group)[row].as_py()
            if cell is None:
                break
            return bytes(cell)
        row -= rows
    raise FileNotFoundError(f"{uri} holds no picture")


def image_column(file: Any, uri: str) -> str:
    """The path of the image column in Parquet's notation (``image`` or ``image.bytes``).

    Raises:
        DataError: there is none.
    """
    import pyarrow as pa

    for name in IMAGE_COLUMNS:
        index = file.schema_arrow.get_field_index(name)
        if index < 0:
            continue
        kind = file.schema_arrow.field(index).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return name
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return f"{name}.bytes"
    raise DataError(f"{uri} has no column of pictures", f"name a binary column {' or '.join(IMAGE_COLUMNS)}")


@functools.lru_cache(maxsize=4)
def _open(uri: str) -> Any:
    import pyarrow.parquet as pq

    folder, name = split_uri(uri)
    fs, root = folder.filesystem()
    try:
        return pq.ParquetFile(fs.open_input_file(f"{root}/{name}"))
    except FileNotFoundError:
        raise DataError(f"{uri} does not exist", "check the path") from None
    except (OSError, ValueError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error).splitlines()[0]
        raise DataError(f"{uri} is not a Parquet table ({reason})") from None


@functools.lru_cache(maxsize=16)
def _group_rows(uri: str) -> list[int]:
    metadata = _open(uri).metadata
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


@functools.lru_cache(maxsize=2)
def _group(uri: str, group: int) -> Any:
    """The image column of a row group, as a pyarrow array."""
    file = _open(uri)
    column = image_column(file, uri)
    cells = file.read_row_group(group, columns=[column]).column(0).combine_chunks()
    return cells.field("bytes") if column.endswith(".bytes") else cells
