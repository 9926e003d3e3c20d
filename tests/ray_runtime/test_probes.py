"""A check on every node, while nodes go and processes fail."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import ray

from mipnet.ray_runtime import probes
from mipnet.ray_runtime.probes import LATE, problems_by_node

pytestmark = pytest.mark.ray
GONE = "0" * 56
"""The id of a node on which nothing runs."""


@pytest.fixture
def looks(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What the next looks at the cluster find; the last one stays."""
    found = [{here(): "10.0.0.1", GONE: "10.0.0.2"}]
    monkeypatch.setattr(probes, "living_nodes", lambda: found.pop(0) if len(found) > 1 else found[0])
    monkeypatch.setattr(probes, "SECONDS_BETWEEN_LOOKS", 0.1)
    return found


def here() -> str:
    node: str = ray.get_runtime_context().get_node_id()
    return node


def say(problem: str) -> str:
    return problem


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def fail(*_: object) -> str:
    raise ValueError("a bug")


def die_once(folder: str) -> str:
    if not (file := Path(folder) / "dead").exists():
        file.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "a disk is full"


def test_a_node_that_is_lost_meanwhile_is_left_out(looks: list[dict[str, str]]) -> None:
    looks.append({here(): "10.0.0.1"})
    assert problems_by_node(say, "a disk is full") == [("10.0.0.1", "a disk is full")]
    assert problems_by_node(say, "") == []


def test_a_node_that_does_not_answer_is_one_with_a_problem(
    looks: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks.append({here(): "10.0.0.1"})
    monkeypatch.setattr(probes, "PROBE_TIMEOUT_SECONDS", 1)
    assert problems_by_node(sleep, 600) == [("10.0.0.1", LATE)]


def test_a_process_that_is_lost_is_started_again_and_a_bug_is_a_problem(
    looks: list[dict[str, str]], tmp_path: Path
) -> None:
    looks.append({here(): "10.0.0.1"})
    assert problems_by_node(die_once, str(tmp_path)) == [("10.0.0.1", "a disk is full")]
    looks.insert(0, {here(): "10.0.0.1", GONE: "10.0.0.2"})
    assert problems_by_node(fail) == [("10.0.0.1", "the check failed there: ValueError: a bug")]
