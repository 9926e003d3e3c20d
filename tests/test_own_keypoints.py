"""The README's example of a data set with joints of its own, as it stands there, through the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import yaml

from mipnet.storage import Folder

README = Path(__file__).parents[1] / "README.md"


def block(name: str) -> str:
    """The YAML block of the README that begins with a comment naming its file."""
    (found,) = re.findall(rf"```yaml\n(# {re.escape(name)}.*?)```", README.read_text(), re.DOTALL)
    return found


@pytest.fixture
def climbers(small_coco: Folder, tmp_path: Path) -> Path:
    """Folder with the README's two files, its data set in the small one's images, and other settings."""
    skeleton = yaml.safe_load(block("climber.yaml"))
    settings = yaml.safe_load(block("climbers.yaml"))
    settings["data"]["root"] = str(tmp_path / "data")
    content = json.loads(small_coco.read("annotations/person_keypoints_train.json"))
    kept = len(skeleton["joints"])
    content["categories"] = [{"id": 1, "name": "climber", "keypoints": skeleton["joints"]}]
    for annotation in content["annotations"]:
        annotation["keypoints"] = annotation["keypoints"][: 3 * kept]
        annotation["num_keypoints"] = kept
    (tmp_path / "data" / "labels").mkdir(parents=True)
    (tmp_path / "data" / "pictures").symlink_to(small_coco.local_path / "train")
    for split in ("train", "val"):
        (tmp_path / "data" / "labels" / f"{split}.json").write_text(json.dumps(content))
    (tmp_path / "climber.yaml").write_text(block("climber.yaml"))
    small = {"model": {"width": 8, "modules": [1], "blocks": 1, "stage1_blocks": 1, "places": [1, 2]}}
    small |= {"input": {"width": 48, "height": 64}, "train": {"epochs": 2, "batch_size": 4}}
    (tmp_path / "climbers.yaml").write_text(yaml.safe_dump(settings | small))
    return tmp_path


def command(folder: Path, *argv: str, address: str = "") -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    env |= {"RAY_ADDRESS": address} if address else {}
    return subprocess.run(
        [sys.executable, "-m", "mipnet", *argv],
        env=env,
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=600,
    )


def test_check_reads_it(climbers: Path) -> None:
    done = command(climbers, "data", "check", "--config", "climbers.yaml", "--pictures", "look")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "climber, 6 joints; crops 48x64" in done.stdout
    assert "leakage: in train and in val: 12" in done.stdout  # they are the same pictures here
    assert {p.name for p in (climbers / "look").iterdir()} == {"train.jpg", "val.jpg"}


@pytest.mark.ray
@pytest.mark.slow
def test_it_trains_and_the_model_needs_no_skeleton_file(ray_session: None, climbers: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    where = ("--storage", str(climbers / "storage"), "--name", "climb")
    done = command(climbers, "train", "--config", "climbers.yaml", *where, address=address)
    assert done.returncode == 0, done.stderr
    run = climbers / "storage" / "runs" / "climb"
    results = json.loads((run / "results" / "coco" / "val-gt-merged.json").read_text())
    assert {len(result["keypoints"]) for result in results} == {18}
    (climbers / "climber.yaml").unlink()
    again = command(climbers, "predict", "data/pictures", *where[:2], "--model", "climb", address=address)
    assert again.returncode == 0, again.stderr
    assert np.isfinite(json.loads((run / "results" / "metrics.json").read_text())["val/gt/merged/AP"])
