"""Starting or joining Ray, quietly, and asking a cluster what it can give before it is used."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from mipnet.config.schema import ResourcesConfig
from mipnet.errors import UserError
from mipnet.storage import Folder

CORES_BESIDE_WORKERS = 3
"""Logical CPUs of a local Ray for decoding and for the processes that validate beside the training."""


@contextmanager
def connect(resources: ResourcesConfig, verbose: bool = False) -> Iterator[None]:
    """A Ray connection for the time of the ``with`` block.

    ``RAY_ADDRESS`` names a cluster to join (inside a submitted job Ray sets it); without it a new Ray is
    started on this machine, never one joined that somebody left running.

    Raises:
        UserError: the cluster does not answer, or can never give what ``resources`` ask for.
    """
    quieten(verbose)
    address = os.environ.get("RAY_ADDRESS") or "local"
    _check_reachable(address)
    import ray

    options = {"log_to_driver": verbose, "logging_level": logging.INFO if verbose else logging.ERROR}
    if address == "local":
        # Logical CPUs: on a small machine the training process, the decoding tasks and the validation
        # beside them share the cores, as processes always have; Ray must only not refuse to place them.
        cores = os.cpu_count() or 1
        wanted = resources.workers + max(resources.stream_workers, resources.predict_workers)
        options |= {
            "num_cpus": max(cores, wanted + CORES_BESIDE_WORKERS),
            "object_store_memory": int(resources.object_store_gb * 2**30),
            "include_dashboard": False,
        }
    try:
        with contextlib.nullcontext() if verbose else _stderr_closed():
            ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, str(error).strip().splitlines()[0]) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)  # Ray's own handler would print a stack trace
    try:
        _settle_data_context(verbose)
        _check_resources(resources)
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself tries a dead address for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise _no_cluster(address, str(error.strerror or error)) from None


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
        # A local Ray shares the machine as any program does, instead of yielding to all others.
        "RAY_worker_niceness": "0",
        # A small machine starts more processes than cores; no warning needed for that.
        "RAY_worker_maximum_startup_concurrency": "16",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    for name in ("ray", "ray.data", "ray.train", "ray._private.authentication"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _settle_data_context(verbose: bool) -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = verbose
    context.print_on_execution_start = verbose
    quieten(verbose)  # importing ray.data set its loggers anew


def _check_resources(resources: ResourcesConfig) -> None:
    import ray

    have = ray.cluster_resources()
    if resources.gpu:
        need = resources.workers
        if have.get("GPU", 0) < need:
            raise UserError(
                f"resources.workers: {need} need {need} GPUs but Ray has {have.get('GPU', 0):g}",
                "ask for fewer workers, or leave out --gpu",
            )
    elif have.get("CPU", 0) < resources.workers * max(resources.cpus_per_worker, 1):
        raise UserError(
            f"resources.workers: {resources.workers} x {max(resources.cpus_per_worker, 1)} CPUs do not fit "
            f"into the cluster's {have.get('CPU', 0):g}",
            "ask for fewer workers",
        )


def probe_storage(storage: Folder) -> None:
    """Make sure that every node of the cluster sees the same storage.

    Raises:
        UserError: a node cannot read what this process wrote, or cannot write.
    """
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    token = uuid.uuid4().hex
    storage.write(f".probe/{token}", token)
    try:
        if len(nodes) == 1:
            return
        probe = ray.remote(num_cpus=0, max_retries=0)(_probe_here)
        refs = {
            probe.options(label_selector={"ray.io/node-id": node["NodeID"]}).remote(storage, token): node
            for node in nodes
        }
        done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=60)
        for ref, node in refs.items():
            problem = ray.get(ref) if ref in done else "did not answer within 60 s"
            if problem:
                raise UserError(
                    f"node {node['NodeManagerAddress']} cannot use the storage {storage.uri} ({problem})",
                    "give a --storage that all nodes share: NFS, s3:// or gs://",
                )
    finally:
        storage.remove(".probe")


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
