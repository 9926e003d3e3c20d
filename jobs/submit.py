"""Submit jobs to a cluster, follow, stop and list them.

    python jobs/submit.py train --address http://HEAD:8265 -- --preset tiny --storage s3://bucket/mipnet
    python jobs/submit.py status|logs|stop ID
    python jobs/submit.py list

Packs the project (no data, no caches), submits ``python jobs/JOB.py FLAGS``, follows its log and returns its
exit status. The address is also taken from RAY_API_SERVER_ADDRESS; a token from RAY_AUTH_TOKEN or
RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token. What the flags ask for and the cluster can never give is
an error before anything is sent.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mipnet.cli.main import COMMANDS, exit_status
from mipnet.cli.shared_options import read_flags
from mipnet.config.schema import ResourcesConfig
from mipnet.console import say
from mipnet.errors import UserError, as_user_error, suggest
from mipnet.ray_runtime.resources import NODE_GROUP_LABEL, AutoscalerLimits, check_resources
from mipnet.ray_runtime.session import token_demanded
from mipnet.tracking.provenance import COMMIT_ENV_VAR, source_commit

PROJECT = Path(__file__).resolve().parents[1]
JOBS = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py") if path.stem != "submit")
VERBS = ("status", "logs", "stop", "list")
PACKING_EXCLUDES = [
    *(f"/{name}" for name in ("data", "runs", "mlruns", "predictions", "build", "dist", "venv", "tests")),
    ".git", ".venv", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis",
    "*.pth", "*.pt", "*.safetensors", "*.parquet", "*.db", "*.zip", "*.tar*",
]  # fmt: skip
"""As in a .gitignore, on top of the project's own: what no job needs, or what is too much to send."""
FORWARDED = ("MLFLOW_TRACKING_URI", "MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
"""Set for the job as they are here. Secrets are not among them: a job's environment is on the dashboard."""
STOP_SECONDS = "60"
"""Seconds that a stopped job has for its end: Ray's 3 are too few to note where it was."""
RETRY_SECONDS = 2.0
DASHBOARD_TIMEOUT_SECONDS = 120.0
"""Seconds for which a dashboard may be away while a job is followed, as after a restart of the head."""


def submit(options: argparse.Namespace, flags: Sequence[str]) -> int:
    """Submit a job; its exit status, or 0 at once with ``--no-wait``."""
    resources = read_resources(options.verb, flags)
    client = job_client(options.address)
    check_cluster(options.address, resources)
    entrypoint = shlex.join(["python", f"jobs/{options.verb}.py", *flags])
    env = environment(options.env)
    runtime = {"working_dir": str(PROJECT), "excludes": PACKING_EXCLUDES, "env_vars": env}
    job = send(client, entrypoint=entrypoint, submission_id=options.id or None, runtime_env=runtime)
    say(f"job {job}: {entrypoint}")
    say(f"  python jobs/submit.py logs {job} --address {options.address}   follows it again; status, stop")
    return 0 if options.no_wait else follow(client, job, options.on_interrupt)


def send(client: Any, **request: Any) -> str:
    """Submit, with retries while the cluster starts; returns the job's name.

    Raises:
        UserError: the cluster does not accept it.
    """
    deadline = time.monotonic() + DASHBOARD_TIMEOUT_SECONDS
    while True:
        try:
            return str(client.submit_job(**request))
        except (RuntimeError, ValueError) as error:
            if "try again later" not in str(error) or time.monotonic() > deadline:
                raise as_cluster_error(error) from None
        time.sleep(RETRY_SECONDS)


def read_resources(job: str, flags: Sequence[str]) -> ResourcesConfig | None:
    """The resources that a job's flags ask for; a mistake in them is found here, before anything is sent.

    None for a job without resources.

    Raises:
        UserError: an unknown flag or an impossible setting.
    """
    if any(flag in ("-h", "--help") for flag in flags):
        raise UserError("--help needs no cluster", f"python jobs/{job}.py --help")
    if job == "search":
        sys.path.insert(0, str(PROJECT))  # tune/ is not installed
        from tune.search import parse_config

        return parse_config(flags)[1].resources
    return read_flags(job, flags)[1].config.resources if job in COMMANDS else None


def job_client(address: str) -> Any:
    """A client of the cluster's job server.

    Raises:
        UserError: no address, no answer, or the token is missing.
    """
    if not address:
        raise UserError("no cluster to submit to", "give --address http://HEAD:8265")
    if not address.startswith(("http://", "https://")):
        hint = "jobs go to http://HEAD:8265, not to Ray's own port"
        raise UserError(f"--address {address} is not a dashboard's", hint)
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray lets the environment win over the argument
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except Exception as error:  # requests, Ray's authentication and its version check each have their own
        raise as_cluster_error(error, address) from None


def as_cluster_error(error: Exception, address: str = "") -> UserError:
    """An error of the job server, or of the connection to it, as one line without a token."""
    if known := as_user_error(error):
        return known
    text = re.sub(r"(?i)(bearer|token[=:]?)\s+\S{8,}", r"\1 …", str(error)).strip()
    if re.search("401|403|uthentication|AuthToken", type(error).__name__ + text):
        return token_demanded(f"the cluster at {address}" if address else "the cluster")
    if isinstance(error, ConnectionError) or "connect" in text.lower():
        return UserError(f"no cluster answers at {address}", "check --address, usually http://HEAD:8265")
    if "exceeds the maximum size" in text:
        large = sorted(packed(PROJECT), reverse=True)[:3]
        names = ", ".join(f"{name} ({size / 1e6:.0f} MB)" for size, name in large)
        return UserError(
            f"the project folder {PROJECT} is too large to send; the largest files are {names}",
            "move them out of it, or name them in its .gitignore",
        )
    line = (text or type(error).__name__).splitlines()[0]
    return UserError(f"the cluster refuses: {line[:300]}", exit_code=1)


def packed(folder: Path) -> list[tuple[int, str]]:
    """(bytes, name) of the files that would be sent, but for what .gitignore files leave out."""
    patterns = [pattern.lstrip("/") for pattern in PACKING_EXCLUDES]
    found = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and not any(fnmatch(part, p) for part in name.parts for p in patterns):
            found.append((path.stat().st_size, str(name)))
    return found


def check_cluster(address: str, resources: ResourcesConfig | None) -> None:
    """Raise if the cluster can never give the resources.

    Raises:
        UserError: see ``check_resources``.
    """
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    if resources is None:
        return
    try:
        nodes = list_nodes(address=address, filters=[("state", "=", "ALIVE")], limit=10_000)
    except RayStateApiException:
        nodes = []
    if not nodes:
        return  # not known here: the job itself checks again
    if resources.gpu == "auto":
        gpus = sum(node["resources_total"].get("GPU", 0) for node in nodes)
        resources = replace(resources, gpu=gpus >= resources.min_workers)
    autoscaler = AutoscalerLimits(any(NODE_GROUP_LABEL in node["labels"] for node in nodes))
    check_resources(resources, [node["resources_total"] for node in nodes], autoscaler)


def environment(given: Sequence[str]) -> dict[str, str]:
    """The job's environment: time for its end, what is forwarded, our commit, and ``--env NAME=VALUE``."""
    env = {"RAY_JOB_STOP_WAIT_TIME_S": STOP_SECONDS}
    env |= {name: os.environ[name] for name in FORWARDED if os.environ.get(name)}
    if commit := source_commit():
        env[COMMIT_ENV_VAR] = commit
    for pair in given:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise UserError(f"--env: {pair!r} is not NAME=VALUE")
        env[name] = value
    return env


def follow(client: Any, job: str, on_interrupt: str = "ask") -> int:
    """Print a job's log until it ends; its exit status. Ctrl-C leaves it running or stops it, as chosen."""
    log = Log()
    while True:
        try:
            asyncio.run(log.follow(client, job))
            return wait_for_end(client, job)
        except KeyboardInterrupt:
            choice = ask_interrupt() if on_interrupt == "ask" else on_interrupt
            if choice == "stop":
                say(f"stopping job {job}")
                client.stop_job(job)
                return wait_for_end(client, job)
            if choice == "detach":
                say(f"job {job} goes on without us")
                return 130
            say("going on")


@dataclass
class Log:
    """Prints a job's log; continues where it was after an interruption.

    Attributes:
        printed: characters so far.
    """

    printed: int = 0

    async def follow(self, client: Any, job: str) -> None:
        """Print what is new until the job has ended, across lost connections.

        Raises:
            UserError: the connection stays lost.
        """
        lost = 0.0
        while True:
            passed = 0
            try:
                async with aclosing(client.tail_job_logs(job)) as lines:
                    async for text in lines:
                        lost = 0.0
                        fresh = text[max(self.printed - passed, 0) :]
                        passed += len(text)
                        self.printed = max(self.printed, passed)
                        sys.stdout.write(fresh)
                        sys.stdout.flush()
                if client.get_job_status(job).is_terminal():
                    return
            except Exception as error:  # a lost connection: requests, aiohttp and Ray have own errors
                lost = lost or time.monotonic()
                if time.monotonic() - lost > DASHBOARD_TIMEOUT_SECONDS:
                    raise as_cluster_error(error) from None
            await asyncio.sleep(RETRY_SECONDS)


def ask_interrupt() -> str:
    """Ask the user: "detach", "stop", or "" to go on; "detach" without a terminal."""
    if not sys.stdin.isatty():
        return "detach"
    try:
        answer = input("\ndetach and let the job go on (d), stop it (s), or follow further (Enter)? ")
    except (EOFError, KeyboardInterrupt):
        return "detach"
    return {"d": "detach", "s": "stop"}.get(answer.strip().lower()[:1], "")


def wait_for_end(client: Any, job: str) -> int:
    """Wait for a job's end, say how it ended, and return its exit status."""
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.5)
    details = client.get_job_info(job)
    status, code = details.status.value, details.driver_exit_code
    say(f"job {job}: {status.lower()}" + (f" (exit status {code})" if code else ""))
    if status == "SUCCEEDED":
        return 0
    if code is None and details.message:
        say(" ".join(details.message.split())[-500:])
    return code or (130 if status == "STOPPED" else 1)


