"""Progress: a bar that nothing tears in a terminal, plain lines elsewhere, a steady estimate of the rest."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from mipnet.experiment import progress as module
from mipnet.experiment.progress import Progress, clock

LONG = "a path of many characters: " + "/folder [of many]" * 20
TALKS = f"""
import sys, time
from mipnet.experiment.progress import Progress
from mipnet.console import say

def draw(progress):
    if len(sys.argv) < 2 and sys.stdout.isatty():
        progress._live.refresh()

say("before")
with Progress("training", "step", plain=len(sys.argv) > 1) as progress:
    draw(progress)
    progress.update(40, 100, "loss 0.5")
    draw(progress)
    say({LONG!r})
    print("half a ", end="")
    print("line", file=sys.stdout)
    print("from the error stream", file=sys.stderr)
    progress.update(100, 100, "loss 0.5")
    draw(progress)
    print("never ended", end="")
say("after")
"""


def in_a_terminal(*argv: str, columns: int = 80) -> str:
    """What the script writes to a terminal."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "24"}
    child = subprocess.Popen(
        [sys.executable, "-c", TALKS, *argv], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert child.wait(timeout=60) == 0, written.decode()
    return written.decode()


def lines_of(written: str) -> list[str]:
    """The lines without colours and without what only moves the cursor."""
    return [line.strip("\r") for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written).split("\n")]


@pytest.mark.parametrize("columns", [40, 80])
def test_a_terminal_shows_a_bar_and_whole_lines_above_it(columns: int) -> None:
    written = in_a_terminal(columns=columns)
    lines = lines_of(written)
    for said in ("before", LONG, "half a line", "from the error stream", "never ended", "after"):
        assert any(line.endswith(said) for line in lines), said
    bars = [line.rpartition("\r")[2] for line in lines if " training " in line and "━" in line]
    assert all(any(re.search(rf"step +{step}/100", bar) for bar in bars) for step in (40, 100))
    assert max(map(len, bars)) <= columns
    assert any("loss 0.5" in line for line in lines)
    assert lines[-3:] == ["step 100/100  loss 0.5", "after", ""]  # the bar itself is gone
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # and the cursor is back


def test_plain_is_plain_even_in_a_terminal() -> None:
    written = in_a_terminal("plain")
    assert "\x1b" not in written
    assert lines_of(written)[-2:] == ["never endedafter", ""]
    assert "step 100/100  loss 0.5" in written


def test_a_pipe_gets_lines_without_control_characters() -> None:
    env = {**os.environ, "TERM": "xterm-256color", "FORCE_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", TALKS], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.splitlines()[-1] == "never endedafter"
    assert not re.search(r"[^\n -~]", done.stdout + done.stderr)
    assert done.stderr == "from the error stream\n"


def test_help_does_not_wait_for_rich() -> None:
    """It takes longer to import than all that ``mipnet --help`` does."""
    script = "import sys, mipnet.cli.main, mipnet.cli.train as _; sys.exit('rich' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.fixture
def time_is(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, 100.0 + seconds)


def test_at_most_a_line_every_few_seconds_and_the_last(
    time_is: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("rendering", "scene") as progress:
        for second in range(21):
            time_is(second)
            progress.update(second, 20)
    said = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in said] == [f"scene {n}/20" for n in (5, 10, 15, 20)]
    assert said[0] == "scene 5/20  0:15 left"
    assert said[-1] == "scene 20/20"


def test_a_phase_without_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("training", "step", done=31, total=31):
        pass
    assert capsys.readouterr().out == ""


def test_a_line_says_something_new(
    time_is: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("searching", "trial") as progress:
        for second, facts in ((10, "a"), (20, "a"), (21, "b"), (30, "b"), (40, "b")):
            time_is(second)
            progress.update(1, 4, facts)
    assert capsys.readouterr().out.splitlines() == ["trial 1/4  a", "trial 1/4  b"]


def left(progress: Progress) -> str:
    """The last part of a line."""
    return progress.line().rpartition("  ")[2]


def test_the_estimate_counts_from_where_this_process_began(time_is: Callable[[float], None]) -> None:
    """A run that goes on at step 900 has not made 900 steps in no time."""
    known = Progress("training", "step", done=900, total=1000)
    found = Progress("predicting", "image")
    for progress in (known, found):
        assert "left" not in progress.line()
        for second, done in ((50, 900), (60, 910), (70, 920)):  # a start of 50 s is no step's time
            time_is(second)
            progress.update(done, 1000)
    assert left(known) == "1:20 left"
    assert "step" in known.line()
    assert "left" in left(found)


def test_the_estimate_does_not_jump(time_is: Callable[[float], None]) -> None:
    """Steps of 1 s with a pause of 5 s after each tenth, as for checkpoints: 1.5 s a step."""
    progress, now = Progress("training", "step"), 0.0
    for step in range(400):
        now += 1 if step % 10 else 6
        time_is(now)
        progress.update(step, 1000)
        if step > 200:
            minutes, seconds = map(int, left(progress).removesuffix(" left").split(":"))
            assert 60 * minutes + seconds == pytest.approx(1.5 * (1000 - step), rel=0.05)


def test_a_restart_from_a_checkpoint_takes_no_speed_away(time_is: Callable[[float], None]) -> None:
    progress = Progress("training", "step")
    for second in range(11):
        time_is(second)
        progress.update(100 + second, 200)
    time_is(12)
    progress.update(100, 200)  # workers died, and are back at the last checkpoint
    assert left(progress) == "1:40 left"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03")]
)
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
