"""``mipnet data check``: the report, the pictures, and the exit status."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mipnet.cli.main import main
from mipnet.skeletons import COCO17
from mipnet.storage import Folder

FILE = "annotations/person_keypoints_{}.json"


@pytest.fixture
def splits(small_coco: Folder, tmp_path: Path) -> Path:
    """The small data set with a split to train on, 0.jpg … 7.jpg, and one to evaluate, 8.jpg … 11.jpg."""
    root = tmp_path / "data"
    shutil.copytree(small_coco.local_path, root)
    shutil.copytree(root / "train", root / "val")
    content = json.loads((root / FILE.format("train")).read_text())
    for split, (low, high) in {"train": (0, 8), "val": (8, 12)}.items():
        part = {
            **content,
            "images": [i for i in content["images"] if low <= i["id"] < high],
            "annotations": [a for a in content["annotations"] if low <= a["image_id"] < high],
        }
        (root / FILE.format(split)).write_text(json.dumps(part))
    return root


def check(root: Path, *more: str) -> int:
    flags = ["--data.val", "val", "--data.evaluate", "val", "--data.boxes", "gt"]
    return main(["data", "check", "--data", str(root), *flags, *more])


def rows(text: str) -> dict[str, list[str]]:
    return {line[:28].strip(): line[28:].split() for line in text.splitlines() if len(line) > 28}


def test_a_sound_data_set(splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(splits, "--pictures", str(tmp_path / "pictures")) == 0
    text = capsys.readouterr().out
    found = rows(text)
    assert found["images"] == ["8", "4", "fine"]
    assert found["people with labelled joints"] == ["20", "10", "look", "at", "this"]
    assert found["people in an image, mean"] == ["2.50", "2.50", "fine"]
    assert found["images read"] == ["8", "4", "fine"]
    assert found["missing or corrupt"] == ["0", "0", "fine"]
    assert text.rstrip().endswith("ready to train")
    assert found["boxes of gt"] == ["–", "10", "fine"]
    assert found["  people found at IoU 0.5".strip()] == ["–", "100.0", "%", "fine"]
    assert "look at this: train, people with labelled joints: 20; few to learn from" in text
    assert len(text.splitlines()) < 40  # one screen
    for split in ("train", "val"):
        picture = cv2.imread(str(tmp_path / "pictures" / f"{split}.jpg"))
        assert picture.shape[1] > 600


def test_leakage_by_content_is_told_but_does_not_stop(
    splits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = cv2.imread(str(splits / "train" / "3.jpg"))
    cv2.imwrite(str(splits / "val" / "9.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 60])
    assert check(splits) == 0
    text = capsys.readouterr().out
    assert "leakage: in train and in val: 1 (train/3.jpg = val/9.jpg)" in text


def broken(root: Path, what: str) -> None:
    def change(split: str, edit: Any) -> None:
        path = root / FILE.format(split)
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

    if what == "an image is missing":
        (root / "train" / "3.jpg").unlink()
    elif what == "an image is corrupt":
        (root / "val" / "9.jpg").write_bytes(b"\xff\xd8 nothing")
    elif what == "a split is missing":
        (root / FILE.format("val")).unlink()
    elif what == "joints are missing":
        change("train", lambda c: c["annotations"][0].update(keypoints=[1, 2, 2]))
    elif what == "another skeleton":
        change("val", lambda c: c["categories"][0].update(keypoints=["nose"]))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("an image is missing", "1 of 8 images cannot be read"),
        ("an image is corrupt", "1 of 4 images cannot be read"),
        ("a split is missing", "there are no annotations of split 'val'"),
        ("joints are missing", "1 keypoints instead of 17: annotation 100 of 0.jpg"),
        ("another skeleton", "annotates 1 keypoints but skeleton coco17 has 17"),
    ],
)
def test_what_would_stop_a_training(
    splits: Path, capsys: pytest.CaptureFixture[str], what: str, words: str
) -> None:
    broken(splits, what)
    assert check(splits) == 1
    text = capsys.readouterr().out
    stops = [line for line in text.splitlines() if line.startswith("will not train: ")]
    assert len(stops) == 1
    assert words in stops[0]
    assert "ready to train" not in text
    assert "images" in rows(text)  # the rest is reported all the same


def test_within_the_limit_faults_are_named_and_training_goes_on(
    splits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(splits, "an image is missing")
    broken(splits, "joints are missing")
    assert check(splits, "--data.max-bad-share", "0.2") == 0
    text = capsys.readouterr().out
    assert "look at this: train, missing or corrupt: 1 (train/3.jpg); they are left out" in text
    assert "look at this: train, people who cannot be used: 1 (1 x 1 keypoints instead of 17" in text


@pytest.mark.parametrize("images", ["-1", "0"])
def test_a_folder_without_the_images_is_named(
    splits: Path, capsys: pytest.CaptureFixture[str], images: str
) -> None:
    (splits / "other").mkdir()
    assert check(splits, "--data.images", "other", "--images", images) == 1
    said = capsys.readouterr().out
    assert "8 of 8 images cannot be read" in said
    assert f"; check --data.images and --data.root: they were looked for in {splits / 'other'}\n" in said


def test_few_images_or_none_are_read(splits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken(splits, "an image is corrupt")
    assert check(splits, "--images", "0") == 0
    assert "images read" not in capsys.readouterr().out
    check(splits, "--images", "2")
    assert rows(capsys.readouterr().out)["images read"] == ["2", "2", "fine"]


def test_data_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "--data", str(tmp_path / "none")]) == 2
    assert "does not exist; check --data" in capsys.readouterr().err
    assert main(["data", "check", "--storage", str(tmp_path)]) == 2
    assert "mipnet data generate renders it" in capsys.readouterr().err
    assert main(["data", "check", "--dataset", "cocoa", "--data", str(tmp_path)]) == 2
    assert "did you mean 'coco'" in capsys.readouterr().err


def spoil(root: Path, what: str) -> None:
    """Spoil one thing about every person (a), or about the content (c), of a split; or a file."""
    edits: dict[str, tuple[str, Any]] = {
        "single people": ("train", lambda c: c.update(annotations=one_each(c["annotations"]))),
        "an odd joint": (
            "val",
            lambda c: c["annotations"][1]["keypoints"].__setitem__(slice(0, 3), [0, 0, 2]),
        ),
        "joints beyond": ("val", lambda c: c["annotations"][1]["keypoints"].__setitem__(0, 900)),
        "no elbows": (
            "train",
            lambda c: [a["keypoints"].__setitem__(slice(21, 24), [0, 0, 0]) for a in c["annotations"]],
        ),
        "few joints": (
            "val",
            lambda c: [a["keypoints"].__setitem__(slice(9, 51), [0] * 42) for a in c["annotations"]],
        ),
        "boxes over the border": (
            "train",
            lambda c: [a["bbox"].__setitem__(3, 110) for a in c["annotations"][:2]],
        ),
        "boxes elsewhere": (
            "train",
            lambda c: [a.update(bbox=[100, 0, 15, 15]) for a in c["annotations"][:2]],
        ),
        "areas": ("val", lambda c: c["annotations"][0].update(area=0)),
    }
    if what == "another size":
        cv2.imwrite(str(root / "train" / "3.jpg"), np.zeros((50, 60, 3), np.uint8))
    elif what == "twice":
        shutil.copy(root / "train" / "3.jpg", root / "train" / "5.jpg")
    else:
        split, edit = edits[what]
        path = root / FILE.format(split)
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))


def one_each(people: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({person["image_id"]: person for person in people}.values())


@pytest.mark.parametrize(
    ("what", "row", "words"),
    [
        (
            "single people",
            "crops with a second person",
            "0.0 %; hardly any crop shows a neighbour: mipnet train --baseline",
        ),
        ("an odd joint", "labelled keypoint at (0, 0)", "(0, 0): 1 (annotation 121 of 9.jpg); mend them"),
        ("joints beyond", "labelled keypoint outside of", "image: 1 (annotation 121 of 9.jpg); mend them"),
        ("no elbows", "joints that nobody has", "train, joints that nobody has: 1 (left_elbow); the network"),
        ("few joints", "joints of a person, mean", "val, joints of a person, mean: 3.0; few of each person"),
        (
            "boxes over the border",
            "boxes beyond their image",
            "train, boxes beyond their image: 2; they are clipped",
        ),
        (
            "boxes elsewhere",
            "most joints outside the box",
            "train, most joints outside the box: 2; check that",
        ),
        (
            "areas",
            "",
            "look at this: mended: annotations/person_keypoints_val.json: 1 x area that cannot be true",
        ),
        ("another size", "not of the stated size", "train, not of the stated size: 1 (train/3.jpg); restore"),
        ("twice", "the same picture twice", "1 (train/3.jpg = train/5.jpg); it counts twice: remove one"),
    ],
)
def test_each_figure_gets_a_verdict_and_a_mend(
    splits: Path, capsys: pytest.CaptureFixture[str], what: str, row: str, words: str
) -> None:
    check(splits)
    before = rows(capsys.readouterr().out)
    spoil(splits, what)
    assert check(splits) == 0
    text = capsys.readouterr().out
    assert [words in line for line in text.splitlines() if line.startswith("look at this: ")].count(True) == 1
    if row:
        assert row not in before or before[row][-1] == "fine"
        assert rows(text)[row][-3:] == ["look", "at", "this"]
    assert text.rstrip().endswith("ready to train")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ()),
        ({"sigmas": [10 * s for s in COCO17.sigmas[:11]] + [0.09] * 6}, ("large sigmas: 11 (nose 0.26, ",)),
        ({"sigmas": [0.026, 0.08, *COCO17.sigmas[2:]]}, ("large sigmas: 1 (left_eye 0.08); AP is too high",)),
        ({"flip_pairs": COCO17.flip_pairs[:-1]}, ("without a pair: left_ankle = right_ankle; mirrored",)),
        (
            {"flip_pairs": [[15, 14], [13, 16]]},
            ("left_ear = right_ear, ", "left_wrist = right_wrist and 3 more"),
        ),
    ],
)
def test_a_skeleton_is_worth_a_look(
    splits: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], words: tuple[str, ...]
) -> None:
    own = {**asdict(COCO17), "name": "own", **change}
    (splits / "own.json").write_text(json.dumps(own))
    assert check(splits, "--data.skeleton", str(splits / "own.json")) == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("look at this: own, ")]
    assert len(lines) == bool(words)
    assert all(word in lines[0] for word in words)


def detections(root: Path, shift: float = 0, category: int = 1) -> Path:
    """Of the people of val: their boxes, moved to the right."""
    people = json.loads((root / FILE.format("val")).read_text())["annotations"]
    found = [
        {
            "image_id": person["image_id"],
            "category_id": category,
            "bbox": [person["bbox"][0] + shift, *person["bbox"][1:]],
            "score": 0.9,
        }
        for person in people
    ]
    (root / "boxes.json").write_text(json.dumps(found))
    return root / "boxes.json"


@pytest.mark.parametrize(
    ("options", "cells", "words"),
    [
        ({}, (["10"], ["2.50"], ["100.0", "%"]), ""),
        (
            {"shift": 60},
            (["10"], ["2.50"], ["0.0", "%"]),
            "0.0 %; most people get no box: check that the boxes",
        ),
        ({"category": 0}, (["0"], ["0.00"], ["0.0", "%"]), "boxes of det: 0; no pose can be predicted"),
    ],
)
def test_boxes_of_each_source_are_counted(
    splits: Path,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Any],
    cells: tuple[list[str], ...],
    words: str,
) -> None:
    assert check(splits, "--data.boxes", "gt", f"det={detections(splits, **options)}") == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("boxes of det"))
    for line, cell in zip(lines[begin:], cells, strict=False):
        assert line[28:].split()[: 1 + len(cell)] == ["–", *cell]  # nothing is predicted in train
    assert words in text
    assert ("look at this: val, " in text.split("few to measure with")[1]) is bool(words)


def test_boxes_that_are_not_there_stop_a_training(splits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(splits, "--data.boxes", "gt", "det") == 1
    text = capsys.readouterr().out
    assert rows(text)["boxes of det"] == ["–", "–", "will", "not", "train"]
    (line,) = [line for line in text.splitlines() if line.startswith("will not train: ")]
    assert "boxes/det_val.json does not exist" in line


def test_a_mend_that_is_taken_already_is_not_offered(
    splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(splits, "single people")
    config = tmp_path / "own.yaml"
    config.write_text("train: {init: some-run}\nmodel: {instances: 1, mimb_stages: []}\n")
    assert check(splits, "--config", str(config)) == 0
    text = capsys.readouterr().out
    assert "people with labelled joints: 8; few to learn from: label more\n" in text
    assert "--baseline" not in text
    found = detections(splits, shift=60)
    boxes = json.loads(found.read_text())
    found.write_text(json.dumps([*boxes, *({**box, "score": 0.1} for box in boxes)]))
    for threshold, offered in (("0", False), ("0.5", True)):
        options = ("--data.boxes", f"det={found}", "--data.box-score-threshold", threshold)
        assert check(splits, *options) == 0
        text = capsys.readouterr().out
        assert "most people get no box" in text
        assert ("or lower --data.box-score-threshold (0.5)" in text) is offered


@pytest.mark.ray
def test_many_images_are_decoded_on_ray_with_the_same_report(
    on_ray: None, splits: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(splits, "an image is corrupt")
    broken(splits, "an image is missing")
    assert check(splits) == 1
    here = without_progress(capsys.readouterr().out)
    monkeypatch.setattr("mipnet.experiment.dataset_check.FEW_IMAGES", 0)
    monkeypatch.setattr("mipnet.data.image_inspection.IMAGES_PER_TASK", 3)
    assert check(splits, "--resources.stream-workers", "1") == 1
    there = capsys.readouterr().out
    assert "image 12/12" in there
    assert without_progress(there) == here


def without_progress(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("image ")]
