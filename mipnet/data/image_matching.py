"""Which image an entry of another file is of: a box, a result, an entry of a list of images.

By ``file_name`` first, then by the ids that people gave their images, then by names and numbers in names.
What fits several images, or fits only if ids are guessed, is refused.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from mipnet.data.json_values import id_key, whole_number
from mipnet.errors import DataError

Key = tuple[str | None, Any]
"""``file_name`` (None if there is none) and ``image_id`` of an entry."""
Parts = tuple[str, ...]
T = TypeVar("T")

EXACT, CERTAIN, BY_ID, BY_NUMBER = 0, 2, 10, 11
"""Ranks of the ways to find an image. Its name is the same; is the end of its path, or that without its
ending; up to here several names may be of one image. From 3: the end of the name is an image's name, as of
absolute names; names with other endings. Then by its id, and by the number that is its name."""
AROUND = (3, 4, 6)
INT64_DIGITS = 18


class ImageMatcher:
    """Finds I images by what other files call them.

    Args:
        names: (I,) their file names.
        ids: (I,) their ids as people wrote them, None for an image without; by default none has one.
        paths: (I,) their paths or URIs, where these say more than the names.
    """

    def __init__(
        self, names: Sequence[str], ids: Sequence[Any] | None = None, paths: Sequence[str] | None = None
    ) -> None:
        self.names = names
        self._own = list(ids) if ids is not None else [None] * len(names)
        self._ids = {id_key(own): i for i, own in enumerate(self._own) if own is not None}
        self._given_paths = paths

    @property
    def has_ids(self) -> bool:
        """Whether people gave the images ids."""
        return bool(self._ids)

    def match(self, entries: Iterable[Any], where: str, kind: str) -> list[int | None]:
        """The index of the image of each entry, None for an image that is not among them.

        Args:
            entries: objects of JSON with ``file_name``, ``image_id`` or both.
            where: they are from, for messages.
            kind: what they are, for messages.

        Raises:
            DataError: an entry fits several images, or its image would be guessed.
        """
        keys = [_key(entry) for entry in entries]
        first: dict[Key, int] = {}
        for place, key in enumerate(keys):
            first.setdefault(key, place)
        ranked = {key: self._find(*key) for key in first}

        def refuse(key: Key, what: str, hint: str) -> DataError:
            label = key[1] if key[0] is None else key[0]
            return DataError(f"{where}: {kind} {first[key]} is of {label!r:.80}, {what}", hint)

        self._drop_foreign(ranked)
        by_number = next((key for key, (rank, found) in ranked.items() if rank == BY_NUMBER and found), None)
        if by_number and any(rank == BY_ID and type(key[1]) is int for key, (rank, _) in ranked.items()):
            what = "the number in an image's name, while others are ids"
            raise refuse(by_number, what, "give each a file_name")
        chosen = self._chosen_by_id(ranked)
        index: dict[Key, int | None] = {}
        owner: dict[int, tuple[Parts, Key]] = {}
        for key, (rank, found) in ranked.items():
            found = chosen.get(key, found)
            if len(found) > 1:
                several = ", ".join(dict.fromkeys(self.names[i] for i in found[:3]))
                hint = "give it the image's path as file_name"
                if key[0] is not None and key[1] is None and self.has_ids:
                    hint += ", or an image_id"
                raise refuse(key, f"which fits several images ({several})", hint)
            index[key] = found[0] if found else None
            if found and CERTAIN < rank < BY_ID:
                name = _parts(key[0] or key[1])
                other, claimed = owner.setdefault(found[0], (name, key))
                if other != name:
                    what = f"which fits {self.names[found[0]]}, as {claimed[0] or claimed[1]!r:.80} does"
                    raise refuse(key, what, f"give each {kind} the image's whole name as file_name")
        return [index[key] for key in keys]

    def _find(self, name: str | None, image_id: Any) -> tuple[int, list[int]]:
        """How an entry's image is found, and the images that fit."""
        if name is not None:
            return self._by_name(name)
        key = id_key(image_id)
        by_id = [self._ids[key]] if key in self._ids else []
        if isinstance(image_id, str) and not (by_id and self._own[by_id[0]] == image_id):
            rank, named = self._by_name(image_id)
            if named:
                # "2" may mean the id 2 or the image 2.jpg.
                return rank, [*by_id, *(i for i in named if i not in by_id)]
        if by_id:
            return BY_ID, by_id
        return BY_NUMBER, self._by_number.get(key, []) if isinstance(key, int) else []

    def _by_name(self, name: str) -> tuple[int, list[int]]:
        parts = _parts(name)
        if found := self._exact.get(parts):
            return EXACT, found
        (stems, stem_ends), plain = self._stems, _stemmed(parts)
        tries = (
            self._ends.get(parts),
            stem_ends.get(parts),
            _longest_end(self._exact, parts),
            _longest_end(stems, parts),
            stem_ends.get(plain),
            _longest_end(stems, plain),
        )
        return next(((rank, found) for rank, found in enumerate(tries, EXACT + 1) if found), (BY_NUMBER, []))

    # Made when the first name is looked up: most files have ids only.
    @functools.cached_property
    def _parts(self) -> list[Parts]:
        return [_parts(name) for name in self.names]

    @functools.cached_property
    def _exact(self) -> dict[Parts, list[int]]:
        return _index(enumerate(self._parts))

    @functools.cached_property
    def _both(self) -> list[set[Parts]]:
        """Name and path of each image."""
        if self._given_paths is None:
            return [{name} for name in self._parts]
        return [{name, _parts(path)} for name, path in zip(self._parts, self._given_paths, strict=True)]

    @functools.cached_property
    def _ends(self) -> dict[Parts, list[int]]:
        """Images by every end of their names and paths."""
        return _index((i, end) for i, both in enumerate(self._both) for end in _ends(both))

    @functools.cached_property
    def _stems(self) -> tuple[dict[Parts, list[int]], dict[Parts, list[int]]]:
        """Images by their names, and by these ends, both without the files' endings."""
        names = ((i, _stemmed(parts)) for i, parts in enumerate(self._parts))
        plain = enumerate({_stemmed(parts) for parts in both} for both in self._both)
        return _index(names), _index((i, end) for i, both in plain for end in _ends(both))

    @functools.cached_property
    def _by_number(self) -> dict[int, list[int]]:
        numbers = ((i, number_in_name(name)) for i, name in enumerate(self.names))
        return _index((i, number) for i, number in numbers if number is not None)

    def _drop_foreign(self, ranked: dict[Key, tuple[int, list[int]]]) -> None:
        """Drop what is of other images: names around an image's where others are paths of the images, and
        names that fit an image less well than another one does."""
        names = {key: rank for key, (rank, found) in ranked.items() if found and rank < BY_ID}
        paths = any(rank <= CERTAIN and len(_parts(key[0] or key[1])) > 1 for key, rank in names.items())
        best: dict[int, int] = {}
        for key, rank in names.items():
            for i in ranked[key][1]:
                best[i] = min(rank, best.get(i, rank))
        for key, rank in names.items():
            foreign = paths and rank in AROUND
            ranked[key] = rank, [i for i in ranked[key][1] if rank <= max(best[i], CERTAIN) and not foreign]

    def _chosen_by_id(self, ranked: dict[Key, tuple[int, list[int]]]) -> dict[Key, list[int]]:
        """Of names that fit several images, the one that has the entry's ``image_id``.

        Only where such a name comes with several ids that fit: a single one may be of another numbering.
        """
        chosen: dict[Key, list[int]] = {}
        for key, (_, found) in ranked.items():
            if key[0] is not None and len(found) > 1 and self._ids.get(id_key(key[1])) in found:
                chosen[key] = [self._ids[id_key(key[1])]]
        several = Counter(name for name, _ in chosen)
        return chosen if max(several.values(), default=0) > 1 else {}


