"""Checks on every node of a Ray cluster: is the storage shared, and can files be read there?"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from mipnet.errors import UserError, reason_of, root_cause
from mipnet.storage import Folder, split_uri

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_SECONDS, SECONDS_BETWEEN_LOOKS = 60, 2.0
LATE = f"did not answer within {PROBE_TIMEOUT_SECONDS} s"


def probe_storage(storage: Folder) -> None:
    """Make sure that every node of the cluster sees the same storage.

    Raises:
        UserError: a node cannot read what this process wrote, or cannot write.
    """
    token = uuid.uuid4().hex
    probe = storage.join(f".probe-{token}")  # of this process alone: others probe at the same time
    probe.write("driver", token)
    try:
        for node, problem in problems_by_node(readable_and_writable, probe, token):
            raise UserError(
                f"node {node} cannot use the storage {storage.uri} ({problem})",
                "give a --storage that all nodes share: NFS, s3:// or gs://",
            )
    finally:
        storage.remove(f".probe-{token}")


def probe_files(uris: Sequence[str]) -> None:
    """Make sure that every node of the cluster can read files that this process can read.

    Raises:
        UserError: a node cannot.
    """
    readable = [uri for uri in uris if not first_unreadable([uri])]
    for node, problem in problems_by_node(first_unreadable, readable):
        hint = "put it where all nodes see it: NFS, s3:// or gs://"
        raise UserError(f"node {node} cannot read {problem}", hint)


def problems_by_node(check: Callable[..., str], *args: Any) -> list[tuple[str, str]]:
    """Run ``check(*args)`` on every living node, unless this machine is the only one.

    A node that is lost meanwhile is left out: nothing will run there. A lost process is started again.

    Returns:
        (address, problem) of each node where it returned one, failed or did not answer in time.
    """
    import ray

    nodes = living_nodes()
    if len(nodes) == 1:
        return []
    task = ray.remote(num_cpus=0)(check)
    on_node = {node: task.options(label_selector={"ray.io/node-id": node}) for node in nodes}
    waiting = {each.remote(*args): node for node, each in on_node.items()}
    problems, deadline = [], time.monotonic() + PROBE_TIMEOUT_SECONDS
    while waiting:
        done, _ = ray.wait([*waiting], num_returns=len(waiting), timeout=SECONDS_BETWEEN_LOOKS)
        living, late = living_nodes(), time.monotonic() > deadline
        for ref, node in list(waiting.items()):
            if node in living and not late and ref not in done:
                continue
            del waiting[ref]
            if ref not in done:
                ray.cancel(ref, force=True)
            if node in living and (problem := _answer(ref) if ref in done else LATE):
                problems.append((nodes[node], problem))
    return problems


def living_nodes() -> dict[str, str]:
    """Id of each living node of the cluster -> its address."""
    import ray

    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def _answer(ref: Any) -> str:
    import ray

    try:
        answer: str = ray.get(ref)
        return answer
    except ray.exceptions.RayError as error:
        logger.warning("a check on a node failed", exc_info=True)
        return f"the check failed there: {root_cause(error)}"


def readable_and_writable(probe: Folder, token: str) -> str:
    """Runs on a node: "" if it reads what the driver wrote and can write, else the problem."""
    try:
        if probe.read("driver").decode() != token:
            return "sees another file there"
        probe.write(uuid.uuid4().hex, token)
    except FileNotFoundError:
        return "does not see the files that other nodes write"
    except Exception as error:  # each file system has errors of its own
        logger.warning("cannot use %s", probe.uri, exc_info=True)
        return str(error)
    return ""


def first_unreadable(uris: Sequence[str]) -> str:
    """Runs on a node: the first file that it cannot read, and why; "" if it reads all."""
    for uri in uris:
        try:
            folder, name = split_uri(uri)
            folder.read(name)
        except OSError as error:
            return f"{uri} ({reason_of(error)})"
        except Exception as error:  # each file system has errors of its own
            logger.warning("cannot read %s", uri, exc_info=True)
            return f"{uri} ({error})"
    return ""
