"""Three trainings that start at once in one storage, on two isolated nodes: none refuses it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.local import Cluster
from cluster.marked_processes import marked_processes
from tests.helpers.disturbed import TRAIN

ROUNDS, COMMANDS, SECONDS_APART = 10, 3, 0.4
STARTED = " steps of 16 on 1 worker(s)"
"""Is said when cluster, storage and data are found good."""


class Command:
    """A training under a name of its own, which is ended as soon as it has started."""

    def __init__(self, drill: Any, folder: Path, name: str, seed: int) -> None:
        self.folder, self.name, self.said = folder, name, ""
        self.started = False
        flags = ["--storage", folder / "shared" / "storage", "--name", name, "--train.seed", seed]
        self.process: subprocess.Popen[str] = drill.start("mipnet", *TRAIN, *flags)
        self.thread = threading.Thread(target=self.follow)
        self.thread.start()

    def follow(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if STARTED in line:
                self.started = True
                self.end()

    def end(self) -> None:
        """SIGTERM to the command itself, not to what started it."""
        for process in marked_processes(f"{Cluster(str(self.folder)).tag}/run/"):
            words = process.cmdline()
            if self.name in words and words[1].endswith("/mipnet"):
                os.kill(process.pid, signal.SIGTERM)


@pytest.mark.drill
@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("drill", ["isolated"], indirect=True)
def test_three_commands_at_once(drill: Any, tmp_path: Path) -> None:
    """In the first round they render the data set, too."""
    up = drill("up", "--nodes", "2", "--cpus", "4")
    assert up.returncode == 0, up.stderr
    for number in range(ROUNDS):
        commands = []
        begin = time.monotonic()
        for seed in range(COMMANDS):
            commands.append(Command(drill, tmp_path, f"round{number}-{seed}", seed))
            time.sleep(SECONDS_APART)
        for command in commands:
            command.thread.join(900)
            status = command.process.wait(60)
            assert command.started, command.said
            assert status == 143, command.said
            assert "Traceback" not in command.said
        print(f"round {number}: {time.monotonic() - begin:.0f} s")
    assert not list((tmp_path / "shared" / "storage").glob(".probe-*"))
