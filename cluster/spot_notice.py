"""Tells Ray that the cloud takes this machine away, so that a training saves a checkpoint in time.

    python spot_notice.py aws                   beside `ray start` on a spot machine of AWS
    python spot_notice.py gcp                   the same on Google Cloud
    python spot_notice.py now --seconds 15      at once, as from a pod's preStop hook

Waits for the cloud's notice in the machine's metadata and then runs `ray drain-node`, again while the head is
away. Needs nothing but Python: in the image it lies in /usr/local/bin, without this project.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

AWS_METADATA, GCP_METADATA = "http://169.254.169.254", "http://metadata.google.internal"
TOKEN_SECONDS = 21600
GCP_NOTICE_SECONDS = 30
"""Between Google's notice and the end of the machine; the metadata do not say it."""
SECONDS_BETWEEN_QUESTIONS = 5.0
REQUEST_SECONDS = 5.0
GCP_WAIT_SECONDS = 60
"""For which Google's metadata server keeps a question until the answer changes."""
SECONDS_BETWEEN_DRAINS = 2.0
DRAIN_SECONDS = 30.0
"""After which a `ray drain-node` that does not end is given up."""
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""The metadata are the machine's own: a proxy would give another one's, or none."""


@dataclass(frozen=True)
class Notice:
    """That this machine is taken away.

    Attributes:
        seconds: how long it has, at least.
        reason: in words.
    """

    seconds: int
    reason: str


def ask(url: str, headers: Mapping[str, str], method: str = "GET", seconds: float = REQUEST_SECONDS) -> str:
    """The body of an answer.

    Raises:
        OSError: no answer, or a status that is an error (``HTTPError``).
    """
    request = urllib.request.Request(url, headers=dict(headers), method=method)
    try:
        with NO_PROXY.open(request, timeout=seconds) as answer:
            return str(answer.read().decode())
    except http.client.HTTPException as error:
        raise OSError(f"{url}: {error!r}") from error


class AwsMetadata:
    """The instance metadata service of AWS, version 2: every question needs a token."""

    def __init__(self, address: str = AWS_METADATA) -> None:
        self.address, self._token = address, ""

    def notice(self) -> Notice | None:
        """The notice of a spot interruption, None if there is none.

        Raises:
            OSError: the service does not answer.
        """
        if not self._token:
            lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
            self._token = ask(f"{self.address}/latest/api/token", lifetime, "PUT")
        url = f"{self.address}/latest/meta-data/spot/instance-action"
        try:
            action = json.loads(ask(url, {"X-aws-ec2-metadata-token": self._token}))
        except urllib.error.HTTPError as error:
            if error.code == 401:  # the token is too old
                self._token = ""
            if error.code in (401, 404):
                return None
            raise
        when = datetime.strptime(action["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        seconds = max(int(when.timestamp() - time.time()), 0)
        return Notice(seconds, f"AWS: spot instance, {action['action']} at {action['time']}")


class GcpMetadata:
    """The metadata server of Google Cloud; it answers when the answer changes, or after a minute."""

    def __init__(self, address: str = GCP_METADATA) -> None:
        self.address, self._asked = address, False

    def notice(self) -> Notice | None:
        """The notice of a preemption, None if there is none.

        Raises:
            OSError: the server does not answer.
        """
        url = f"{self.address}/computeMetadata/v1/instance/preempted"
        if self._asked:  # the first answer is wanted at once
            url += f"?wait_for_change=true&timeout_sec={GCP_WAIT_SECONDS}"
        answer = ask(url, {"Metadata-Flavor": "Google"}, seconds=GCP_WAIT_SECONDS + REQUEST_SECONDS)
        self._asked = True
        return Notice(GCP_NOTICE_SECONDS, "Google Cloud: preempted") if answer.strip() == "TRUE" else None


def wait_for_notice(metadata: AwsMetadata | GcpMetadata, pause: float = SECONDS_BETWEEN_QUESTIONS) -> Notice:
    """Ask until there is a notice; metadata that do not answer are asked again."""
    complained = False
    while True:
        try:
            if found := metadata.notice():
                return found
            complained = False
        except (OSError, ValueError, KeyError) as error:
            if not complained:
                print(f"spot_notice: no proper answer of {metadata.address}: {error}", file=sys.stderr)
            complained = True
        time.sleep(pause)


def node_of_this_machine(processes: Path = Path("/proc")) -> str:
    """The id of the Ray node of this machine or container, from its raylet's command line.

    ``ray drain-node`` would find it too, but only by joining the cluster, which takes seconds of the notice.

    Raises:
        LookupError: there is none, or more than one.
    """
    found = set()
    for file in processes.glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        if words[0].rpartition("/")[2] == "raylet":
            found |= {word.partition("=")[2] for word in words if word.startswith("--node_id=")}
    if len(found) != 1:
        raise LookupError(f"{len(found)} Ray nodes run here: name one with --node-id")
    return found.pop()


def exit_status(words: Sequence[str]) -> int:
    """Of a command; 1 if it does not end."""
    try:
        return subprocess.run(words, timeout=DRAIN_SECONDS).returncode
    except subprocess.TimeoutExpired:
        return 1


def drain(
    notice: Notice,
    node: str,
    run: Callable[[Sequence[str]], int] = exit_status,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> int:
    """Run ``ray drain-node`` until it succeeds or the time is over; the last exit status."""
    words = ["ray", "drain-node", "--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    words += ["--reason-message", notice.reason, "--deadline-remaining-seconds"]
    print(f"spot_notice: {notice.reason}: draining node {node}, {notice.seconds} s", flush=True)
    left, deadline, complained = float(notice.seconds), clock() + notice.seconds, False
    while status := run([*words, str(int(left))]):
        if (left := deadline - clock() - SECONDS_BETWEEN_DRAINS) <= 0:
            break
        if not complained:
            again = f"again every {SECONDS_BETWEEN_DRAINS:g} s until the time is over"
            print(f"spot_notice: `ray drain-node` failed (status {status}); {again}", file=sys.stderr)
        complained = True
        sleep(SECONDS_BETWEEN_DRAINS)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="spot_notice.py", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("source", choices=("aws", "gcp", "now"), help="whose notice to wait for; now: none")
    parser.add_argument("--metadata", help="address of the metadata [the cloud's]")
    parser.add_argument("--seconds", type=int, default=15, help="now: how long this node has [%(default)s]")
    parser.add_argument("--reason", default="the pod is deleted", help="now: why [%(default)s]")
    parser.add_argument("--node-id", help="of the Ray node [that of this machine]")
    options = parser.parse_args(argv)
    notice = Notice(options.seconds, options.reason)
    if options.source != "now":
        kind = AwsMetadata if options.source == "aws" else GcpMetadata
        notice = wait_for_notice(kind(options.metadata) if options.metadata else kind())
    try:
        return drain(notice, options.node_id or node_of_this_machine())
    except LookupError as error:
        print(f"spot_notice: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
