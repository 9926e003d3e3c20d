"""What the tests of the registry share: registered models, and a model that is served."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mipnet.data.crops import decode_image
from mipnet.inference.predictor import Predictor
from mipnet.storage import Folder
from mipnet.tracking.registry import register_model
from mipnet.tracking.tracker import prepare_mlflow

BOXES: list[Any] = [
    [[3, 4, 50, 60]],  # whole numbers are what most clients send
    [[3.5, 4.25, 50.0, 60.0], [30, 30, 61.5, 58]],
    [[10, 10, 30, 40], [12, 14, 30, 40], [5.5, 5, 80, 80]],
]


def register_small(
    storage: Folder,
    model: Path,
    name: str,
    run_name: str,
    tags: dict[str, str] | None = None,
    occlusion_ap: float = 0.0,
) -> int:
    """Make a model folder the next version of a registered model, as a finished run would."""
    where = prepare_mlflow(storage)
    from mlflow import MlflowClient

    client = MlflowClient()
    found = client.get_experiment_by_name("small")
    if found is None:
        place = None if where.startswith("http") else storage.join("mlartifacts").uri
        client.create_experiment("small", artifact_location=place)
        found = client.get_experiment_by_name("small")
    run = client.create_run(found.experiment_id, run_name=run_name, tags=tags)
    client.log_metric(run.info.run_id, "results/occlusion_AP", occlusion_ap, step=12)
    client.log_metric(run.info.run_id, "results/train/gt/merged/AP", occlusion_ap, step=12)
    client.set_terminated(run.info.run_id)
    known = {"run": run_name, "preset": "debug"}
    return int(register_model(storage, run.info.run_id, model, name, 12, "about", known))


def own_truth(model: Path, small_coco: Folder, root: Path) -> Path:
    """The data set again, but what this network says of each person is the truth."""
    shutil.copytree(small_coco.local_path, root)
    path = root / "annotations" / "person_keypoints_train.json"
    content = json.loads(path.read_text())
    predictor = Predictor.load(model)
    for image in content["images"]:
        pixels = decode_image((root / "train" / image["file_name"]).read_bytes())
        for person in content["annotations"]:
            if person["image_id"] == image["id"]:
                joints = predictor.poses(pixels, np.array([person["bbox"]]))[0]["keypoints"]
                table = np.array(joints).reshape(-1, 3)
                table[:, :2] = table[:, :2].clip(0, [119, 99])
                table[:, 2] = 2
                person["keypoints"] = table.ravel().tolist()
    path.write_text(json.dumps(content))
    return root


def pictures(data: Folder) -> list[Path]:
    return [data.local_path / "train" / f"{i}.jpg" for i in range(3)]


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def expected(model: Path, data: Folder) -> list[list[dict[str, Any]]]:
    predictor = Predictor.load(model)
    images = [decode_image(path.read_bytes()) for path in pictures(data)]
    return [predictor.poses(image, np.array(boxes)) for image, boxes in zip(images, BOXES, strict=True)]


def check_same(answer: list[list[dict[str, Any]]], wanted: list[list[dict[str, Any]]]) -> None:
    assert [len(poses) for poses in answer] == [len(poses) for poses in wanted]
    for mine, theirs in zip(chain(*answer), chain(*wanted), strict=True):
        assert mine["instance"] == theirs["instance"]
        assert mine["keypoints"] == pytest.approx(theirs["keypoints"], abs=1e-3)
        assert mine["box"] == pytest.approx(theirs["box"])


@contextmanager
def serving(uri: str, store: str, log: Path, extra: dict[str, str] | None = None) -> Iterator[str]:
    """``mlflow models serve`` as a process; yields its address when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", uri, "-h", "127.0.0.1", "-p", str(port)]
    env = {**os.environ, "MLFLOW_TRACKING_URI": store, "MLFLOW_DISABLE_TELEMETRY": "true", **(extra or {})}
    # ``mlflow models serve`` starts its server by name: that of this Python must come first.
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
    with log.open("wb") as said:
        child = subprocess.Popen(
            command, cwd=log.parent, env=env, stdout=said, stderr=said, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 300
            while not answers(f"http://127.0.0.1:{port}/ping"):
                assert child.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait(30)


def opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers(url: str) -> bool:
    try:
        with opener().open(url, timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False


def ask(address: str, content: dict[str, Any]) -> tuple[int, Any]:
    """(status, answer) of a request for predictions."""
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    try:
        with opener().open(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
