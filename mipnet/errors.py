"""Errors that a user can fix.

A wrong path, a broken file, a setting that cannot work: all are raised as ``UserError``. The command line
prints its single line and exits with ``exit_code``. Every other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable, Iterator, Sequence

STORE_HINT = "check your access to it; the same command goes on when it answers"


class UserError(Exception):
    """A problem that the user can fix.

    Args:
        what: what is wrong and where, as one clause without a full stop.
        hint: how to fix it, as one clause; empty if ``what`` already says so.
        exit_code: the exit status of the process.
    """

    def __init__(self, what: str, hint: str = "", exit_code: int = 2) -> None:
        self.what, self.hint, self.exit_code = what, hint, exit_code
        super().__init__(one_line(f"{what}; {hint}" if hint else what))

    def __reduce__(self) -> tuple[type, tuple[str, str, int]]:
        # Ray pickles exceptions between processes; rebuild from the parts, not from the joined message.
        return type(self), (self.what, self.hint, self.exit_code)


class ConfigError(UserError):
    """A configuration value that is unknown, of the wrong type, or impossible."""


class DataError(UserError):
    """A data set, annotation file or image that cannot be used."""


class StoreError(UserError):
    """An object store that does not answer, or refuses.

    No OSError, as a file that is missing or damaged is: nobody may take what the store holds for that.
    """

    def __init__(self, what: str, hint: str = STORE_HINT, exit_code: int = 1) -> None:
        super().__init__(what, hint, exit_code)


MAX_EXAMPLES = 5
"""Names in a message."""
MAX_LINE_LENGTH = 120
"""Characters of another program's error in a message."""


def one_line(text: str) -> str:
    """Text as one line for any terminal: control characters and lone surrogates become their escapes."""
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


def first_few(names: Sequence[str], most: int = MAX_EXAMPLES) -> str:
    """Names for a message: the first of them, and how many more there are."""
    return ", ".join(map(one_line, names[:most])) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 120 characters."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return line if len(line) <= MAX_LINE_LENGTH else f"{line[: MAX_LINE_LENGTH - 1]}…"


def suggest(word: str, choices: Iterable[object]) -> str:
    """A hint: the choice that is spelled most like ``word``, or the choices if none is close."""
    names = [str(c) for c in choices]
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    if not names:
        return "there is nothing to choose from"
    return "choose from " + (", ".join(names) if len(names) <= 3 * MAX_EXAMPLES else first_few(names))


NO_SPACE_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
STORAGE_ERRNOS = (*NO_SPACE_ERRNOS, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
"""Of a disk that is full, broken, read-only or not permitted."""
RAY_CAUSE_ATTRIBUTES = ("cause", "controller_failure", "health_check_failure", "_base_exc")
"""Attributes of Ray's errors that hold their causes, beside ``__cause__``.

Ray documents ``controller_failure`` only. Without the others, messages say less.
"""


def reason_of(error: OSError) -> str:
    """The operating system's reason, in one line."""
    return os.strerror(error.errno) if error.errno else " ".join(str(error).split()) or type(error).__name__


def from_os_error(error: OSError, what: str, elsewhere: str) -> UserError:
    """Turn an OSError into a UserError with a hint.

    Args:
        error: of the operating system.
        what: failed, e.g. "cannot write FILE".
        elsewhere: the hint for all reasons but a full disk: how to choose another place.
    """
    hint = "make room there, then the same command goes on" if error.errno in NO_SPACE_ERRNOS else elsewhere
    return UserError(f"{what} ({reason_of(error)})", hint)


def as_user_error(error: BaseException) -> UserError | None:
    """The UserError among an exception and its causes, None if it is a bug.

    Ray raises errors of its own, with the exception of the other process as their cause.
    """
    for cause in causes(error):
        # With an attribute ``cause`` it is Ray's imitation, whose message is the whole remote traceback.
        if isinstance(cause, UserError) and not hasattr(cause, "cause"):
            return cause
        if isinstance(cause, OSError) and cause.errno in STORAGE_ERRNOS:
            place = f"cannot use {cause.filename}" if cause.filename else "a disk refuses"
            return from_os_error(cause, place, "change its permissions, or choose another place")
        if isinstance(cause, OSError) and cause.errno is None and "AWS Error" in str(cause):  # pyarrow's
            return StoreError(f"S3 refuses or does not answer ({first_line(cause)})")
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and its causes, the outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner: list[object] = [getattr(error, name, None) for name in RAY_CAUSE_ATTRIBUTES]
        inner += dict(sorted(getattr(error, "worker_failures", {}).items())).values()  # of the first rank
        error = next((e for e in inner if isinstance(e, BaseException)), error.__cause__)


def root_cause(error: BaseException) -> str:
    """The last line of the root cause, the one that a person can act on.

    Not the fields of Ray's errors of actors (ids, one a line, indented): of some nothing follows them.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).strip().splitlines() if line.strip() and not line.startswith("\t")]
    return lines[-1].strip() if lines else type(error).__name__
