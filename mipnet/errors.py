"""The one exception that users are meant to see.

Everything that a user can mend (a wrong path, a broken file, a setting that cannot work) is raised as
``UserError``: the command line prints its single line and exits with ``exit_code``; everything else is a
bug in this package and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable, Iterator, Sequence


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


NAMED = 5
"""So many examples of a fault are named."""
LONGEST_LINE = 120
"""Characters of another program's error in a message of ours."""


def first_few(names: Sequence[str], most: int = NAMED) -> str:
    """Names for a message: the first of them, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def first_line(error: BaseException) -> str:
    """What went wrong in one line of at most 120 characters: network errors say the same over and over."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}…"


def nearest(word: str, choices: Iterable[object]) -> str:
    """The choice spelled most like ``word``, or the choices if none is close; for messages."""
    names = [str(c) for c in choices]
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    if not names:
        return "there is nothing to choose from"
    return "choose from " + (", ".join(names) if len(names) <= 3 * NAMED else first_few(names))


FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
"""What a disk or its owner says, and no program can mend."""
RAYS_CAUSES = ("cause", "controller_failure", "health_check_failure", "_base_exc")
"""Where Ray's errors keep those that led to them, beside ``__cause__``.

Of these, Ray documents only ``controller_failure``. Where an error lacks the others, its message says less.
"""


def reason_of(error: OSError) -> str:
    """Why a file cannot be used, in the system's words and one line."""
    return os.strerror(error.errno) if error.errno else " ".join(str(error).split()) or type(error).__name__


def refusal(error: OSError, what: str, elsewhere: str) -> UserError:
    """A disk's refusal for the person who can mend it.

    Args:
        error: of the system.
        what: could not be done, e.g. "cannot write FILE".
        elsewhere: how to choose another place, for all reasons but a full disk.
    """
    mend = "make room there, then the same command goes on" if error.errno in FULL else elsewhere
    return UserError(f"{what} ({reason_of(error)})", mend)


def mendable(error: BaseException) -> UserError | None:
    """The error that a person can mend behind any exception, None if it is a bug.

    Ray hands over what was raised in another process as the cause of errors of its own.
    """
    for cause in causes(error):
        # What has a cause is Ray's, made to look like it: its message is the whole remote traceback.
        if isinstance(cause, UserError) and not hasattr(cause, "cause"):
            return cause
        if isinstance(cause, OSError) and cause.errno in REFUSED:
            place = f"cannot use {cause.filename}" if cause.filename else "a disk refuses"
            return refusal(cause, place, "change its permissions, or choose another place")
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and what led to it, the outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner: list[object] = [getattr(error, name, None) for name in RAYS_CAUSES]
        inner += dict(sorted(getattr(error, "worker_failures", {}).items())).values()  # of the first rank
        error = next((e for e in inner if isinstance(e, BaseException)), error.__cause__)
