"""The submitter: what it refuses by itself, and jobs on a real cluster of one node with a token."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from ray.util.state.exception import RayStateApiException

from jobs import submit
from mipnet.errors import UserError
from tests.helpers.servers import free_ports, process

SCRIPT = Path(submit.__file__)


def run(*argv: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k != "MLFLOW_TRACKING_URI"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *argv],
        env=clean | (env or {}),
        text=True,
        capture_output=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], "unknown job 'trian'; did you mean 'train'?"),
        (["train", "--", "--epochz", "3"], "--epochz: unknown flag; did you mean '--epochs'?"),
        (["train", "--", "--model.mimb-stages", "9"], "model.mimb_stages: 9 is not a MIMB stage of hrnet"),
        (
            ["search", "--", "--space", "placement", "--sedes", "2"],
            "--sedes: unknown flag; did you mean '--seeds'",
        ),
        (["evaluate", "--", "m", "--data.box-nms", "0"], "data.box_nms: 0.0 is not above 0"),
        (["train"], "no cluster to submit to; give --address http://HEAD:8265"),
        (["train", "--address", "10.0.0.1:6379"], "jobs go to http://HEAD:8265, not to Ray's own port"),
        (["logs", "--address", "http://127.0.0.1:9"], "no cluster answers at http://127.0.0.1:9"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_sent(argv: list[str], words: str) -> None:
    done = run(*argv)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_reports_templates_are_sent_too() -> None:
    names = {name for _, name in submit.packed(submit.PROJECT)}
    files = [path for room in ("mipnet", "tune") for path in submit.PROJECT.glob(f"{room}/**/templates/*")]
    templates = {str(path.relative_to(submit.PROJECT)) for path in files}
    assert {"mipnet/visualization/templates/report.css", "tune/templates/search.md.j2"} <= templates <= names


def test_every_script_beside_it_is_a_job() -> None:
    assert {"train", "evaluate", "predict", "search", "pack", "register"} == set(submit.JOBS)


def test_what_the_cluster_can_never_give_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: dict[str, str] = {}
    two = [{"resources_total": n, "labels": labels} for n in ({"CPU": 4.0}, {"CPU": 4.0, "GPU": 1.0})]
    monkeypatch.setattr("ray.util.state.list_nodes", lambda **_: two)

    def check(*flags: str) -> None:
        submit.check_cluster("http://head:8265", submit.read_resources("train", flags))

    many = ("--workers", "16", "--train.gradient-accumulation-steps", "1")
    check("--workers", "2")
    with pytest.raises(UserError, match="16 workers of 1 CPU do not fit into Ray's cluster"):
        check(*many)
    with pytest.raises(UserError, match="2 workers of 1 CPU and 1 GPU do not fit"):
        check("--workers", "2", "--gpu")
    labels["ray.io/node-group"] = "gpu"  # something starts such nodes
    check(*many)


def test_a_dashboard_that_does_not_tell_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(**_: Any) -> None:
        raise RayStateApiException("Failed to make request")

    monkeypatch.setattr("ray.util.state.list_nodes", silent)
    submit.check_cluster("http://head:8265", submit.read_resources("train", ["--workers", "2", "--gpu"]))


def test_a_project_that_is_too_large_names_its_largest_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in {"video.mp4": 3, "small.txt": 1, ".git/pack": 9}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size * 1_000_000)
    monkeypatch.setattr(submit, "PROJECT", tmp_path)
    said = str(
        submit.as_cluster_error(ValueError("Package size (600.00MiB) exceeds the maximum size of 500.00MiB."))
    )
    assert "is too large to send; the largest files are video.mp4 (3 MB), small.txt (1 MB); move" in said


def test_secrets_stay_here_and_the_commit_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(submit, "source_commit", lambda: "abc-dirty")
    env = submit.environment(["A=b=c"])
    assert int(env.pop("RAY_JOB_STOP_WAIT_TIME_S")) > 30  # Ray kills after 3 s
    assert env == {
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "MIPNET_SOURCE_COMMIT": "abc-dirty",
        "A": "b=c",
    }
    with pytest.raises(UserError, match="'A' is not NAME=VALUE"):
        submit.environment(["A"])
    assert submit.environment(["RAY_JOB_STOP_WAIT_TIME_S=5"])["RAY_JOB_STOP_WAIT_TIME_S"] == "5"


def test_no_token_in_a_message() -> None:
    error = RuntimeError("Request failed: header Authorization: Bearer 0123456789abcdef was odd")
    assert "0123456789abcdef" not in str(submit.as_cluster_error(error))
    unauthorised = RuntimeError("Request failed with status code 401: Unauthorized")
    assert "RAY_AUTH_TOKEN" in str(submit.as_cluster_error(unauthorised, "http://head:8265"))


def test_a_lost_connection_is_taken_up_where_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "one\ntwo\nthree\n"

    class Flaky:
        calls = 0

        async def tail_job_logs(self, job: str) -> Any:
            self.calls += 1
            if self.calls == 1:
                yield text[:6]
                raise requests.exceptions.ConnectionError("connection reset")
            yield text[:4]
            yield text[4:]

        def get_job_status(self, job: str) -> Any:
            return SimpleNamespace(is_terminal=lambda: self.calls == 2)

    monkeypatch.setattr(submit, "RETRY_SECONDS", 0)
    asyncio.run(submit.Log().follow(Flaky(), "job"))
    assert capsys.readouterr().out == text


def test_whoever_goes_on_after_ctrl_c_reads_no_line_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted:
        calls = 0

        async def tail_job_logs(self, job: str) -> Any:
            self.calls += 1
            yield "one\n"
            if self.calls == 1:
                raise KeyboardInterrupt
            yield "two\n"

        def get_job_status(self, job: str) -> Any:
            return SimpleNamespace(is_terminal=lambda: True)

    monkeypatch.setattr(submit, "ask_interrupt", lambda: "go on")
    monkeypatch.setattr(submit, "wait_for_end", lambda client, job: 0)
    assert submit.follow(Interrupted(), "job") == 0
    assert capsys.readouterr().out == "one\ngoing on\ntwo\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment of whoever may use a cluster of one node that demands a token."""
    with TemporaryDirectory(prefix="ray-") as folder:  # pytest's are too long for the names of Ray's sockets
        yield from run_cluster(Path(folder))