def stem(name: str) -> str:
    """A file name without its ending, which is at most five letters or digits."""
    return re.sub(r"(?<=.)\.[A-Za-z0-9]{1,5}$", "", name)


def number_in_name(name: str) -> int | None:
    """The number that is a file's name but for folders and ending, as in COCO: 000000000139.jpg is 139."""
    base = stem(name.rpartition("/")[2])
    return whole_number(base) if base.isdecimal() and len(base) <= INT64_DIGITS else None


def _key(entry: Any) -> Key:
    fields = entry if isinstance(entry, dict) else {}
    name, image_id = fields.get("file_name"), fields.get("image_id")
    if not isinstance(image_id, str):
        image_id = id_key(image_id)
    return name if isinstance(name, str) and name.strip() else None, image_id


def _parts(name: str) -> Parts:
    """Folders and file of a name; an absolute one begins with "/"."""
    name = name.strip().replace("\\", "/")
    name = name if name.isascii() else unicodedata.normalize("NFC", name)
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    return ("/", *parts) if name.startswith("/") else parts or (".",)


def _stemmed(parts: Parts) -> Parts:
    return *parts[:-1], stem(parts[-1])


def _ends(paths: Iterable[Parts]) -> set[Parts]:
    """Paths, and what is left of each without its first folders."""
    return {parts[begin:] for parts in paths for begin in range(len(parts))}


def _longest_end(names: dict[Parts, list[int]], parts: Parts) -> list[int]:
    """The images whose name is the longest end of a path."""
    return next(filter(None, (names.get(parts[begin:]) for begin in range(len(parts)))), [])


def _index(pairs: Iterable[tuple[int, T]]) -> dict[T, list[int]]:
    """Of (image, key): key -> images."""
    index: dict[T, list[int]] = {}
    for image, key in pairs:
        index.setdefault(key, []).append(image)
    return index
