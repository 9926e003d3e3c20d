"""A search as its users run it: killed, run again, with a trial that cannot come to its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

SCRIPT = Path(__file__).parents[2] / "tune" / "search.py"
SMALL = [
    *("--preset", "debug", "--epochs", "2", "--batch-size", "8"),
    *("--scenes.easy", "4", "--scenes.medium", "0", "--scenes.hard", "8", "--scenes.validation", "3"),
    *("--data.evaluate", "hard", "--data.boxes", "det5", "--evaluation.flip-test", "false"),
    *("--train.checkpoint-steps", "2", "--train.log-steps", "1", "--train.max-skipped", "1"),
]
SPACE = "learning_rate: [5.0e-3, 1.0e+30]\noks_nms: [0.8, 0.9]\n"  # nothing survives the second rate


def start(storage: Path, *argv: str) -> subprocess.Popen[str]:
    """The search on the session's Ray."""
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    env["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *SMALL, "--storage", str(storage), *argv],
        env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.ray
@pytest.mark.drill
def test_a_killed_search_ends_with_all_its_trials_though_one_fails(ray_session, tmp_path: Path) -> None:
    (tmp_path / "rates.yaml").write_text(SPACE)
    storage, flags = tmp_path / "storage", ["--space", str(tmp_path / "rates.yaml"), "--register-best"]
    first = start(storage, *flags)
    deadline = time.monotonic() + 300
    while not list(storage.glob("searches/*/runs/*/training/checkpoint_manager_snapshot.json")):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline, "no checkpoint within five minutes"
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    (folder,) = (storage / "searches").iterdir()
    (begun,) = (folder / "runs").iterdir()
    assert "scores" not in json.loads((begun / "run.json").read_text())["trial"], "the kill came too late"

    again = start(storage, *flags)
    said, complained = again.communicate(timeout=600)
    assert again.returncode == 0, said + complained
    assert "failed (training stopped" in said
    found = json.loads((folder / "search.json").read_text())
    assert [(c["status"], c["learning_rate"]) for c in found["configurations"]] == [
        ("finished", 5e-3),
        ("failed", 1e30),
    ]
    good, bad = (json.loads((folder / "runs" / f"n2-p2.3-r4-lr{rate}-s0" / "run.json").read_text())
                 for rate in ("0.005", "1e30"))  # fmt: skip
    assert (good["starts"], bad["starts"]) == (2, 1)  # gone on with, not begun again
    assert [c["oks_nms"] for c in good["trial"]["choices"]] == [0.8, 0.9]
    assert {(row["split"], row["boxes"]) for row in found["held_out"]} == {("hard", "det5")}
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert "failed (training stopped" in (folder / "logs" / "driver.log").read_text()
    check_mlflow(storage, found)

    third = start(storage, *flags)
    said, complained = third.communicate(timeout=300)
    assert third.returncode == 0, complained
    assert "all trials are there" in said
    assert json.loads((folder / "search.json").read_text()) == found


def check_mlflow(storage: Path, found: dict) -> None:
    """One parent, one child per trial, and the best one is the candidate."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    children = {r.info.run_name: r for r in runs if "mlflow.parentRunId" in r.data.tags}
    (parent,) = (r for r in runs if "mlflow.parentRunId" not in r.data.tags)
    assert parent.info.run_id == found["mlflow_run"]
    assert {r.data.tags["mlflow.parentRunId"] for r in children.values()} == {parent.info.run_id}
    assert {name: r.info.status for name, r in children.items()} == {
        "n2-p2.3-r4-lr0.005-s0": "FINISHED",
        "n2-p2.3-r4-lr1e30-s0": "FAILED",
    }
    assert parent.info.status == "FINISHED"
    version = client.get_model_version_by_alias("mipnet", "candidate")
    assert version.run_id == children["n2-p2.3-r4-lr0.005-s0"].info.run_id
