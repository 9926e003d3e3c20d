"""The one exception that users are meant to see.

Everything that a user can mend (a wrong path, a broken file, a setting that cannot work) is raised as
``UserError``: the command line prints its single line and exits with ``exit_code``; everything else is a
bug in this package and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A problem that the person at the keyboard can mend.

    Args:
        what: what is wrong and where, as one clause without a full stop.
        mend: how to mend it, as one clause; empty if ``what`` already says so.
        exit_code: the exit status of the process.
    """

    def __init__(self, what: str, mend: str = "", exit_code: int = 2) -> None:
        self.what, self.mend, self.exit_code = what, mend, exit_code
        super().__init__(f"{what}; {mend}" if mend else what)

    def __reduce__(self) -> tuple[type, tuple[str, str, int]]:
        # Ray pickles exceptions between processes; rebuild from the parts, not from the joined message.
        return type(self), (self.what, self.mend, self.exit_code)


class ConfigError(UserError):
    """A configuration value that is unknown, of the wrong type, or impossible."""


class DataError(UserError):
    """A data set, annotation file or image that cannot be used."""


def nearest(word: str, choices: Iterable[object]) -> str:
    """The choice spelled most like ``word``, or all choices if none is close; for messages."""
    names = [str(c) for c in choices]
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "choose from " + ", ".join(names) if names else "there is nothing to choose from"
