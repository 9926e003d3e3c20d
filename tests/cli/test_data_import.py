"""``mipnet data import``: what it writes works at once with the other commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from mipnet.cli.main import main
from mipnet.cli.shared_options import base_config
from mipnet.config.schema import DataConfig
from mipnet.data.dataset_formats import open_split
from mipnet.skeletons import COCO17
from mipnet.storage import Folder
from tests.helpers.yolo import write_yolo

SPLITS = {"train": range(8), "val": range(8, 12)}
JSON = "annotations/person_keypoints_train.json"


@pytest.fixture
def source(small_coco: Folder, tmp_path: Path) -> Path:
    root = small_coco.local_path
    return write_yolo(tmp_path / "yolo", root / JSON, root / "train", SPLITS)


def test_the_same_people_as_in_cocos_file(
    source: Path, small_coco: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["data", "import", str(source), str(out)]) == 0
    said = capsys.readouterr().out
    assert "train     8 pictures, 0 of them without people; 20 people, 20 with labelled joints\n" in said
    assert "val       4 pictures, 0 of them without people; 10 people, 10 with labelled joints\n" in said
    assert "taken for COCO's, whose flip_idx this is" in said
    assert "left out" not in said
    config = base_config(["--config", str(out / "mipnet.yaml")])
    assert config.data.joints == COCO17
    original = open_split(DataConfig(), small_coco, "train").people()
    files = [*range(8), 10, 11, 8, 9]  # sorted by name, split by split
    rows = [row for i in files for row in range(*original.slice_of_image(i).indices(len(original)))]
    found = {split: open_split(config.data, Folder.of(config.data.root), split).people() for split in SPLITS}
    keypoints = np.concatenate([people.keypoints for people in found.values()])
    boxes = np.concatenate([people.boxes for people in found.values()])
    np.testing.assert_allclose(keypoints, original.keypoints[rows], atol=2e-3)
    np.testing.assert_allclose(boxes, original.boxes[rows], atol=2e-3)
    assert found["train"].images.read(0) == (small_coco.local_path / "train" / "0.jpg").read_bytes()


def test_the_settings_pass_the_check(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "import", str(source.parent), str(tmp_path / "out")]) == 0
    settings = str(tmp_path / "out" / "mipnet.yaml")
    assert f"mipnet data check --config {settings}" in capsys.readouterr().out
    assert main(["data", "check", "--config", settings, "--images", "0"]) == 0
    said = capsys.readouterr().out
    assert "ready to train" in said
    assert "people with labelled joints" in said


@pytest.mark.parametrize("inside", [True, False])
def test_joints_of_ones_own(inside: bool, source: Path, tmp_path: Path) -> None:
    """The output may lie in the data set, in a folder of its own."""
    content = yaml.safe_load(source.read_text())
    names = {"kpt_names": {0: [f"part {i}" for i in range(17)]}, "names": ["person", "ball"]}
    del content["flip_idx"]
    source.write_text(yaml.safe_dump({**content, **names}))
    out = source.parent / "coco" if inside else tmp_path / "out"
    assert main(["data", "import", str(source), str(out)]) == 0
    config = base_config(["--config", str(out / "mipnet.yaml")])
    assert config.data.joints.name == "yolo"
    assert config.data.joints.joints == tuple(names["kpt_names"][0])
    assert config.data.category == "person"
    assert (config.augment.flip, config.evaluation.flip_test) == (0, False)  # nobody knows the mirror
    assert (config.data.train, config.data.val, config.data.evaluate) == ("train", "val", ("val",))
    assert len(open_split(config.data, Folder.of(config.data.root), "train").people()) == 20


def test_losses_are_said_and_stop_over_the_limit(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = source.parent / "labels/train/3.txt"
    text = label.read_text().rstrip("\n")
    label.write_text(text + "\r\n0 0.5 0.5\r\n" + text.splitlines()[0])
    argv = ["data", "import", str(source), str(tmp_path / "out")]
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert "1 of 32 samples are unusable" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert main([*argv, "--data.max-bad-share", "0.1"]) == 0
    line = "1 x line of 3 numbers instead of 56: labels/train/3.txt line 5"
    again = "1 x line that is there again: labels/train/3.txt line 6"
    said = capsys.readouterr().out
    assert f"left out  {line}\nmended    {again}\n" in said
    info = json.loads((tmp_path / "out/annotations/train.json").read_text())["info"]
    assert (info["left_out"], info["mended"]) == ([line], [again])
    assert info["notes"]
    assert "\n".join(info["notes"]) in said


def test_another_folders_files_are_not_replaced(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "import", str(source), str(source.parent)]) == 2
    assert "holds other files; import into a new folder" in capsys.readouterr().err
    for _ in range(2):  # but those of an earlier import are
        assert main(["data", "import", str(source), str(tmp_path / "out")]) == 0
    assert main(["data", "import", str(source)]) == 2
    assert "mipnet data import YAML_OR_FOLDER OUT" in capsys.readouterr().err


@pytest.mark.shared
def test_photographs_of_coco_there_and_back(shared: Path, tmp_path: Path) -> None:
    root = shared / "data/coco-mini"
    file = root / "annotations/person_keypoints_train2017.json"
    source = write_yolo(
        tmp_path / "yolo", file, root / "train2017", {"train": range(20), "val": range(20, 28)}
    )
    assert main(["data", "import", str(source), str(tmp_path / "out")]) == 0
    config = base_config(["--config", str(tmp_path / "out/mipnet.yaml")])
    content = json.loads(file.read_text())
    names = [image["file_name"] for image in content["images"][:20]]
    by_id = {image["id"]: image["file_name"] for image in content["images"]}
    theirs = {
        (by_id[a["image_id"]], *np.round(a["keypoints"]).astype(int))
        for a in content["annotations"]
        if by_id[a["image_id"]] in names and not a["iscrowd"] and a["num_keypoints"]
    }
    people = open_split(config.data, Folder.of(config.data.root), "train").people()
    ours = {
        (Path(str(people.images.uris[image])).name, *np.round(people.keypoints[row].ravel()).astype(int))
        for image in range(len(people.images))
        for row in range(*people.slice_of_image(image).indices(len(people)))
    }
    assert ours == theirs
