"""What a JSON value means: ids, numbers and flags as the tools of the field write them.

``"139"``, ``"000000000139"``, ``139.0`` and ``139`` are the same id; ``"0"``, ``false`` and ``null`` are the
flag 0. No value is ever tested with ``if value``.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable
from typing import Any

import numpy as np

LONGEST_ID = 40
"""Digits of an id, characters of one in a message; Python refuses to read numbers of thousands of digits."""
INT64 = np.iinfo(np.int64)
LARGEST_COORDINATE = 1e7
"""px; no picture reaches so far, and float32 still tells a px from the next."""


def whole_number(value: Any) -> int | None:
    """The whole number that an int, a whole float or a string of digits stands for; None for all else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value.is_integer() else None
    if isinstance(value, str):
        digits = value.strip().removeprefix("-")
        if digits.isascii() and digits.isdecimal() and len(digits) <= LONGEST_ID:
            return int(value)
    return None


def number(value: Any) -> float | None:
    """The finite number that a JSON value stands for, text such as ``"0.5"`` included; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def flag(value: Any) -> int | None:
    """0 or 1 as a JSON value states it (absent and null are 0); None for anything that is neither."""
    if value is None or value == "":
        return 0
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return int(value.strip().lower() == "true")
    found = number(value)
    return int(found) if found in (0, 1) else None


def is_plain(values: Any) -> bool:
    """Whether values are a flat list of numbers that can be coordinates, which can stay as it is."""
    if not isinstance(values, list) or not {*map(type, values)} <= {int, float}:
        return False
    try:
        return bool(sum(map(abs, values)) <= LARGEST_COORDINATE)  # False for nan, too
    except OverflowError:  # an integer beyond all floats
        return False


def coordinates(values: Any) -> list[float] | None:
    """The numbers in a flat list, or in a list of lists, as each ``number`` reads it.

    None for anything else, and if one is larger than ``LARGEST_COORDINATE``.
    """
    if is_plain(values):
        return list(values)
    if not isinstance(values, list):
        return None
    found = [number(value) for value in flat(values)]
    known = [plain(value) for value in found if value is not None and abs(value) <= LARGEST_COORDINATE]
    return known if len(known) == len(found) else None


def flat(values: list[Any]) -> list[Any]:
    """A list with the items of the lists in it, e.g. the numbers of triples."""
    return [v for item in values for v in (item if isinstance(item, list) else [item])]


def plain(value: float) -> float | int:
    """A whole float as int."""
    return int(value) if float(value).is_integer() else value


def shown(value: Any) -> str:
    """A JSON value for a message: the beginning, however long and nested it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = LONGEST_ID
    return short.repr(value)


class IdMap:
    """Ids of any JSON type as int64, the same for every spelling of an id.

    Whole numbers that fit into int64 are themselves; all others (text, larger numbers) get numbers that are
    free.

    Args:
        values: all ids there are.

    Attributes:
        written: those that are written otherwise (text, floats), number -> id as it is written in the file.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        self.written: dict[int, Any] = {}
        self._numbers: dict[int | str, int] = {}
        others: list[tuple[int | str, Any]] = []
        for value in values:
            key = id_key(value)
            if key is None or key in self._numbers:
                continue
            if isinstance(key, int) and INT64.min <= key <= INT64.max:
                self._numbers[key] = key
                if not isinstance(value, int):
                    self.written[key] = value
            else:
                others.append((key, value))
        used = set(self._numbers.values())
        free = 1
        for key, value in others:
            if key in self._numbers:
                continue
            while free in used:
                free += 1
            self._numbers[key] = free
            self.written[free] = value
            free += 1

    def own(self, number: int) -> Any:
        """An id as it is written in the file."""
        return self.written.get(number, number)

    @classmethod
    def of_numbers(cls, numbers: Iterable[int], written: dict[int, Any]) -> IdMap:
        """The map with these ``numbers`` and ``written``."""
        ids = cls(())
        ids.written = written
        for found in numbers:
            key = id_key(written.get(found, found))
            assert key is not None
            ids._numbers[key] = found
        return ids

    @property
    def invented(self) -> list[Any]:
        """The ids whose numbers are not themselves, as they are written in the file."""
        return [value for found, value in self.written.items() if id_key(value) != found]

    def get(self, value: Any) -> int | None:
        """The number of an id, None if there is none."""
        key = id_key(value)
        return None if key is None else self._numbers.get(key)


def id_key(value: Any) -> int | str | None:
    """What two spellings of one id have in common; None for what is no id."""
    found = whole_number(value)
    if found is not None:
        return found
    return value.strip() if isinstance(value, str) and value.strip() else None
