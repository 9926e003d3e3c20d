"""How a command's process ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import atexit, ctypes, sys, threading
from mipnet.cli.main import run_process

def destroyed():  # what C++ does when a process ends: here it aborts
    import os
    os.abort()

callback = ctypes.CFUNCTYPE(None)(destroyed)

def command():
    import {package}
    ctypes.CDLL(None).__cxa_atexit(callback, None, None)
    atexit.register(print, "closed", end="")
    threading.Thread(target=lambda: print("thread ", end="")).start()
    print("done ", end="")
    {end}

run_process(command)
"""


@pytest.mark.parametrize(
    ("end", "status", "words"),
    [("return 0", 0, ""), ("return 3", 3, ""), ("raise LookupError('a bug')", 1, "LookupError: a bug")],
)
def test_a_process_with_ray_ends_with_its_status_and_all_said(end: str, status: int, words: str) -> None:
    code = CODE.format(package="ray", end=end)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert done.stdout in ("done thread closed", "thread done closed")
    assert words in done.stderr
