"""Progress: a bar that nothing tears in a terminal, plain lines elsewhere, a steady estimate of the rest."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from mipnet.commands import progress as module
from mipnet.commands.progress import Pace, Progress, clock

LONG = "a path of many characters: " + "/folder" * 40
TALKS = f"""
import sys, time
from mipnet.commands.progress import Progress
from mipnet.config.flags import say

drawn, render = [], Progress.render
Progress.render = lambda self: drawn.append(self.done) or render(self)

def wait_until_drawn(progress):
    while progress._bar is not None and progress.done not in drawn:
        time.sleep(0.01)

say("before")
with Progress("training", "step", plain=len(sys.argv) > 1) as progress:
    progress.update(40, 100, "loss 0.5")
    wait_until_drawn(progress)
    say({LONG!r})
    print("half a ", end="")
    print("line", file=sys.stdout)
    print("from the error stream", file=sys.stderr)
    progress.update(100, 100, "loss 0.5")
    wait_until_drawn(progress)
    print("never ended", end="")
say("after")
print("rich" in sys.modules)
"""


def in_a_terminal(*argv: str) -> str:
    """What the script writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
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


def test_a_terminal_shows_a_bar_and_whole_lines_above_it() -> None:
    written = in_a_terminal()
    lines = lines_of(written)
    for said in ("before", LONG, "half a line", "from the error stream", "never ended", "after", "True"):
        assert any(line.endswith(said) for line in lines), said
    bars = [line for line in lines if line.startswith("training") and "━" in line]
    assert all(any(f"step {step}/100" in bar for bar in bars) for step in (40, 100))
    assert max(map(len, bars)) <= 80
    assert any("loss 0.5" in line for line in lines)
    assert lines[-4:] == ["step 100/100  loss 0.5", "after", "True", ""]  # the bar itself is gone
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # and the cursor is back


def test_plain_is_plain_even_in_a_terminal() -> None:
    written = in_a_terminal("plain")
    assert "\x1b" not in written
    assert lines_of(written)[-3:] == ["never endedafter", "False", ""]
    assert "step 100/100  loss 0.5" in written


def test_a_pipe_gets_lines_without_control_characters() -> None:
    env = {**os.environ, "TERM": "xterm-256color", "FORCE_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", TALKS], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.splitlines()[-2:] == ["never endedafter", "False"]  # rich was not even imported
    assert not re.search(r"[^\n -~]", done.stdout + done.stderr)
    assert done.stderr == "from the error stream\n"


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


def test_the_estimate_counts_from_where_this_process_began() -> None:
    """A run that goes on at step 900 has not made 900 steps in no time."""
    pace = Pace()
    assert pace.left(1000, 0) is None
    pace.update(900, 50)  # after a start of 50 s, which is no step's time
    assert pace.left(1000, 50) is None
    pace.update(910, 60)
    assert pace.left(1000, 60) == pytest.approx(90)
    assert pace.left(1000, 63) == pytest.approx(87)  # the clock goes on between updates
    assert pace.left(1000, 600) == 0


def test_the_estimate_does_not_jump() -> None:
    """Steps of 1 s with a pause of 5 s after each tenth, as for checkpoints: 1.5 s a step."""
    pace, now, lefts = Pace(), 0.0, []
    for step in range(0, 400):
        now += 1 if step % 10 else 6
        pace.update(step, now)
        if step > 200:
            lefts.append((pace.left(1000, now) or 0) / (1.5 * (1000 - step)))
    assert max(lefts) < 1.05
    assert min(lefts) > 0.95


def test_the_estimate_follows_a_lasting_change() -> None:
    pace = Pace()
    for second in range(100):
        pace.update(second, second)
    for second in range(100, 1000):
        pace.update(99 + (second - 99) // 10, second)  # ten times slower from here on
    assert pace.left(1189, 999) == pytest.approx(10_000, rel=0.05)


def test_what_comes_in_bursts_counts_once() -> None:
    pace = Pace()
    for burst in range(1, 6):
        for i in range(100):
            pace.update(100 * burst + i, 10 * burst + i / 1000)
    assert pace.left(1500, 50) == pytest.approx(100, rel=0.01)


def test_a_restart_from_a_checkpoint_takes_no_speed_away() -> None:
    pace = Pace()
    for second in range(11):
        pace.update(100 + second, second)
    pace.update(100, 500)  # workers died; after a while they are back at the last checkpoint
    assert pace.left(200, 500) == pytest.approx(100)
    pace.update(110, 510)
    assert pace.left(200, 510) == pytest.approx(90)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03")]
)
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
