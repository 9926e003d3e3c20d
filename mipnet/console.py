"""Lines for the person at the terminal; each is logged, too."""

from __future__ import annotations

import functools
import logging
import sys

logger = logging.getLogger(__name__)


def say(line: str = "") -> None:
    """Print a line at once."""
    print(line, file=sys.stdout, flush=True)
    if line:
        logger.info(line.strip("\n"))


@functools.cache
def say_once(line: str) -> None:
    """Print a line unless this process has printed it before."""
    say(line)
