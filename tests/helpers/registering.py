"""What the tests of the registry share: registered models, and a model that is served."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mipnet.data.crops import decode_image
from mipnet.inference.image_predictor import ImagePredictor
from mipnet.registry.register import register_model
from mipnet.storage import Folder
from mipnet.tracking.store import prepare_mlflow
from tests.helpers.servers import free_port, opener, process, responds

BOXES: list[Any] = [
    [[40, 30, 20, 30]],  # whole numbers are what most clients send
    [[35.5, 28.25, 22.0, 30.0], [60, 40, 20, 28.5]],
    [[50, 40, 20, 30], [52, 41, 21, 32], [45.5, 35, 24, 36]],
]
"""Of the first pictures of ``small_coco``, with their context inside them: an untrained network's maps are
flat where there is no picture, and then rounding alone says where the highest cell is."""


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
    return int(
        register_model(
            storage, run.info.run_id, model, name, step=12, describe="version {}".format, tags=known
        )
    )


def own_truth(model: Path, small_coco: Folder, root: Path) -> Path:
    """The data set again, but what this network says of each person is the truth."""
    shutil.copytree(small_coco.local_path, root)
    path = root / "annotations" / "person_keypoints_train.json"
    content = json.loads(path.read_text())
    predictor = ImagePredictor.load(model)
    for image in content["images"]:
        pixels = decode_image((root / "train" / image["file_name"]).read_bytes())
        assert pixels is not None
        for person in content["annotations"]:
            if person["image_id"] == image["id"]:
                table = predictor(pixels, [person["bbox"]]).keypoints[0].astype(float)
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
    predictor = ImagePredictor.load(model)
    return [predictor(p, boxes).to_coco() for p, boxes in zip(pictures(data), BOXES, strict=True)]


def check_same(answer: list[list[dict[str, Any]]], wanted: list[list[dict[str, Any]]]) -> None:
    """The same poses of each picture to 1e-3 px; untrained networks' scores are all 0 and give no order."""
    for mine, theirs in zip(answer, wanted, strict=True):
        mine, theirs = (sorted(poses, key=lambda p: (p["box"], p["instance"])) for poses in (mine, theirs))
        for pose, other in zip(mine, theirs, strict=True):
            assert (pose["box"], pose["instance"]) == (other["box"], other["instance"])
            assert pose["keypoints"] == pytest.approx(other["keypoints"], abs=1e-3)


@contextmanager
def serving(uri: str, store: str, log: Path, extra: dict[str, str] | None = None) -> Iterator[str]:
    """``mlflow models serve`` as a process; yields its address when it responds."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", uri, "-h", "127.0.0.1", "-p", str(port)]
    env = {**os.environ, "MLFLOW_TRACKING_URI": store, "MLFLOW_DISABLE_TELEMETRY": "true", **(extra or {})}
    # ``mlflow models serve`` starts its server by name: that of this Python must come first.
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
    address = f"http://127.0.0.1:{port}"
    with process(command, log, lambda: responds(f"{address}/ping"), cwd=str(log.parent), env=env):
        yield address


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