def run_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start that cluster with its files in a folder, and end it."""
    (folder / "token").write_text("0123456789abcdef" * 4)
    gcs, dashboard, agent = free_ports(3)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    words = ["start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}", "--num-cpus=4"]
    words += [
        f"--dashboard-port={dashboard}",
        "--dashboard-host=127.0.0.1",
        "--object-store-memory=200000000",
    ]
    words += [f"--temp-dir={folder}/t", "--disable-usage-stats"]
    words += [f"--dashboard-agent-listen-port={agent}"]  # the default is one that any other Ray here has
    # A job runs the `python` that the head finds: that of this Ray, whether or not it is activated here.
    path = os.pathsep.join([str(Path(sys.executable).parent), clean.get("PATH", "")])
    address = f"http://127.0.0.1:{dashboard}"
    header = {"Authorization": f"Bearer {(folder / 'token').read_text()}"}

    def ready() -> bool:
        try:
            return requests.get(f"{address}/api/v0/nodes", headers=header, timeout=5).ok
        except requests.ConnectionError:
            return False

    ray_command = [str(Path(sys.executable).with_name("ray")), *words]
    with process(ray_command, folder / "head.log", ready, env=clean | env | {"PATH": path}):
        yield env | {"RAY_API_SERVER_ADDRESS": address}


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_runs_its_log_and_exit_status_come_back(cluster: dict[str, str], tmp_path: Path) -> None:
    scenes = [f"--scenes.{kind}" for kind in ("easy", "medium", "hard", "validation")]
    flags = [word for pair in zip(scenes, "0021", strict=True) for word in pair]
    train = ["train", "mine", "--", "--preset", "debug", *flags, "--epochs", "1"]
    done = run(*train, "--storage", str(tmp_path), "--name", "submitted", env=cluster)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "job mine: python jobs/train.py --preset debug" in done.stdout
    assert "job mine: succeeded" in done.stdout
    assert (tmp_path / "runs" / "submitted" / "report.html").exists()
    token = Path(cluster["RAY_AUTH_TOKEN_PATH"]).read_text()

    failing = run("evaluate", "other", "--", "nothing", "--storage", str(tmp_path), env=cluster)
    assert failing.returncode == 2
    assert "no model at 'nothing'" in failing.stdout
    assert "job other: failed (exit status 2)" in failing.stdout

    listed = run("list", env=cluster)
    assert re.findall(r"^(\w+) +(\w+)", listed.stdout, re.MULTILINE) == [
        ("mine", "succeeded"),
        ("other", "failed"),
    ]
    assert run("status", "mine", env=cluster).stdout.strip() == "job mine: succeeded"
    again = run("logs", "mine", env=cluster)
    assert again.returncode == 0
    assert "submitted" in again.stdout
    unknown = run("stop", "none", env=cluster)
    assert (unknown.returncode, "there is no job none" in unknown.stderr) == (2, True)
    many = run("train", "--", "--workers", "400", "--batch-size", "800", env=cluster)
    assert "400 workers of 1 CPU do not fit" in many.stderr
    assert many.returncode == 2
    without = run("list", env={"RAY_API_SERVER_ADDRESS": cluster["RAY_API_SERVER_ADDRESS"]})
    assert without.returncode == 2
    assert "demands a token, and takes none of ours" in without.stderr
    assert not any(token in done.stdout + done.stderr for done in (done, failing, listed, again, many))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(("choice", "status"), [("detach", "running"), ("stop", "stopped")])
def test_ctrl_c_detaches_or_stops(cluster: dict[str, str], tmp_path: Path, choice: str, status: str) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k != "MLFLOW_TRACKING_URI"}
    argv = ["train", choice, "--on-interrupt", choice, "--", "--preset", "debug", "--storage", str(tmp_path)]
    following = subprocess.Popen(
        [sys.executable, str(SCRIPT), *argv],
        env=clean | cluster,
        text=True,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert following.stdout is not None
    for line in following.stdout:
        if line.startswith("run "):  # the job itself has begun to speak
            break
    following.send_signal(signal.SIGINT)
    said, _ = following.communicate(timeout=120)
    assert following.returncode == 130, said
    found = run("status", choice, env=cluster)
    assert f"job {choice}: {status}" in found.stdout
    if status == "running":
        assert run("stop", choice, env=cluster).returncode == 130
