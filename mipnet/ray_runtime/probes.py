"""Checks on every node of a Ray cluster: is the storage shared, and can files be read there?"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from mipnet.errors import UserError, reason_of
from mipnet.storage import Folder, split_uri

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_SECONDS = 60


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

    Returns:
        (address, problem) of each node where it returned one or did not answer in time.
    """
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1:
        return []
    task = ray.remote(num_cpus=0, max_retries=0)(check)
    tasks = [task.options(label_selector={"ray.io/node-id": node["NodeID"]}) for node in nodes]
    refs = [task.remote(*args) for task in tasks]
    done, _ = ray.wait(refs, num_returns=len(refs), timeout=PROBE_TIMEOUT_SECONDS)
    late = f"did not answer within {PROBE_TIMEOUT_SECONDS} s"
    problems = [ray.get(ref) if ref in done else late for ref in refs]
    answers = zip(nodes, problems, strict=True)
    return [(node["NodeManagerAddress"], problem) for node, problem in answers if problem]


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
