"""Starting or joining Ray, quietly, and asking a cluster what it can give before it is used."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from mipnet.config.schema import ResourcesConfig
from mipnet.console import say
from mipnet.errors import UserError, causes, reason_of
from mipnet.host import cores, memory
from mipnet.storage import Folder, parent_of

SECONDS_TO_ANSWER = 10.0
CORES_BESIDE_WORKERS = 3
"""Logical CPUs of a local Ray for decoding and for the processes that validate beside the training."""
LEAST_URGENT = "19"
"""Niceness of a local Ray's workers, of which those that train are excepted; Ray's own is 15."""
LEAST_STORE = 2.0**30
"""Bytes of a local Ray's object store, of which only what is used takes memory."""
NODE_GROUP = "ray.io/node-group"
"""Label that Ray gives to nodes of ``ray up``, of KubeRay and of whatever else starts nodes by their kind."""


@dataclass(frozen=True)
class Growth:
    """What a cluster may become.

    Attributes:
        grows: something may start more nodes.
        limits: the most that there may be of each resource; empty where nobody tells.
    """

    grows: bool = False
    limits: Mapping[str, float] = field(default_factory=dict)


@contextmanager
def connect(resources: ResourcesConfig, verbose: bool = False, window: int = 0) -> Iterator[ResourcesConfig]:
    """A Ray connection for the time of the ``with`` block; yields ``resources`` with ``gpu`` settled.

    ``RAY_ADDRESS`` names a cluster to join (inside a submitted job Ray sets it); without it a new Ray is
    started on this machine, never one joined that somebody left running.

    Args:
        resources: what will be asked for.
        verbose: show Ray's own messages.
        window: bytes of a window of training samples, if any will be streamed; a Ray that is started here
            gets shared memory for them.

    Raises:
        UserError: the cluster does not answer, or can never give what ``resources`` ask for.
    """
    quieten(verbose)
    address = os.environ.get("RAY_ADDRESS") or "local"
    _check_reachable(address)
    import ray.data

    quieten(verbose)  # importing Ray set its loggers anew
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = verbose
    level = logging.INFO if verbose else logging.ERROR
    options: dict[str, Any] = {"log_to_driver": verbose, "logging_level": level}
    if address == "local":
        # Logical CPUs: on a small machine the training process, the decoding tasks and the validation
        # beside them share the cores, as processes always have; Ray must only not refuse to place them.
        wanted = resources.workers + max(resources.stream_workers, resources.predict_workers)
        cpus = max(cores(), wanted + CORES_BESIDE_WORKERS)
        store = resources.object_store_gb * 2**30 or _local_store(window, cpus - resources.workers)
        options |= {"num_cpus": cpus, "object_store_memory": int(store), "include_dashboard": False}
        on_gpu = resources.gpu is True  # auto asks for nothing that is not there
        here = {"CPU": cpus, "GPU": gpus_here() if on_gpu else 0}
        check_room(replace(resources, gpu=on_gpu), [here], Growth())
        os.environ.setdefault("RAY_worker_niceness", LEAST_URGENT)
    try:
        with contextlib.nullcontext() if verbose else _stderr_closed():
            ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if any("AuthToken" in str(cause) for cause in causes(error)):
            raise UserError(
                f"the Ray cluster at {address} demands a token, and takes none of ours",
                "give it in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token",
            ) from None
        none_here = address == "auto" and isinstance(error, ConnectionError)
        reason = "none runs on this machine" if none_here else str(error).strip().splitlines()[0]
        raise _no_cluster(address, reason) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)  # Ray's own handler would print a stack trace
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        growth = Growth() if address == "local" else ask_growth(node["Labels"] for node in nodes)
        gpus = max(ray.cluster_resources().get("GPU", 0), growth.limits.get("GPU", 0))
        resources = settle_gpu(resources, int(gpus))
        check_room(resources, [node["Resources"] for node in nodes], growth)
        yield resources
    finally:
        ray.shutdown()


