"""The watcher of spot machines against servers that answer as the clouds' metadata do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest
from ray.scripts.scripts import drain_node

from cluster import spot_notice
from cluster.spot_notice import (
    AwsMetadata,
    GcpMetadata,
    Notice,
    drain,
    exit_status,
    node_of_this_machine,
    wait_for_notice,
)

SCRIPT = Path(spot_notice.__file__)
Answer = Callable[[BaseHTTPRequestHandler], tuple[int, str]]


@contextmanager
def metadata(answer: Answer) -> Iterator[str]:
    """A server that answers all requests so; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Aws:
    """Version 2 of the service: a token by PUT, which ends after some questions; 404 before the notice."""

    def __init__(self, questions: int, token_lasts: int = 99) -> None:
        self.questions, self.token_lasts = questions, token_lasts
        self.asked = self.used = self.tokens = 0
        self.when = datetime.now(UTC) + timedelta(seconds=120)

    def __call__(self, request: BaseHTTPRequestHandler) -> tuple[int, str]:
        if request.path == "/latest/api/token":
            lifetime = request.headers["X-aws-ec2-metadata-token-ttl-seconds"]
            if request.command != "PUT" or not 1 <= int(lifetime) <= 21600:
                return 400, ""
            self.tokens, self.used = self.tokens + 1, 0
            return 200, f"token{self.tokens}"
        assert (request.command, request.path) == ("GET", "/latest/meta-data/spot/instance-action")
        self.used += 1
        current = request.headers["X-aws-ec2-metadata-token"] == f"token{self.tokens}"
        if not current or self.used > self.token_lasts:
            return 401, ""
        self.asked += 1
        if self.asked < self.questions:
            return 404, ""
        return 200, json.dumps({"action": "terminate", "time": self.when.strftime("%Y-%m-%dT%H:%M:%SZ")})


class Gcp:
    """Keeps a question with ``wait_for_change`` until the machine is preempted."""

    def __init__(self) -> None:
        self.preempted, self.waiting = threading.Event(), threading.Event()
        self.paths: list[str] = []

    def __call__(self, request: BaseHTTPRequestHandler) -> tuple[int, str]:
        if request.headers["Metadata-Flavor"] != "Google":
            return 403, ""
        self.paths.append(request.path)
        assert request.path.partition("?")[0] == "/computeMetadata/v1/instance/preempted"
        if "wait_for_change=true" in request.path:
            self.waiting.set()
            self.preempted.wait(60)
        return 200, "TRUE" if self.preempted.is_set() else "FALSE"


def test_aws_is_asked_until_it_gives_notice() -> None:
    with metadata(aws := Aws(questions=3)) as address:
        notice = wait_for_notice(AwsMetadata(address), pause=0.01)
    assert 100 < notice.seconds <= 120
    assert notice.reason == f"AWS: spot instance, terminate at {aws.when.strftime('%Y-%m-%dT%H:%M:%SZ')}"
    assert aws.tokens == 1


def test_a_token_of_aws_that_has_ended_is_replaced() -> None:
    with metadata(aws := Aws(questions=5, token_lasts=2)) as address:
        assert wait_for_notice(AwsMetadata(address), pause=0.01).seconds > 100
    assert aws.tokens == 3


def test_a_notice_of_aws_whose_time_is_over_leaves_no_seconds() -> None:
    aws = Aws(questions=1)
    aws.when -= timedelta(seconds=300)
    with metadata(aws) as address:
        assert wait_for_notice(AwsMetadata(address)).seconds == 0


def test_google_says_it_when_it_happens() -> None:
    with metadata(gcp := Gcp()) as address:
        found: list[Notice] = []
        watcher = threading.Thread(
            target=lambda: found.append(wait_for_notice(GcpMetadata(address), pause=0.01))
        )
        watcher.start()
        assert gcp.waiting.wait(60)
        assert not found
        gcp.preempted.set()
        watcher.join(60)
    assert found == [Notice(30, "Google Cloud: preempted")]
    assert "wait_for_change" not in gcp.paths[0], "what has happened already would not change any more"


