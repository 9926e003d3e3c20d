"""``mipnet data check``: the report, the pictures, and the exit status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest

from mipnet.cli.main import main
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
