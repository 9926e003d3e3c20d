"""Connecting to a Ray cluster, or starting a Ray on this machine, without Ray's own messages."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mipnet.config.schema import ResourcesConfig
from mipnet.errors import UserError, causes, one_line
from mipnet.host import Termination, cores, memory
from mipnet.logs import attach_libraries
from mipnet.ray_runtime import resources as cluster_resources
from mipnet.ray_runtime.elastic_workers import resolve_elastic
from mipnet.ray_runtime.gpus import GpuProblem, cuda_problem, gpu_problem, gpus_refused
from mipnet.ray_runtime.resources import AutoscalerLimits, check_resources

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 10.0
START_ATTEMPTS = 3
EXTRA_LOGICAL_CPUS = 3
"""Logical CPUs of a local Ray for decoding and for the processes that validate beside the training."""
LOCAL_WORKER_NICENESS = "19"
"""Niceness of a local Ray's workers, except training workers; Ray's default is 15."""
MIN_OBJECT_STORE_BYTES = 2.0**30
"""Of a local Ray's object store; memory is only taken as it is used."""


@contextmanager
def connect(
    resources: ResourcesConfig, verbose: bool = False, window_bytes: int = 0
) -> Iterator[ResourcesConfig]:
    """A Ray connection for the time of the ``with`` block; yields ``resources`` with open ones decided.

    ``RAY_ADDRESS`` names a cluster to join (inside a submitted job Ray sets it); without it a new Ray is
    started on this machine, even if another one runs here.

    Args:
        resources: what will be asked for.
        verbose: show Ray's own messages.
        window_bytes: of the crops of a shuffle window, 0 if nothing is streamed; a Ray that is started here
            gets an object store for them.

    Raises:
        UserError: the cluster does not answer, or can never give what ``resources`` ask for.
    """
    silence_ray(verbose)
    address = os.environ.get("RAY_ADDRESS") or "local"
    _check_reachable(_address_of_auto() if address == "auto" else address)
    import ray.data

    silence_ray(verbose)  # importing Ray set its loggers anew
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = verbose
    level = logging.INFO if verbose else logging.ERROR
    options: dict[str, Any] = {"log_to_driver": verbose, "logging_level": level}
    if address == "local":
        options |= _local_options(resources, window_bytes)
    try:
        with contextlib.nullcontext() if verbose else _stderr_closed():
            _init_ray(address, options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if any("AuthToken" in str(cause) for cause in causes(error)):
            raise token_demanded(f"the Ray cluster at {address}") from None
        none_here = address == "auto" and isinstance(error, ConnectionError)
        reason = "none runs on this machine" if none_here else str(error).strip().splitlines()[0]
        raise _no_cluster(address, reason) from None
    except OSError as error:
        if "AF_UNIX" not in str(error):
            raise
        hint = "set RAY_TMPDIR to a short one, such as /tmp"
        raise UserError("the path of the temporary folder is too long for Ray's sockets", hint) from None
    attach_libraries()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, Termination())  # Ray's would print a stack trace
    with contextlib.nullcontext() if verbose else raylet_messages_logged():
        try:
            yield _fitted(resources, address)
        finally:
            ray.shutdown()


def _fitted(resources: ResourcesConfig, address: str) -> ResourcesConfig:
    """``resources`` with ``gpu`` and workers MIN:MAX resolved, which the cluster at ``address`` can give.

    Raises:
        UserError: it can never give them, or PyTorch cannot use the GPUs that are demanded.
    """
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    labels = (node["Labels"] for node in nodes)
    autoscaler = AutoscalerLimits() if address == "local" else cluster_resources.autoscaler_limits(labels)
    gpus = max(ray.cluster_resources().get("GPU", 0), autoscaler.limits.get("GPU", 0))
    logger.info("connected to Ray at %s: %d node(s), %g GPU(s)", address, len(nodes), gpus)

    def find_problem() -> GpuProblem | None:
        return gpu_problem(nodes, autoscaler.can_add_nodes)

    fitted = cluster_resources.resolve_use_gpu(resources, int(gpus), find_problem)
    if fitted.elastic:
        fitted = resolve_elastic(fitted, nodes, local=address == "local")
    check_resources(fitted, [node["Resources"] for node in nodes], autoscaler)
    if resources.gpu is True and (problem := find_problem()):
        raise gpus_refused(problem)
    return fitted


def _init_ray(address: str, options: dict[str, Any]) -> None:
    """``ray.init``, tried again where Ray was too slow for itself.

    Raises:
        UserError: it was so three times.
    """
    import ray

    for _ in range(START_ATTEMPTS):
        try:
            ray.init(address=address, **options)
            return
        except Exception as error:  # Ray has no class for it
            ray.shutdown()
            if "timed out during startup" not in str(error):
                raise
            logger.warning("Ray did not start in time", exc_info=True)
    what = f"Ray did not start in time on this machine, {START_ATTEMPTS} times"
    raise UserError(what, "the same command goes on when the machine is less busy", 1)