def manage_job(options: argparse.Namespace) -> int:
    """status, logs, stop and list."""
    client = job_client(options.address)
    if options.verb == "list":
        for details in sorted(client.list_jobs(), key=lambda d: d.start_time or 0):
            if details.submission_id:
                begun = time.strftime("%Y-%m-%d %H:%M", time.localtime((details.start_time or 0) / 1000))
                name, status = details.submission_id, details.status.value.lower()
                say(f"{name:<34} {status:<10} {begun}  {details.entrypoint[:80]}")
        return 0
    if not options.id:
        raise UserError(f"{options.verb} of which job", f"jobs/submit.py {options.verb} ID; list names them")
    try:
        status = client.get_job_status(options.id)
    except RuntimeError:
        raise UserError(f"there is no job {options.id}", "jobs/submit.py list names them") from None
    if options.verb == "logs":
        return follow(client, options.id, options.on_interrupt)
    if options.verb == "stop":
        if status.is_terminal():
            raise UserError(f"job {options.id} has ended ({status.value.lower()})")
        client.stop_job(options.id)
    elif not status.is_terminal():
        say(f"job {options.id}: {status.value.lower()}")
        return 0
    return wait_for_end(client, options.id)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="submit.py",
        usage="submit.py JOB [options] -- FLAGS   |   submit.py {status,logs,stop} ID   |   submit.py list",
        description=f"Jobs: {', '.join(JOBS)}.",
    )
    add = parser.add_argument
    here, choices = os.environ.get("RAY_API_SERVER_ADDRESS", ""), ("ask", "detach", "stop")
    add("verb", metavar="JOB", help="what to submit, or status, logs, stop, list")
    add("id", nargs="?", default="", metavar="ID", help="of a job; when submitting, one of your choice")
    add("--address", default=here, help="of the dashboard, http://HEAD:8265 [RAY_API_SERVER_ADDRESS]")
    add("--no-wait", action="store_true", help="return once the job is submitted")
    add("--env", nargs="+", default=[], metavar="NAME=VALUE", help="for the job's environment")
    add("--on-interrupt", choices=choices, default="ask", help="what Ctrl-C does [%(default)s]")
    options = parser.parse_args(argv)
    known = [*JOBS, *VERBS]
    if options.verb not in known:
        raise UserError(f"unknown job {options.verb!r}", suggest(options.verb, known))
    return options


def dispatch(argv: Sequence[str]) -> int:
    """Submit a job, or follow, stop or list jobs."""
    split = argv.index("--") if "--" in argv else len(argv)  # what follows are the job's flags
    options = parse_arguments(argv[:split])
    return manage_job(options) if options.verb in VERBS else submit(options, argv[split + 1 :])


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # for the process, because Ray's loggers have levels of their own
    sys.exit(exit_status("submit.py", dispatch, sys.argv[1:], "interrupted"))