def test_metadata_that_do_not_answer_are_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    states = iter([(500, ""), (500, ""), (200, "no JSON")])
    aws = Aws(questions=1)

    def answer(request: BaseHTTPRequestHandler) -> tuple[int, str]:
        return aws(request) if "token" in request.path else next(states, None) or aws(request)

    with metadata(answer) as address:
        assert wait_for_notice(AwsMetadata(address), pause=0.01).seconds > 100
    (line,) = capsys.readouterr().err.splitlines()
    assert "HTTP Error 500" in line


def test_the_node_is_that_of_the_only_raylet(tmp_path: Path) -> None:
    def process(number: int, *words: str) -> None:
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "cmdline").write_bytes("\0".join(words).encode())

    process(1, "python", "raylet", "--node_id=no")
    with pytest.raises(LookupError, match="0 Ray nodes"):
        node_of_this_machine(tmp_path)
    process(2, "/usr/lib/ray/raylet", "--node_id=abc", "--gcs-address=1.2.3.4:6379")
    assert node_of_this_machine(tmp_path) == "abc"
    process(3, "/usr/lib/ray/raylet", "--node_id=def")
    with pytest.raises(LookupError, match="--node-id"):
        node_of_this_machine(tmp_path)


@pytest.fixture
def ray_command(tmp_path: Path) -> Path:
    """A folder whose ``ray`` notes what it is called with."""
    ray = tmp_path / "bin" / "ray"
    ray.parent.mkdir()
    ray.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/called\n')
    ray.chmod(0o755)
    return ray.parent


def watch(ray_command: Path, *argv: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The script alone, as in the image; and the words after ``ray drain-node``."""
    env = {**os.environ, "PATH": f"{ray_command}:{os.environ['PATH']}"}
    words = [sys.executable, "-I", "-S", str(SCRIPT), *argv]  # -I, -S: no package of this project or another
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)
    called = ray_command.parent / "called"
    verb, *flags = called.read_text().splitlines() if called.exists() else [""]
    assert not flags or verb == "drain-node"
    return done, flags


def test_ray_takes_the_words_of_the_script(ray_command: Path) -> None:
    """Ray's own parser of ``ray drain-node`` reads them."""
    with metadata(Aws(questions=1)) as address:
        done, flags = watch(ray_command, "aws", "--metadata", address, "--node-id", "a" * 56)
    assert done.returncode == 0, done.stderr
    read = drain_node.make_context("drain-node", list(flags)).params
    assert 100 < read.pop("deadline_remaining_seconds") <= 120
    assert read.pop("reason_message").startswith("AWS: spot instance, terminate at ")
    assert read == {"address": None, "node_id": "a" * 56, "reason": "DRAIN_NODE_REASON_PREEMPTION"}
    with pytest.raises(click.ClickException):
        drain_node.make_context("drain-node", [*flags, "--reason", "another"])


class AwayHead:
    """Stands in for `ray drain-node` and the clock: an attempt takes a second, and fails for some time."""

    def __init__(self, seconds: float) -> None:
        self.back, self.now = seconds, 0.0
        self.given: list[int] = []

    def run(self, words: Sequence[str]) -> int:
        self.given.append(int(words[-1]))
        self.now += 1
        return 3 if self.now < self.back else 0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("away", "status", "given"),
    [(0, 0, [12]), (7, 0, [12, 9, 6]), (99, 3, [12, 9, 6, 3])],
)
def test_a_head_that_is_away_is_told_later_with_the_seconds_that_are_left(
    away: float, status: int, given: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    head = AwayHead(away)
    assert drain(Notice(12, "gone"), "ab", head.run, lambda: head.now, head.sleep) == status
    assert head.given == given
    assert capsys.readouterr().err.count("`ray drain-node` failed (status 3)") == (away > 0)


def test_a_notice_without_time_is_given_once() -> None:
    head = AwayHead(99)
    assert drain(Notice(0, "gone"), "ab", head.run, lambda: head.now, head.sleep) == 3
    assert head.given == [0]


def test_a_command_that_does_not_end_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(words: Sequence[str], timeout: float) -> None:
        raise subprocess.TimeoutExpired(words, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert exit_status(["ray"]) == 1


def test_at_once_for_a_pod_that_is_deleted(ray_command: Path) -> None:
    begin = time.monotonic()
    done, flags = watch(ray_command, "now", "--seconds", "20", "--node-id", "ab")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begin < 30
    read = drain_node.make_context("drain-node", list(flags)).params
    assert (read["deadline_remaining_seconds"], read["reason_message"]) == (20, "the pod is deleted")