def _address_of_auto() -> str:
    """The address of the cluster that ``auto`` means.

    Ray has no public way to ask. Without it a cluster that is gone is only found after two minutes.

    Raises:
        UserError: there is none.
    """
    try:
        from ray._private.services import get_ray_address_from_environment
    except ImportError:
        logger.info("this Ray does not tell what auto is", exc_info=True)
        return "auto"
    try:
        return str(get_ray_address_from_environment("auto", None))
    except ConnectionError:
        raise _no_cluster("auto", "none runs on this machine") from None


def _local_options(resources: ResourcesConfig, window_bytes: int) -> dict[str, Any]:
    """Of ``ray.init`` for a Ray on this machine.

    Raises:
        UserError: this machine cannot give what ``resources`` ask for.
    """
    # Logical CPUs: on a small machine training, decoding and validation share the cores, as processes always
    # do; Ray must only not refuse to place them.
    wanted = resources.max_workers + max(resources.stream_workers, resources.predict_workers, 1)
    cpus = max(cores(), wanted + EXTRA_LOGICAL_CPUS)
    needed = local_object_store_bytes(window_bytes, tasks=cpus - resources.max_workers)
    object_store = resources.object_store_gb * 2**30 or needed
    use_gpu = resources.gpu is True  # auto asks for nothing that is not there
    node = {"CPU": cpus, "GPU": cluster_resources.local_gpu_count() if use_gpu else 0}
    if use_gpu and not node["GPU"] and (problem := cuda_problem(1)):
        raise gpus_refused(problem)
    check_resources(replace(resources, gpu=use_gpu), [node], AutoscalerLimits())
    os.environ.setdefault("RAY_worker_niceness", LOCAL_WORKER_NICENESS)
    return {"num_cpus": cpus, "object_store_memory": int(object_store), "include_dashboard": False}


def local_object_store_bytes(window_bytes: int, tasks: int) -> float:
    """Size of a local object store: at most what Ray itself would take (30 % of the free memory) and what
    /dev/shm has, because Ray puts a larger store on the disk. On a Mac Ray takes 2 GiB at most."""
    from mipnet.ray_runtime.capacity import object_store_needed

    shared = 0.95 * shutil.disk_usage("/dev/shm").free if sys.platform == "linux" else 2.0 * 2**30
    return max(MIN_OBJECT_STORE_BYTES, min(object_store_needed(window_bytes, tasks), 0.3 * memory(), shared))


def _check_reachable(address: str) -> None:
    """Fail at once at a dead address, or at one of another program: Ray itself tries for minutes."""
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
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_SECONDS).close()
    except OSError as error:
        raise _no_cluster(address, str(error.strerror or error)) from None
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return
    import grpc

    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_TIMEOUT_SECONDS)
        except grpc.FutureTimeoutError:
            raise _no_cluster(address, "what listens there is not Ray") from None


def token_demanded(cluster: str) -> UserError:
    hint = "give it in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token"
    return UserError(f"{cluster} demands a token, and takes none of ours", hint)


def _no_cluster(address: str, reason: str) -> UserError:
    hint = "check RAY_ADDRESS, or unset it to use this machine"
    return UserError(f"no Ray cluster answers at {address} ({reason})", hint)


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Discard file descriptor 2, where Ray's C++ side prints; errors of the start come as exceptions."""
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


@contextmanager
def raylet_messages_logged() -> Iterator[None]:
    """Log what Ray prints of lost nodes, processes and tasks, in colours and at length, also when it is to be
    quiet. We say what became of them. Ray has no public way: if it renames what is replaced, it prints again.
    """
    from ray._private import worker

    def log(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        for text in data.get("lines", []):
            logger.info("Ray: %s", one_line(text))

    printing = getattr(worker, "print_worker_logs", None)
    if printing is None:
        logger.info("this Ray prints messages in another way")
        yield
        return
    worker.print_worker_logs = log
    try:
        yield
    finally:
        worker.print_worker_logs = printing


def silence_ray(verbose: bool) -> None:
    """Turn Ray's own messages off, unless ``verbose``. Call it before Ray starts, for the environment."""
    if verbose:
        return
    settings = {
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",  # errors that matter are raised as well
        "RAY_DEDUP_LOGS": "1",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # No warning because a small machine starts more processes than it has cores.
        "RAY_worker_maximum_startup_concurrency": "16",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    for name in ("ray", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it logs as an error it raises as well
