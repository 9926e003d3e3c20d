"""Which file below the image root a ``file_name`` means, and which files of a folder are pictures.

Tools write absolute paths of other machines (``C:\\data\\img.jpg``, ``/mnt/x/img.jpg``, ``file://``,
``upload/1/img.jpg``), and file systems change the case and the Unicode form of names.
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from urllib.parse import unquote

from mipnet.data.validation import Findings
from mipnet.storage import Folder, is_text, legible, safe_relative_path

PICTURE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif", ".avif",
    ".mpo", ".jp2", ".pbm", ".pgm", ".ppm", ".pnm",
)  # fmt: skip
OTHER_SUFFIXES = (
    ".heic", ".heif", ".jxl", ".psd", ".svg", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf",
)  # fmt: skip
"""Of pictures that cannot be decoded here."""
SUFFIXES = (*PICTURE_SUFFIXES, *OTHER_SUFFIXES)
FEW_FOLDERS = 16
"""Up to so many folders are listed one by one, rather than all that lies below the root."""


def pictures_among(names: Iterable[str]) -> tuple[list[str], Findings]:
    """Of the files of a folder those that are pictures; and what looks like one and cannot be used."""
    pictures, left_out = [], Findings()
    for name in names:
        suffix = posixpath.splitext(name)[1].lower()
        if suffix not in SUFFIXES:
            continue
        if not is_text(name):
            left_out.add("picture whose name is not UTF-8; rename it", legible(name))
        elif posixpath.basename(name).startswith("._"):
            left_out.add("resource fork of macOS, which is no picture", name)
        elif suffix in OTHER_SUFFIXES:
            left_out.add(f"{suffix} picture, which cannot be decoded; convert it to JPEG or PNG", name)
        else:
            pictures.append(name)
    return pictures, left_out


def match_names(
    names: Sequence[str], root: Folder, packed: Collection[str], found: Findings
) -> dict[str, str]:
    """The path below the image root of the file that each name means.

    A file of exactly that name is taken; else the one whose path has the most last parts in common with the
    name, if it is the only one and the parts differ in letter case, Unicode form and percent-encoding only.
    Of a relative name and its file's path one must be the end of the other: ``cam2/0.jpg`` is not
    ``cam1/0.jpg``. A name without a file keeps a path below the root, where there is none.

    Args:
        names: of a file's images.
        root: the image root.
        packed: names of the images in the root's shards; empty if it is not packed.
        found: gets the names that were written otherwise.

    Raises:
        DataError: a name leads out of the root and no file below it matches.
    """
    paths = {name: _below_root(name) for name in names}
    there = set(packed) or _listed(root, {posixpath.dirname(path) for path in paths.values()})
    lost = {name: path for name, path in paths.items() if path not in there}
    if not lost:
        return paths
    by_last: dict[str, list[str]] = defaultdict(list)
    for file in filter(is_text, there if packed else root.files()):
        by_last[_parts(file)[-1]].append(file)
    claims: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for path in paths.values():
        claims[path].add(_exact_parts(path))
    matches = {}
    for name, path in lost.items():
        files = by_last[_parts(path)[-1]]
        matches[name] = _best(
            path, files if _of_another_place(name) else [f for f in files if _ends(path, f)]
        )
    for name, file in matches.items():
        claims[file].add(_exact_parts(lost[name]))
    exact = set(paths.values())
    for name, file in matches.items():
        path = lost[name]
        # A path out of the root is another picture's than the one that is listed by its own name.
        taken = path.startswith("../") and file in exact
        if file and not taken and _one_path(claims[file]):
            found.add("picture that is called otherwise below the image folder", f"{legible(name)} = {file}")
            paths[name] = file
        elif path.startswith("../") or "\0" in path:
            safe_relative_path(name, root.uri)
    return paths


def _below_root(name: str) -> str:
    """A name as a path without scheme, root and backslashes."""
    path = legible(name).replace("\\", "/").rpartition("://")[2].lstrip("/")
    return posixpath.normpath(path)


def _of_another_place(name: str) -> bool:
    """Whether a name begins at a root of its own, or above ours: its first folders are not below ours."""
    path = name.replace("\\", "/")
    return "://" in path or path.startswith("/") or path[1:2] == ":" or ".." in path.split("/")


def _ends(path: str, file: str) -> bool:
    """Whether one of two paths is the end of the other."""
    one, other = _parts(path), _parts(file)
    return _common_end(one, other) == min(len(one), len(other))


def _listed(root: Folder, folders: set[str]) -> set[str]:
    """Files of some folders below a root; of no more than a few, for all else is listed as a whole."""
    inside = [folder for folder in folders if not folder.startswith("..")]
    if len(inside) > FEW_FOLDERS:
        return set(root.files())
    return {posixpath.join(folder, name) for folder in inside for name in root.names(folder)}


def _parts(path: str) -> tuple[str, ...]:
    """The parts of a path, alike for all spellings of it."""
    return tuple(unicodedata.normalize("NFC", unquote(path)).casefold().split("/"))


def _exact_parts(path: str) -> tuple[str, ...]:
    return tuple(unicodedata.normalize("NFC", path).split("/"))


def _best(path: str, files: Sequence[str]) -> str:
    """Of files with the same last part the one that has most parts in common; "" if there are several."""

    if len(files) < 2:
        return "".join(files)

    def common(file: str) -> tuple[int, int]:
        pairs = [(parts(path), parts(file)) for parts in (_parts, _exact_parts)]
        alike, equal = (_common_end(*pair) for pair in pairs)
        return alike, equal

    *_, second, first = sorted(files, key=common)
    return "" if common(first) == common(second) else first


def _common_end(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    same = [a == b for a, b in zip(reversed(one), reversed(other), strict=False)]
    return [*same, False].index(False)


def _one_path(claims: Collection[tuple[str, ...]]) -> bool:
    """Whether names can all mean one file: each is the end of the longest."""
    longest = max(claims, key=len)
    return all(longest[-len(parts) :] == parts for parts in claims)
