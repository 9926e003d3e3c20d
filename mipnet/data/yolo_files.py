"""Where the files of a YOLO-pose data set lie: its data.yaml, pictures and label files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mipnet.data.image_names import SUFFIXES
from mipnet.errors import DataError


def find_yaml(where: Path) -> Path:
    """The data.yaml that a path means.

    Raises:
        DataError: there is none in the folder, or several.
    """
    if not where.is_dir():
        return where  # reading it says what is wrong
    found = sorted(path for path in where.iterdir() if path.suffix in (".yaml", ".yml"))
    named = [path for path in found if path.stem == "data"] or found
    if len(named) != 1:
        there = f"{len(named)} YAML files and no data.yaml" if named else "no data.yaml"
        raise DataError(f"{where} has {there}", "name the file")
    return named[0]


def label_of(picture: Path) -> Path:
    """The label file of a picture: ``labels`` in place of the last ``images`` of its path, else beside it."""
    beside, parts = picture.with_suffix(".txt"), list(picture.parts)
    if "images" not in parts[:-1]:
        return beside
    last = len(parts) - 2 - parts[-2::-1].index("images")
    elsewhere = Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt")
    return beside if beside.is_file() and not elsewhere.is_file() else elsewhere


class YoloFiles:
    """The pictures that a data.yaml names: folders, lists of pictures, and lists of these.

    Attributes:
        base: the data set's folder, ``path``.
        missing: names in lists for which there is no picture.
        notes: what was decided, one line each.

    Args:
        yaml: the file.
        content: of it.
    """

    def __init__(self, yaml: Path, content: Mapping[str, Any]) -> None:
        self.yaml, self.content = yaml, content
        self.missing: list[str] = []
        self.notes: list[str] = []
        folder = Path(os.path.abspath(yaml)).parent
        place = str(content.get("path") or "").replace("\\", "/")
        self.base = Path(os.path.abspath(folder / os.path.expanduser(place)))
        if not os.path.isdir(self.base):
            self.notes.append(f"path {place!r:.100} is not there; {folder}, where data.yaml lies, is taken")
            self.base = folder
        self.folders = list(dict.fromkeys((self.base, folder)))

    def of_split(self, keys: Sequence[str]) -> list[Path]:
        """The pictures of a split, each once; [] if data.yaml does not have it.

        Args:
            keys: of a data.yaml, which mean the split.

        Raises:
            DataError: a folder or list that is not there, or a split without pictures.
        """
        given: Any = next((self.content[key] for key in keys if self.content.get(key)), [])
        found: list[Path] = []
        for entry in given if isinstance(given, list) else [given]:
            place, exact = self._locate(str(entry), self.folders)
            where = f"{self.yaml}: {keys[0]} {entry!r:.100}"
            if place is None:
                raise DataError(f"{where} is not there", f"looked in {' and '.join(map(str, self.folders))}")
            if not exact:
                self.notes.append(f"{keys[0]} {entry!r:.100} is not there; {place} is taken")
            if place.is_file() and place.suffix != ".txt":
                raise DataError(
                    f"{where} is no folder", "give a folder of pictures, or a list of them (.txt)"
                )
            found += self._listed(place) if place.is_file() else self._in_folder(place)
        if given and not found:
            raise DataError(f"{self.yaml}: {keys[0]} {given!r:.100} has no pictures", "check what is there")
        once = list(dict.fromkeys(found))
        if len(once) < len(found):
            self.notes.append(f"{keys[0]} names {len(found) - len(once)} pictures again; each is taken once")
        return once

    def _in_folder(self, folder: Path) -> Iterator[Path]:
        for place, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
            for name in sorted(names):
                if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                    yield Path(place, name)

    def _listed(self, file: Path) -> Iterator[Path]:
        elsewhere = 0
        for line in file.read_bytes().decode("utf-8-sig", "surrogateescape").splitlines():
            if not line.strip():
                continue
            found, exact = self._locate(line, [self.base, file.parent])
            if found is None:
                self.missing.append(line.strip())
                continue
            elsewhere += not exact
            yield found
        if elsewhere:
            self.notes.append(f"pictures of {file.name} found by the last parts of their paths: {elsewhere}")

    def _locate(self, given: str, folders: Sequence[Path]) -> tuple[Path | None, bool]:
        """A file or folder by the path that a file gives, and whether it lies there.

        Else it is looked for by the last parts of the path, which may be another machine's.
        """
        name = given.strip().replace("\\", "/")
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
        least = 1 if name.startswith("../") else 2  # exports of Roboflow begin with ../
        tails = ["/".join(parts[first:]) for first in range(len(parts) - least + 1)]
        for tail in (name, *tails):
            for place in (os.path.abspath(folder / tail) for folder in folders):
                if os.path.exists(place):
                    return Path(place), tail == name
        return None, False


def _raise(error: OSError) -> None:
    raise error
