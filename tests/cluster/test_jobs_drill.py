"""From training to promotion through jobs/ alone, on isolated nodes that share one folder; a node dies."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.isolated_cluster import PROJECT


@pytest.mark.drill
@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("drill", ["isolated"], indirect=True)
def test_train_evaluate_predict_and_promote_by_jobs_while_a_node_dies(
    drill: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    up = drill("up", "--nodes", "2", "--cpus", "4")
    assert up.returncode == 0, up.stderr
    shared = tmp_path / "shared"

    def submit(*argv: str) -> subprocess.CompletedProcess[str]:
        return drill("run", "--", sys.executable, PROJECT / "jobs" / "submit.py", *argv)

    storage = ("--storage", str(shared / "storage"))
    flags = ("--preset", "debug", "--epochs", "12", "--train.checkpoint-steps", "20", "--workers", "2")
    sent = submit("train", "drill", "--no-wait", "--", *flags, "--name", "drilled", *storage)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    run = shared / "storage" / "runs" / "drilled"
    deadline = time.monotonic() + 600
    while not list((run / "training").glob("*20*")):  # the first checkpoint
        assert time.monotonic() < deadline, submit("logs", "drill", "--on-interrupt", "detach").stdout
        time.sleep(1)
    assert "killed node 1" in drill("kill-node", "1").stdout
    followed = submit("logs", "drill")
    assert followed.returncode == 0, followed.stdout + followed.stderr
    told = json.loads((run / "run.json").read_text())
    assert told["finished"]

    out = shared / "evaluated"
    done = submit("evaluate", "--", "models:/mipnet@candidate", *storage, "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    mine = json.loads((out / "metrics.json").read_text())
    assert mine == pytest.approx(json.loads((run / "results" / "metrics.json").read_text()), abs=1e-6)

    (data,) = (shared / "storage" / "data").iterdir()
    pictures = sorted((data / "hard").iterdir())
    done = submit("predict", "--", str(data / "hard"), *storage, "--out", str(shared / "predicted"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"poses of {len(pictures)} images", done.stdout)
    results = json.loads((shared / "predicted" / "results.json").read_text())
    assert {result["file_name"] for result in results} <= {picture.name for picture in pictures}

    done = submit("register", "--", "promote", *storage)
    assert done.returncode == 0, done.stdout + done.stderr
    listed = submit("register", "--", "list", *storage)
    assert "champion" in listed.stdout
    show = submit("register", "--", "show", "champion", *storage)
    assert "drilled" in show.stdout
    assert re.search(
        r"[0-9a-f]{40}", show.stdout
    )  # the commit of this checkout, though the job had no history