def _local_store(window: int, tasks: int) -> float:
    """Bytes for a local object store: never more than Ray itself would take (30 % of the free memory), nor
    than /dev/shm has (a larger store Ray would put on the disk; on a Mac it takes 2 GiB at most)."""
    from mipnet.ray_runtime.capacity import store_for

    shared = 0.95 * shutil.disk_usage("/dev/shm").free if sys.platform == "linux" else 2.0 * 2**30
    return max(LEAST_STORE, min(store_for(window, tasks), 0.3 * memory(), shared))


def _check_reachable(address: str) -> None:
    """Ray itself tries a dead address, or one of something else, for minutes."""
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS {address} is a dashboard's, to submit jobs to",
            "submit this as a job (jobs/submit.py), or give HOST:PORT of the head node, usually port 6379",
        )
    target = address.removeprefix("ray://")
    host, _, port = target.rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise _no_cluster(address, str(error.strerror or error)) from None
    if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):
        _check_grpc(address, target)


def _check_grpc(address: str, target: str) -> None:
    import grpc

    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=SECONDS_TO_ANSWER)
        except grpc.FutureTimeoutError:
            raise _no_cluster(address, "what listens there is not Ray") from None


def _no_cluster(address: str, reason: str) -> UserError:
    return UserError(
        f"no Ray cluster answers at {address} ({reason})",
        "check RAY_ADDRESS, or unset it to use this machine",
    )


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Ray's C++ side greets on file descriptor 2 itself; errors of the start come as exceptions."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def quieten(verbose: bool) -> None:
    """Ray's own messages off unless asked for. The environment is read when Ray starts, so call it first."""
    if verbose:
        return
    settings = {
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",  # errors that matter come as exceptions too
        "RAY_DEDUP_LOGS": "1",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # A small machine starts more processes than cores; no warning needed for that.
        "RAY_worker_maximum_startup_concurrency": "16",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)


def settle_gpu(resources: ResourcesConfig, gpus: int) -> ResourcesConfig:
    """``gpu`` as true or false; where it was auto, says which.

    Args:
        resources: as configured.
        gpus: how many the cluster has.
    """
    if resources.gpu != "auto":
        return resources
    workers = resources.workers
    if not gpus:
        say("no GPU in Ray's cluster: computing on CPUs")
    elif gpus < workers:
        say(f"{gpus} GPUs are too few for {workers} workers: computing on CPUs")
    else:
        say(f"computing on GPUs: {gpus} in Ray's cluster, one for each of {workers} worker(s)")
    return replace(resources, gpu=gpus >= workers)


