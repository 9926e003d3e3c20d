"""The images that a command cannot decode; each is reported once."""

from __future__ import annotations

from collections.abc import Iterable

from mipnet.console import say
from mipnet.errors import first_few
from mipnet.storage import Folder

CORRUPT_IMAGES_FILE = "unreadable.txt"
"""In a run's folder: their names, one a line."""


class CorruptImageLog:
    """Reports corrupt images that it has not reported before.

    Args:
        folder: of the run, which keeps the names over restarts; None keeps nothing.
    """

    def __init__(self, folder: Folder | None = None) -> None:
        self.folder = folder
        self.names = read_corrupt_images(folder) if folder else []

    def __call__(self, names: Iterable[str]) -> None:
        new = sorted(set(names) - set(self.names))
        if not new:
            return
        self.names += new
        say(f"left out: {len(new)} x image that cannot be read: {first_few(new)}")
        if self.folder:
            self.folder.write(CORRUPT_IMAGES_FILE, "".join(f"{name}\n" for name in self.names))


def read_corrupt_images(folder: Folder) -> list[str]:
    """The names in a run's folder, in the order of their reports."""
    return (
        folder.read(CORRUPT_IMAGES_FILE).decode().splitlines() if folder.exists(CORRUPT_IMAGES_FILE) else []
    )
