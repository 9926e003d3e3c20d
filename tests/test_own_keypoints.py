"""The README's example of a data set with joints of its own, as it stands there, through the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from mipnet.storage import Folder
from tests.helpers.commands import command

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
    small = {
        "model": {"width": 8, "num_modules": [1], "blocks": 1, "stage1_blocks": 1, "mimb_stages": [1, 2]}
    }
    small |= {"input": {"width": 48, "height": 64}, "train": {"epochs": 2, "batch_size": 4}}
    (tmp_path / "climbers.yaml").write_text(yaml.safe_dump(settings | small))
    return tmp_path


def test_check_reads_it(climbers: Path) -> None:
    done = command("data", "check", "--config", "climbers.yaml", "--pictures", "look", cwd=climbers)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "climber, 6 joints; crops 48x64" in done.stdout
    assert "leakage: in train and in val: 12" in done.stdout  # they are the same pictures here
    assert {p.name for p in (climbers / "look").iterdir()} == {"train.jpg", "val.jpg"}


@pytest.mark.ray
@pytest.mark.slow
def test_it_trains_and_the_model_needs_no_skeleton_file(ray_address: str, climbers: Path) -> None:
    where = ("--storage", str(climbers / "storage"), "--name", "climb")
    done = command("train", "--config", "climbers.yaml", *where, address=ray_address, cwd=climbers)
    assert done.returncode == 0, done.stderr
    same = "the same picture in train and in val: 12 (pictures/0.jpg = pictures/0.jpg, "
    assert f"look at this: {same}" in done.stdout
    assert f"look at   {same}" in done.stdout  # in the summary
    run = climbers / "storage" / "runs" / "climb"
    results = json.loads((run / "results" / "coco" / "val-gt-merged.json").read_text())
    assert {len(result["keypoints"]) for result in results} == {18}
    (climbers / "climber.yaml").unlink()
    argv = ("predict", "data/pictures", *where[:2], "--model", "climb")
    assert f"Look at this: {same}" in (run / "report.html").read_text()
    again = command(*argv, address=ray_address, cwd=climbers)
    assert again.returncode == 0, again.stderr
    assert np.isfinite(json.loads((run / "results" / "metrics.json").read_text())["val/gt/merged/AP"])
