"""The images that a command cannot read: each is named once, however often it is met."""

from __future__ import annotations

from collections.abc import Iterable

from mipnet.console import say
from mipnet.errors import first_few
from mipnet.storage import Folder

UNREADABLE = "unreadable.txt"
"""In a run's folder: all of them, one a line."""


class Unreadable:
    """Says which images are new to it.

    Args:
        folder: the run's, where they are kept with those that earlier starts have met; None keeps nothing.
    """

    def __init__(self, folder: Folder | None = None) -> None:
        self.folder = folder
        self.names = read_unreadable(folder) if folder else []

    def __call__(self, names: Iterable[str]) -> None:
        new = sorted(set(names) - set(self.names))
        if not new:
            return
        self.names += new
        say(f"left out: {len(new)} x image that cannot be read: {first_few(new)}")
        if self.folder:
            self.folder.write(UNREADABLE, "".join(f"{name}\n" for name in self.names))


def read_unreadable(folder: Folder) -> list[str]:
    """All that a run has met, in that order."""
    return folder.read(UNREADABLE).decode().splitlines() if folder.exists(UNREADABLE) else []
