"""``mipnet data check --data ROOT`` on a folder in no known layout: what it finds, and settings that work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from mipnet.cli.main import main
from mipnet.cli.shared_options import base_config
from mipnet.config import Config
from mipnet.data.dataset_formats import load_boxes
from mipnet.experiment.dataset_proposal import choose_pattern, patterns_of
from mipnet.experiment.dataset_survey import JsonFile, image_folder, read_file
from mipnet.experiment.datasets import open_splits
from mipnet.storage import Folder

JOINTS = ["Head", "L_Hand", "R_Hand", "left hip", "right hip", "tail"]


def content_of(coco: Folder, low: int, high: int, joints: list[str] | None = None) -> dict[str, Any]:
    """Images low … high - 1 of the small data set, with its joints or the first of them under other names."""
    content: dict[str, Any] = json.loads(coco.read("annotations/person_keypoints_train.json"))
    content["images"] = [image for image in content["images"] if low <= image["id"] < high]
    content["annotations"] = [a for a in content["annotations"] if low <= a["image_id"] < high]
    if joints:
        content["categories"][0] |= {"name": "cat", "keypoints": joints, "skeleton": [[1, 2], [1, 3]]}
        for annotation in content["annotations"]:
            annotation["keypoints"] = annotation["keypoints"][: 3 * len(joints)]
            annotation["num_keypoints"] = len(joints)
    return content


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def proposed(root: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[str, Config]:
    """The text for a folder, and the settings that ``--config`` makes of it, with which all splits open."""
    assert main(["data", "check", "--data", str(root), *more]) == 0
    text = capsys.readouterr().out
    (root / "own.yaml").write_text(text)
    config = base_config(["--config", str(root / "own.yaml")])
    data, splits = config.data, (config.data.train, config.data.val, *config.data.evaluate)
    for split, file in open_splits(config, Folder.of(data.root), splits).items():
        assert len(file.people()) > 0
        for source in data.boxes if split in data.evaluate else ():
            assert len(load_boxes(file, Folder.of(data.root), split, source, config)) > 0
    assert main(["data", "check", "--config", str(root / "own.yaml")]) == 0
    assert "ready to train" in capsys.readouterr().out
    return text, config


def test_joints_of_ones_own(small_coco: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "labels" / "train_cats.json", content_of(small_coco, 0, 8, JOINTS))
    write(tmp_path / "labels" / "val_cats.json", content_of(small_coco, 8, 12, JOINTS))
    write(tmp_path / "notes.json", {"author": "me"})
    write(tmp_path / ".cache" / "labels.json", content_of(small_coco, 0, 12))
    shutil.copytree(small_coco.local_path / "train", tmp_path / "pictures")
    text, config = proposed(tmp_path, capsys)
    for line in (
        "#   labels/train_cats.json  COCO person keypoints, 6 joints; 8 images, 20 people",
        "#   notes.json  something else",
        "#   pictures  12 pictures",
        "#   mipnet train --config FILE",
    ):
        assert line in text.splitlines()
    assert ".cache" not in text
    assert "look at this" not in text
    data, skeleton = config.data, config.data.joints
    assert (data.annotations, data.images) == ("labels/{split}_cats.json", "pictures")
    assert (data.train, data.val, data.evaluate, data.boxes) == ("train", "val", ("val",), ("gt",))
    assert (skeleton.name, list(skeleton.joints)) == ("cat", JOINTS)
    assert skeleton.flip_pairs == ((1, 2), (3, 4))
    assert skeleton.limbs == ((0, 1), (0, 2))
    assert skeleton.sigmas == (0.079, 0.05, 0.05, 0.107, 0.107, 0.05)  # head and hips as elsewhere
    assert (config.preset, config.input.size, config.train.epochs) == ("small", (96, 128), 60)
    assert (config.augment.flip, config.evaluation.flip_test) == (0.5, True)


def test_a_folder_for_each_split_with_its_file_beside_the_pictures(
    small_coco: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, part in {"train": (0, 6), "valid": (6, 9), "test": (9, 12)}.items():
        content = content_of(small_coco, *part)
        write(tmp_path / split / "_annotations.coco.json", content)
        for image in content["images"]:
            shutil.copy(small_coco.local_path / "train" / image["file_name"], tmp_path / split)
    _, config = proposed(tmp_path, capsys, "--preset", "crowdpose-hrnet-w32-256x192")
    data = config.data
    assert (data.annotations, data.images) == ("{split}/_annotations.coco.json", "{split}")
    assert (data.train, data.val, data.evaluate, data.skeleton) == ("train", "valid", ("test",), "coco17")
    assert (config.preset, data.format) == ("crowdpose-hrnet-w32-256x192", "coco")


def test_one_file_of_single_people_beside_pictures_in_the_root(
    small_coco: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = content_of(small_coco, 0, 12)
    content["annotations"] = list({a["image_id"]: a for a in content["annotations"]}.values())
    for image in content["images"]:
        shutil.copy(small_coco.local_path / "train" / image["file_name"], tmp_path)
    write(tmp_path / "my-labels.json", content)
    text, config = proposed(tmp_path, capsys)
    assert "#   mipnet train --config FILE --baseline" in text.splitlines()
    assert "look at this: my-labels is trained on and measured" in text
    data = config.data
    assert (data.annotations, data.images, data.train) == ("{split}.json", ".", "my-labels")
    assert data.evaluate == (data.val,) == (data.train,)


def test_boxes_of_a_detector_and_pictures_in_folders_named_like_the_splits(
    small_coco: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, part in {"train2017": (0, 8), "val2017": (8, 12)}.items():
        content = content_of(small_coco, *part)
        write(tmp_path / "ann" / f"person_keypoints_{split}.json", content)
        for image in content["images"]:
            image["file_name"] = f"JPEG\\{image['file_name']}"
            (tmp_path / f"my_{split}" / "JPEG").mkdir(parents=True, exist_ok=True)
            name = image["file_name"].replace("\\", "/")
            shutil.copy(small_coco.local_path / "train" / name[5:], tmp_path / f"my_{split}" / name)
        write(tmp_path / "ann" / f"person_keypoints_{split}.json", content)
        write(tmp_path / "ann" / f"instances_{split}.json", {**content, "annotations": [], "categories": []})
    content = content_of(small_coco, 8, 12)
    boxes = [{**a, "score": 0.9} for a in content["annotations"]]
    detections = [{k: b[k] for k in ("image_id", "category_id", "bbox", "score")} for b in boxes]
    write(tmp_path / "yolo_val2017.json", detections)
    write(tmp_path / "poses_val2017.json", boxes)  # results of another method are no boxes
    write(tmp_path / "other_val2017.json", [{**d, "image_id": 99} for d in detections])
    text, config = proposed(tmp_path, capsys)
    assert "#   ann/instances_val2017.json  COCO without labelled keypoints" in text.splitlines()
    assert "#   yolo_val2017.json  detections, 10 boxes of 4 images" in text.splitlines()
    assert config.data.images == "my_{split}"
    assert config.data.boxes == ("gt", f"yolo={tmp_path}/yolo_{{split}}.json")


def test_a_packed_data_set(small_coco: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, part in {"train": (0, 8), "val": (8, 12)}.items():
        write(tmp_path / "plain" / "labels" / f"{split}.json", content_of(small_coco, *part))
    shutil.copytree(small_coco.local_path / "train", tmp_path / "plain" / "pictures")
    places = ["--data.annotations", "labels/{split}.json", "--data.images", "pictures"]
    splits = ["--data.val", "val", "--data.evaluate", "val"]
    root = ["--data", str(tmp_path / "plain")]
    assert main(["data", "pack", str(tmp_path / "packed"), *root, *places, *splits]) == 0
    capsys.readouterr()
    text, config = proposed(tmp_path / "packed", capsys)
    assert "#   pictures  12 pictures" in text.splitlines()
    assert "pack.json" not in text
    assert "look at this" not in text
    assert config.data.images == "pictures"


def test_what_cannot_be_guessed_is_said(
    small_coco: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, part in {"train": (0, 8), "val": (8, 12)}.items():
        content = content_of(small_coco, *part, joints=["x"] * 6)  # no names that tell joints apart
        write(tmp_path / f"{split}.json", content)
    shutil.copytree(small_coco.local_path / "train", tmp_path / "all")
    (tmp_path / "all" / "3.jpg").unlink()
    assert main(["data", "check", "--data", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "look at this: 1 of the 8 images of train.json are not in all" in text
    assert "look at this: train.json does not name its joints" in text
    assert "look at this: no joints of left and right are known: nothing is mirrored" in text
    settings = yaml.safe_load(text)
    skeleton = settings["data"]["skeleton"]
    assert (settings["augment"]["flip"], settings["evaluation"]["flip_test"]) == (0, False)
    assert skeleton["joints"] == [f"joint_{i}" for i in range(1, 7)]
    assert skeleton["flip_pairs"] == []


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no JSON file; 0 pictures; export the labels as COCO keypoints"),
        ({"a.json": "{", "b.json": "[1]"}, "2 x something else; 0 pictures"),
        ({"a.json": {"images": [], "annotations": []}}, "1 x COCO without labelled keypoints"),
        ({"o.json": {"images": [{"annotations": []}], "k": {"keypoints": 1}}}, "give --dataset ochuman"),
    ],
)
def test_a_folder_without_people_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, Any], said: str
) -> None:
    for name, content in files.items():
        write(tmp_path / name, content)
    assert main(["data", "check", "--data", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_flags_that_name_splits_are_believed(
    small_coco: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "labels" / "train.json", content_of(small_coco, 0, 8))
    assert main(["data", "check", "--data", str(tmp_path), "--data.train", "train"]) == 1
    assert "will not train: there are no annotations of split 'train'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "pattern", "splits"),
    [
        (["a/train.json", "a/val.json"], "a/{split}.json", {"train", "val"}),
        (["train/train.json", "val/val.json"], "{split}/{split}.json", {"train", "val"}),
        (["a/x_train2017.json", "a/x_val2017.json"], "a/x_{split}.json", {"train2017", "val2017"}),
        (["dev.json", "other.json", "train.json"], "{split}.json", {"dev", "other", "train"}),
        (["my set.v2.json"], "{split}.json", {"my set.v2"}),
        (["labels/train-1.json", "labels/test-1.json"], "labels/{split}-1.json", {"train", "test"}),
    ],
)
def test_patterns_of_file_names(names: list[str], pattern: str, splits: set[str]) -> None:
    found, files = choose_pattern([JsonFile(name, "keypoints") for name in names])
    assert (found, set(files)) == (pattern, splits)
    assert all(pattern.replace("{split}", split) == file.name for split, file in files.items())
    assert all(p.replace("{split}", s) == names[0] for p, s in patterns_of(names[0]).items())


def test_the_folder_of_most_pictures_is_taken(tmp_path: Path) -> None:
    file = JsonFile("a.json", "keypoints", ["x/1.jpg", "x/2.jpg", "x\\3.jpg", "4.jpg", "4.jpg"])
    pictures = ["a/x/1.jpg", "b/x/1.jpg", "b/x/2.jpg", "b/x/3.jpg", "c/4.jpg", "1.jpg"]
    assert image_folder(file, pictures) == ("b", 3)
    assert image_folder(file, []) == (".", 0)


def test_nested_and_text_keypoints_are_counted_like_plain_ones(small_coco: Folder, tmp_path: Path) -> None:
    content = content_of(small_coco, 0, 4)
    plain = content["annotations"][0]["keypoints"]
    content["annotations"][0]["keypoints"] = [plain[i : i + 3] for i in range(0, 51, 3)]
    content["annotations"][1]["image_id"] = str(content["annotations"][1]["image_id"])
    content["annotations"].append({"keypoints": [None] * 51})
    write(tmp_path / "a.json", content)
    found = read_file(Folder.of(tmp_path), "a.json")
    assert (found.kind, found.people, found.most_people, found.num_joints) == ("keypoints", 10, 4, 17)
