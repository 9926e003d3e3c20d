"""Lines for the person at the terminal."""

from __future__ import annotations

import functools
import sys


def say(line: str = "") -> None:
    """Print a line at once."""
    print(line, file=sys.stdout, flush=True)


@functools.cache
def say_once(line: str) -> None:
    """Print a line unless this process has printed it before."""
    say(line)
