"""How far long work is: a bar in a terminal, else a plain line every few seconds."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from mipnet.config.flags import say

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SECONDS_BETWEEN_LINES = 5.0
WIDEST_BAR = 100  # characters, with what stands beside it


class Pace:
    """How long the rest will take, from a rate that is smoothed over the last third of the time.

    The first update only sets the clock: work that an earlier process did, and starting up, do not count.
    """

    def __init__(self) -> None:
        self._begin = self._then = math.nan
        self._before = 0
        self._amount = self._seconds = 0.0

    def update(self, done: int, now: float) -> None:
        """Note that so much is done at that time, in seconds of any clock."""
        if math.isnan(self._then) or done < self._before:  # the start, or a restart from a checkpoint
            if math.isnan(self._begin):
                self._begin = now
            self._then, self._before = now, done
        elif now - self._then >= 1:  # what comes in a burst counts as one
            passed = now - self._then
            kept = math.exp(-passed / max(60.0, (now - self._begin) / 3))
            self._amount = kept * self._amount + done - self._before
            self._seconds = kept * self._seconds + passed
            self._then, self._before = now, done

    def left(self, total: int, now: float) -> float | None:
        """Seconds until all is done; None while that cannot be told."""
        if self._amount <= 0:
            return None
        rest = (total - self._before) * self._seconds / self._amount - (now - self._then)
        return max(rest, 0.0)


class Progress:
    """The progress of one phase, for the time of a ``with`` block.

    Args:
        title: what is going on, e.g. "training".
        unit: what is counted, in the singular.
        plain: lines even in a terminal, for when other programs write there too.
        done, total: what is known beforehand.
    """

    def __init__(self, title: str, unit: str, plain: bool = False, done: int = 0, total: int = 0) -> None:
        self.title, self.unit, self.plain = title, unit, plain
        self.done, self.total = done, total
        self.facts = ""
        self._pace = Pace()
        self._bar: ExitStack | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Progress:
        if not self.plain and in_terminal():
            self._bar = start_bar(self.render)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            if self.total and self.done >= self.total:
                say(self.line())

    def update(self, done: int, total: int, facts: str = "") -> None:
        """So much of so much is done.

        Args:
            done, total: in units.
            facts: what else is worth knowing now, in few words.
        """
        now = time.monotonic()
        self._pace.update(done, now)
        self.done, self.total, self.facts = done, total, facts
        if self._bar is None and (done >= total or now - self._last_line >= SECONDS_BETWEEN_LINES):
            self._last_line = now
            say(self.line())

    def line(self) -> str:
        """All of it in one line."""
        return "  ".join(part for part in (self.count(), self.facts, self.time_left()) if part)

    def count(self) -> str:
        return f"{self.unit} {self.done}/{self.total}"

    def time_left(self) -> str:
        left = self._pace.left(self.total, time.monotonic())
        return "" if left is None or self.done >= self.total else f"{clock(left)} left"

    def render(self) -> RenderableType:
        """The bar with what stands beside and below it."""
        from rich.console import Group
        from rich.constrain import Constrain
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        row = Table.grid(padding=(0, 2, 0, 0), expand=True)
        row.add_column(no_wrap=True)
        row.add_column(ratio=1)
        if not self.total:
            row.add_row(self.title, ProgressBar(total=None, pulse=True))
            return Constrain(row, WIDEST_BAR)
        row.add_column(no_wrap=True, justify="right")
        row.add_column(no_wrap=True, justify="right", min_width=12)
        row.add_row(
            self.title, ProgressBar(total=self.total, completed=self.done), self.count(), self.time_left()
        )
        below = [Text(self.facts, style="dim", no_wrap=True, overflow="ellipsis")] if self.facts else []
        return Constrain(Group(row, *below), WIDEST_BAR)


def clock(seconds: float) -> str:
    """0:07, 12:34 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def in_terminal() -> bool:
    """Whether a person watches all that is printed, on something that can move its cursor."""
    return sys.stdout.isatty() and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def start_bar(render: Callable[[], RenderableType]) -> ExitStack:
    """Draw what ``render`` makes below all other output until the stack is closed."""
    from rich.console import Console
    from rich.live import Live

    console = Console(file=sys.stderr)  # the stream itself: sys.stderr will be another
    alive = ExitStack()
    alive.enter_context(
        Live(
            console=console,
            get_renderable=render,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
    )
    alive.enter_context(printed_above(console))
    return alive


@contextmanager
def printed_above(console: Console) -> Iterator[None]:
    """Whatever this process prints meanwhile appears above the bar, whole lines at a time."""
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = above = LinesAbove(console, kept[0]), LinesAbove(console, kept[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = kept
        for stream in above:
            stream.finish()


class LinesAbove:
    """Stands in for a text stream of the terminal. rich's own stand-in would break long lines.

    Args:
        console: that draws the bar.
        stream: what it stands in for.
    """

    def __init__(self, console: Console, stream: TextIO) -> None:
        self._console, self._stream, self._begun = console, stream, ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
            for line in lines:
                self._print(line)
        return len(text)

    def finish(self) -> None:
        """Print a line that was begun and never ended."""
        with self._lock:
            if self._begun:
                self._print(self._begun)
                self._begun = ""

    def _print(self, line: str) -> None:
        self._console.out(line, highlight=False)

    def flush(self) -> None:
        pass  # a part of a line would be torn by the bar

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