def check_room(resources: ResourcesConfig, nodes: Sequence[Mapping[str, float]], growth: Growth) -> None:
    """Refuse what the cluster can never give, for which Ray would wait for ever.

    Args:
        resources: with ``gpu`` settled.
        nodes: what each living node has.
        growth: what else there may be.

    Raises:
        UserError: no node holds one worker, not all workers find room, or none is left to decode images.
    """
    workers, cpus = resources.workers, max(resources.cpus_per_worker, 1)
    one = {"CPU": float(cpus), **({"GPU": 1.0} if resources.gpu is True else {})}
    text = " and ".join(f"{amount:g} {name}{'s' if amount > 1 else ''}" for name, amount in one.items())
    less = "leave out --gpu or lower" if resources.gpu is True else "lower"
    room = sum(int(min(node.get(name, 0) // amount for name, amount in one.items())) for node in nodes)
    wanted = {name: workers * amount for name, amount in one.items()}
    wanted["CPU"] += 1  # decodes
    have = {name: sum(node.get(name, 0) for node in nodes) for name in wanted}
    if room >= workers and have["CPU"] >= wanted["CPU"]:
        return
    if growth.grows:
        for name, amount in wanted.items():
            if growth.limits and growth.limits.get(name, 0) < amount:
                raise UserError(
                    f"{workers} worker(s) of {text} and the decoding of images need {amount:g} {name}s, but "
                    f"Ray's autoscaler gives {growth.limits.get(name, 0):g} at most",
                    f"ask for fewer --workers, {less} --resources.cpus-per-worker, or raise its limits",
                )
        say(f"Ray has room for {room} of {workers} worker(s) now; its autoscaler has to start nodes")
    elif not room:
        largest = max(nodes, key=lambda node: [node.get(name, 0) for name in reversed(one)], default={})
        found = " and ".join(f"{largest.get(name, 0):g} {name}s" for name in one)
        raise UserError(
            f"no node of Ray's cluster holds one worker of {text} (the largest has {found})",
            f"{less} --resources.cpus-per-worker",
        )
    elif room < workers:
        raise UserError(
            f"resources.workers: {workers} workers of {text} do not fit into Ray's cluster, which has room "
            f"for {room}",
            f"use --workers {room}, or {less} --resources.cpus-per-worker",
        )
    else:
        raise UserError(
            f"resources.workers: {workers} workers of {text} take all {have['CPU']:g} CPUs of Ray's cluster "
            "and leave none to decode images",
            "ask for fewer --workers or lower --resources.cpus-per-worker",
        )


def gpus_here() -> int:
    """GPUs of this machine that a local Ray would hand out."""
    import torch

    return torch.cuda.device_count()


def ask_growth(labels: Iterable[Mapping[str, str]]) -> Growth:
    """Whether something may start more nodes for the cluster that we are connected to, and its limits.

    Ray has no public question for the limits, and few autoscalers tell them. Without them nothing is refused
    that an autoscaler might give: it is waited for.

    Args:
        labels: of each living node.
    """
    import ray

    try:
        limits = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    except AttributeError:
        limits = {}
    return Growth(bool(limits) or any(NODE_GROUP in each for each in labels), limits)


def probe_storage(storage: Folder) -> None:
    """Make sure that every node of the cluster sees the same storage.

    Raises:
        UserError: a node cannot read what this process wrote, or cannot write.
    """
    token = uuid.uuid4().hex
    storage.write(f".probe/{token}", token)
    try:
        for node, problem in ask_nodes(_probe_here, storage, token):
            raise UserError(
                f"node {node} cannot use the storage {storage.uri} ({problem})",
                "give a --storage that all nodes share: NFS, s3:// or gs://",
            )
    finally:
        storage.remove(".probe")


def probe_files(uris: Sequence[str]) -> None:
    """Make sure that every node of the cluster can read files that this process can read.

    Raises:
        UserError: a node cannot.
    """
    for node, problem in ask_nodes(_read_here, [uri for uri in uris if not _read_here([uri])]):
        raise UserError(
            f"node {node} cannot read {problem}", "put it where all nodes see it: NFS, s3:// or gs://"
        )


def ask_nodes(question: Callable[..., str], *args: Any) -> list[tuple[str, str]]:
    """The nodes that have a problem, and which: what ``question`` returns there, if anything.

    Nothing is asked where this machine is the only node.
    """
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1:
        return []
    ask = ray.remote(num_cpus=0, max_retries=0)(question)
    refs = {
        ask.options(label_selector={"ray.io/node-id": node["NodeID"]}).remote(*args): node for node in nodes
    }
    done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=60)
    answers = {ref: ray.get(ref) if ref in done else "did not answer within 60 s" for ref in refs}
    return [(refs[ref]["NodeManagerAddress"], problem) for ref, problem in answers.items() if problem]


def _probe_here(storage: Folder, token: str) -> str:
    """Runs on a node: an empty string if it sees what the driver wrote and can write itself."""
    try:
        if storage.read(f".probe/{token}").decode() != token:
            return "sees another file there"
        storage.write(f".probe/{token}-{uuid.uuid4().hex[:8]}", token)
    except FileNotFoundError:
        return "does not see the files that other nodes write"
    except Exception as error:
        return str(error)
    return ""


def _read_here(uris: Sequence[str]) -> str:
    """Runs on a node: the first that it cannot read, and why."""
    for uri in uris:
        try:
            folder, name = parent_of(uri)
            folder.read(name)
        except OSError as error:
            return f"{uri} ({reason_of(error)})"
        except Exception as error:
            return f"{uri} ({error})"
    return ""
