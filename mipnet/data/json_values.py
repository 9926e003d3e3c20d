"""What a JSON value means: ids, numbers and flags as the tools of the field write them.

``"139"``, ``"000000000139"``, ``139.0`` and ``139`` are the same id; ``"0"``, ``false`` and ``null`` are the
flag 0. No value is ever tested with ``if value``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

LONGEST_ID = 40
"""Digits of an id; Python refuses to read numbers of thousands of digits."""
INT64 = np.iinfo(np.int64)


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
    return None if found is None else int(found != 0)


def numbers(values: Any, count: int | None = None) -> np.ndarray | None:
    """A flat list of finite numbers, or a list of such lists, as float64 (n,); None for anything else.

    Args:
        values: of JSON.
        count: n, if it is known.
    """
    if not isinstance(values, list | tuple):
        return None
    try:
        array = np.asarray(values, np.float64).ravel()
    except (TypeError, ValueError, OverflowError):  # lists of several lengths, words, objects
        return None
    if count is not None and array.size != count:
        return None
    return array if np.isfinite(array).all() else None


class IdMap:
    """Ids of any JSON type as int64, the same for every spelling of an id.

    Whole numbers that fit into int64 are themselves; all others (text, larger numbers) get numbers that are
    free.

    Args:
        values: all ids there are.

    Attributes:
        invented: those that are not themselves, number -> id as it is written in the file.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        self.invented: dict[int, Any] = {}
        self._numbers: dict[int | str, int] = {}
        others: list[tuple[int | str, Any]] = []
        for value in values:
            key = id_key(value)
            if key is None or key in self._numbers:
                continue
            if isinstance(key, int) and INT64.min <= key <= INT64.max:
                self._numbers[key] = key
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
            self.invented[free] = value
            free += 1

    @classmethod
    def of_numbers(cls, numbers: Iterable[int], invented: dict[int, Any]) -> IdMap:
        """The map with these ``numbers`` and ``invented``."""
        ids = cls(())
        ids.invented = invented
        for found in numbers:
            key = id_key(invented.get(found, found))
            assert key is not None
            ids._numbers[key] = found
        return ids

    @property
    def numbers(self) -> list[int]:
        """All of them."""
        return [*self._numbers.values()]

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
