"""How far long work is: a bar in a terminal, else a plain line every few seconds."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from mipnet.console import say

if TYPE_CHECKING:
    from rich.console import RenderableType

SECONDS_BETWEEN_LINES = 5.0
SECONDS_OF_RATE = 3600.0
"""Over which the rate is taken for the time that is left: a checkpoint may pause the steps for minutes."""


class Progress:
    """The progress of one phase, for the time of a ``with`` block.

    Whatever this process prints meanwhile appears above the bar, whole lines at a time.

    Args:
        title: what is going on, e.g. "training".
        unit: what is counted, in the singular.
        plain: lines even in a terminal, for when other programs write there too.
        done, total: what is known beforehand.
    """

    def __init__(self, title: str, unit: str, plain: bool = False, done: int = 0, total: int = 0) -> None:
        # rich takes 0.1 s to import, which --help does not wait for.
        from rich import progress
        from rich.console import Console
        from rich.live import Live

        self.unit, self.done, self.total, self.facts = unit, done, total, ""
        self._bar = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn(unit),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            speed_estimate_period=SECONDS_OF_RATE,
            get_time=time.monotonic,
        )
        self._task = self._bar.add_task(title, total=total or None, completed=done)
        # Without wrapping and markup: paths stay whole, and brackets are brackets.
        console = Console(stderr=True, soft_wrap=True, markup=False, emoji=False, highlight=False)
        self._live = Live(console=console, get_renderable=self.render, transient=True)
        self._lines = plain or not in_terminal()
        self._last_line, self._said = time.monotonic(), ("", "")

    def __enter__(self) -> Progress:
        if not self._lines:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._lines:
            sys.stdout.flush()  # or rich forgets a line that was begun and never ended
            sys.stderr.flush()
            self._live.stop()
            if self.total and self.done >= self.total:
                say(self.line())

    def update(self, done: int, total: int, facts: str = "") -> None:
        """So much of so much is done; a line only says what the last one did not.

        Args:
            done, total: in units.
            facts: what else is worth knowing now, in few words.
        """
        self.done, self.total, self.facts = done, total, facts
        self._bar.update(self._task, completed=done, total=total)
        now, news = time.monotonic(), (self.count(), facts)
        due = done >= total or now - self._last_line >= SECONDS_BETWEEN_LINES
        if self._lines and due and news != self._said:
            self._last_line, self._said = now, news
            say(self.line())

    def line(self) -> str:
        """All of it in one line."""
        left = self._bar.tasks[0].time_remaining
        time_left = "" if left is None or self.done >= self.total else f"{clock(left)} left"
        return "  ".join(part for part in (self.count(), self.facts, time_left) if part)

    def count(self) -> str:
        return f"{self.unit} {self.done}/{self.total}"

    def render(self) -> RenderableType:
        """The bar, and the facts below it."""
        from rich.console import Group
        from rich.text import Text

        return Group(self._bar, Text(self.facts, style="dim", no_wrap=True, overflow="ellipsis"))


def clock(seconds: float) -> str:
    """0:07, 12:34 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def in_terminal() -> bool:
    """Whether a person watches all that is printed, on something that can move its cursor."""
    return sys.stdout.isatty() and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
