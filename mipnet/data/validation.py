"""Validation of COCO annotations: invalid ones are counted by kind, the first of each kind are named."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from mipnet.errors import MAX_EXAMPLES, DataError, first_few, one_line

NEARLY_ALL = 0.9
"""If a larger share of images cannot be read, their folder is another one."""


@dataclass
class Findings:
    """What was found in a file: left out, replaced, or odd.

    Attributes:
        counts: kind of fault -> how many.
        examples: kind of fault -> the first of them.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, *names: str) -> None:
        self.counts[kind] += len(names)
        named = self.examples.setdefault(kind, [])
        named += map(one_line, names[: MAX_EXAMPLES - len(named)])

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def lines(self) -> list[str]:
        return [f"{n} x {kind}: {', '.join(self.examples[kind])}" for kind, n in self.counts.most_common()]

    def check(self, samples: int, limit: float, where: str, hint: str = "") -> None:
        """Check that not too many samples are invalid.

        Args:
            samples: how many there are, valid or not.
            limit: largest fraction of invalid samples, 0 to 1.
            where: the file, for the message.
            hint: how to mend them; by default to do so.

        Raises:
            DataError: more than ``limit`` of ``samples`` are invalid.
        """
        if self.total > limit * max(samples, 1):
            raise DataError(
                f"{where}: {self.total} of {samples} samples are unusable ({'; '.join(self.lines())})",
                bad_share_hint(self.total, samples, hint or "mend them"),
            )


def bad_share_hint(bad: int, of: int, hint: str) -> str:
    """What to do about samples that cannot be used; the limit can only be raised where some can."""
    return f"{hint}, or raise --data.max-bad-share" if bad < of else hint


def check_readable(unreadable: list[str], of: int, limit: float, folder: str = "") -> None:
    """Check that not too many images are unreadable.

    Args:
        unreadable: their names.
        of: how many images there are, readable or not.
        limit: largest fraction of unreadable images, 0 to 1.
        folder: of a data set's images, for the message.

    Raises:
        DataError: more than ``limit`` of the images are unreadable.
    """
    if len(unreadable) > limit * of:
        hint = "mend them"
        if any(name.lower().endswith((".heic", ".heif")) for name in unreadable):
            hint = "convert HEIC to JPEG"
        elif folder and len(unreadable) > NEARLY_ALL * of:
            hint = f"check --data.images and --data.root: they were looked for in {folder}"
            if not any(PurePosixPath(name).suffix for name in unreadable):
                hint = f"give each file_name its ending, such as .jpg, as in {folder}"
        raise DataError(
            f"{len(unreadable)} of {of} images cannot be read ({first_few(unreadable)})",
            bad_share_hint(len(unreadable), of, hint),
        )
