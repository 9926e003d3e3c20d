"""JSON files, and what is said of one that cannot be read."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Callable, Iterator
from typing import Any

from mipnet.errors import DataError, first_line, reason_of
from mipnet.storage import Folder

COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"(\xb5/\xfd": "zstd",
}
"""How compressed files begin."""


class CompressedError(ValueError):
    """A file is compressed."""


def read_json(folder: Folder, name: str, hint: str = "check --data (data.root)") -> Any:
    """The content of a JSON file.

    Args:
        folder: where the file is.
        name: its name in the folder.
        hint: what to do if it does not exist.

    Raises:
        DataError: the file is missing or broken; the message has its path.
    """
    with reading_errors(folder.path(name), hint):
        return parse_json(folder.read(name))


def parse_json(content: bytes, object_hook: Callable[[Any], Any] | None = None) -> Any:
    """The value of a JSON file with this content, without ever holding the content, text and value at once.

    Raises:
        ValueError: it is not JSON.
    """
    for magic, program in COMPRESSED.items():
        if content.startswith(magic):
            raise CompressedError(f"compressed by {program}")
    text = content.decode(json.detect_encoding(content), "surrogatepass")
    del content
    return json.loads(text, object_hook=object_hook)


@contextlib.contextmanager
def reading_errors(where: str, hint: str = "check --data (data.root)") -> Iterator[None]:
    """Raise what reading a missing or broken JSON file raises as ``DataError``."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{where} does not exist", hint) from None
    except OSError as error:
        raise DataError(f"cannot read {where} ({reason_of(error)})", "check its permissions") from None
    except CompressedError as error:
        raise DataError(f"{where} is not JSON ({error})", "unpack it") from None
    except (ValueError, RecursionError) as error:  # also of numbers of thousands of digits, and deep nesting
        raise DataError(f"{where} is not JSON ({first_line(error)})", "download or export it again") from None


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """While millions of objects are made that all stay, looking for garbage takes a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def without_segmentation(entry: dict[str, Any]) -> dict[str, Any]:
    """An object of JSON without the polygons that fill most of COCO's files."""
    entry.pop("segmentation", None)
    return entry
