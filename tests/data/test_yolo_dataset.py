"""YOLO-pose: what becomes of every line and picture, and of what data.yaml says about the joints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from mipnet.data.yolo_dataset import YoloDataset, read_yolo
from mipnet.data.yolo_files import label_of
from mipnet.errors import ConfigError, DataError
from mipnet.skeletons import COCO17, CROWDPOSE14

LINE = "0 0.5 0.5 0.5 0.25  0.25 0.5 2  0.5 0.5 1  0 0 0"
"""A box of 40x15 px at (20, 22.5) in a picture of 80x60, with joints at (20, 30) and (40, 30)."""
COCO_MIRROR = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


def write(root: Path, labels: dict[str, str | bytes | None], **content: Any) -> Path:
    """A data set: path of a picture -> its labels, None for no label file; returns its data.yaml."""
    for name, text in labels.items():
        picture = root / name
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 60)).save(picture)
        if text is not None:
            label = label_of(picture)
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_bytes(text if isinstance(text, bytes) else text.encode())
    values = {
        "train": "images/train",
        "val": "images/val",
        "kpt_shape": [3, 3],
        "flip_idx": [0, 2, 1],
        **content,
    }
    root.mkdir(exist_ok=True)
    file = root / "data.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return file


def small(root: Path, labels: str | bytes = LINE, **content: Any) -> YoloDataset:
    """A data set of a picture to train on, with these labels, and one to validate on."""
    return read_yolo(write(root, {"images/train/a.png": labels, "images/val/b.png": LINE}, **content))


def people(dataset: YoloDataset, split: str = "train") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = dataset.splits[split]["annotations"]
    return found


def test_boxes_and_keypoints_in_px(tmp_path: Path) -> None:
    dataset = small(tmp_path / "set")
    (person,) = people(dataset)
    assert person == {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [20.0, 22.5, 40.0, 15.0],
        "keypoints": [20.0, 30.0, 2, 40.0, 30.0, 1, 0.0, 0.0, 0],
        "num_keypoints": 2,
        "iscrowd": 0,
    }
    images = {split: content["images"] for split, content in dataset.splits.items()}
    assert images["train"] == [{"id": 1, "file_name": "train/a.png", "width": 80, "height": 60}]
    assert images["val"][0]["id"] == 2
    assert dataset.images == tmp_path / "set" / "images"
    assert (dataset.reader.left_out.total, dataset.reader.mended.total, dataset.pictures.total) == (0, 0, 0)


BAD_LINES = {
    "a word": ("0 0.5 0.5 0.5 x " + "0.5 0.5 2 " * 3, "line that is not numbers"),
    "commas": (LINE.replace("  ", " ").replace(" ", ","), "line that is not numbers"),
    "nan": (LINE.replace("0.25", "nan", 1), "line that is not numbers"),
    "too short": (LINE[:-2], "line of 13 numbers instead of 14"),
    "a score at its end": (LINE + " 0.9", "line of 15 numbers instead of 14"),
    "px": ("0 40 30 40 15  20 30 2  40 30 1  0 0 0", "box that is not in fractions of the picture, 0 to 1"),
    "negative": (LINE.replace("0.5", "-0.5", 1), "box that is not in fractions of the picture, 0 to 1"),
    "without height": (LINE.replace("0.25", "0", 1), "box without width or height"),
    "another class": ("3" + LINE[1:], "line of a class that data.yaml does not name"),
    "half a class": ("0.5" + LINE[1:], "line of a class that data.yaml does not name"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_lines_that_cannot_be_used_are_counted_and_named(kind: str, tmp_path: Path) -> None:
    line, message = BAD_LINES[kind]
    dataset = small(tmp_path, f"{LINE}\n{line}\n", names=["person"])
    assert len(people(dataset)) == 1
    assert dataset.reader.left_out.lines() == [f"1 x {message}: labels/train/a.txt line 2"]
    with pytest.raises(DataError, match="1 of 3 samples are unusable") as caught:
        dataset.check(0.3)
    assert message in str(caught.value)
    dataset.check(0.4)


MENDED = {
    "again": (f"{LINE}\n{LINE}", "line that is there again", [20, 30, 2, 40, 30, 1, 0, 0, 0]),
    "again, spaced differently": (
        f"{LINE}\n{' '.join(LINE.split())}",
        "line that is there again",
        [20, 30, 2, 40, 30, 1, 0, 0, 0],
    ),
    "a box only": ("0 0.5 0.5 0.5 0.25", "line without keypoints", [0] * 9),
    "a joint left of the picture": (
        LINE.replace("0.25 0.5 2", "-0.25 0.5 2"),
        "labelled keypoint outside of the picture",
        [0, 0, 0, 40, 30, 1, 0, 0, 0],
    ),
    "a joint below the picture": (
        LINE.replace("0.25 0.5 2", "0.25 1.5 1"),
        "labelled keypoint outside of the picture",
        [0, 0, 0, 40, 30, 1, 0, 0, 0],
    ),
    "a score as visibility": (
        LINE.replace("0.25 0.5 2", "0.25 0.5 0.87"),
        "visibility that is not 0, 1 or 2",
        [20, 30, 1, 40, 30, 1, 0, 0, 0],
    ),
    "negative visibility": (
        LINE.replace("0.25 0.5 2", "0.25 0.5 -1"),
        "visibility that is not 0, 1 or 2",
        [0, 0, 0, 40, 30, 1, 0, 0, 0],
    ),
}


@pytest.mark.parametrize("kind", MENDED)
def test_what_is_mended_is_counted_and_named(kind: str, tmp_path: Path) -> None:
    text, message, keypoints = MENDED[kind]
    dataset = small(tmp_path, text)
    (line,) = dataset.reader.mended.lines()
    assert line.startswith(f"1 x {message}")
    assert "labels/train/a.txt line " in line
    assert [person["keypoints"] for person in people(dataset)] == [keypoints]
    assert dataset.reader.left_out.total == 0


@pytest.mark.parametrize(
    "text",
    [
        f"\r\n{LINE}\r\n\r\n",
        f"\n\n   \n{LINE}",
        f"\t{LINE.replace(' ', chr(9))}\n",
        b"\xef\xbb\xbf" + LINE.encode(),
        LINE.replace("0 0.5", "0.0 0.5", 1),
        LINE.replace("0.25 0.5 2", "0.25 0.5 2.0").replace("0.5", "5e-1"),
        LINE.replace("0 0 0", "0.7 0.7 0"),  # not labelled, wherever it is
    ],
)
def test_spellings_of_the_same_line(text: str | bytes, tmp_path: Path) -> None:
    dataset = small(tmp_path, text)
    assert people(dataset)[0]["keypoints"] == [20, 30, 2, 40, 30, 1, 0, 0, 0]
    assert dataset.reader.left_out.total == dataset.reader.mended.total == 0


def test_without_visibilities_all_but_zeros_are_labelled(tmp_path: Path) -> None:
    line = "0 0.5 0.5 0.5 0.25  0.25 0.5  0.5 0  0 0"
    labels: dict[str, str | bytes | None] = {"images/train/a.png": line, "images/val/b.png": line}
    dataset = read_yolo(write(tmp_path, labels, kpt_shape=[3, 2]))
    assert people(dataset)[0]["keypoints"] == [20, 30, 2, 40, 0, 2, 0, 0, 0]
    assert people(dataset)[0]["num_keypoints"] == 2


def test_labels_of_another_shape_are_refused_with_both_counts(tmp_path: Path) -> None:
    dataset = small(tmp_path, kpt_shape=[3, 2])
    with pytest.raises(DataError, match="2 x line of 14 numbers instead of 11") as caught:
        dataset.check(0.01)
    assert "kpt_shape" in caught.value.hint
    assert "max-bad-share" not in caught.value.hint  # all are bad: it cannot help


def test_pictures_without_people_are_kept(tmp_path: Path) -> None:
    labels = {"images/train/a.png": LINE, "images/train/b.png": None, "images/train/c.png": " \n"}
    dataset = read_yolo(write(tmp_path, {**labels, "images/val/d.png": LINE}))
    assert len(dataset.splits["train"]["images"]) == 3
    assert dataset.empty == {"train": 2, "val": 0}
    assert dataset.pictures.total == 0


def test_pictures_and_labels_that_lack_one_another(tmp_path: Path) -> None:
    file = write(tmp_path, {"images/train/a.png": LINE, "images/val/b.png": LINE})
    (tmp_path / "labels/train/lost.txt").write_text(LINE)
    (tmp_path / "labels/train/classes.txt").write_text("person\n")
    (tmp_path / "labels/train/empty.txt").write_text("")
    (tmp_path / "images/train/broken.jpg").write_bytes(b"no picture")
    (tmp_path / "images/train/._a.png").write_bytes(b"of a Mac")
    dataset = read_yolo(file)
    assert sorted(dataset.pictures.lines()) == [
        "1 x label file without a picture: labels/train/lost.txt",
        "1 x picture that cannot be read: images/train/broken.jpg",
    ]
    with pytest.raises(DataError, match="2 of 4 samples are unusable"):
        dataset.check(0.4)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    file = write(tmp_path, {"images/train/a.png": LINE, "images/val/b.png": LINE})
    os.rename(tmp_path / "images/train/a.png", os.fsencode(tmp_path / "images/train") + b"/\xff.png")
    dataset = read_yolo(file)
    assert any("picture whose name is not UTF-8" in line for line in dataset.pictures.lines())


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_pictures_are_as_displayed(orientation: int, tmp_path: Path) -> None:
    file = write(tmp_path, {"images/train/a.jpg": LINE, "images/val/b.png": LINE})
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (80, 60)).save(tmp_path / "images/train/a.jpg", exif=exif)
    dataset = read_yolo(file)
    image = dataset.splits["train"]["images"][0]
    turned = orientation == 6
    assert (image["width"], image["height"]) == ((60, 80) if turned else (80, 60))
    assert people(dataset)[0]["keypoints"][:2] == ([15, 40] if turned else [20, 30])
    said = [note for note in dataset.notes if "EXIF turns: 1" in note]
    assert len(said) == (orientation != 1)


PLACES: dict[str, tuple[dict[str, Any], str]] = {
    "a path": ({"path": ".", "train": "images/train"}, ""),
    "a path that is not there": ({"path": "../datasets/mine"}, "'../datasets/mine' is not there"),
    "Roboflow's": ({"train": "../images/train"}, "'../images/train' is not there"),
    "of another machine": ({"train": "/content/set/images/train"}, "is not there"),
    "backslashes": ({"train": "images\\train"}, ""),
    "a list of folders": ({"train": ["images/train", "images/train"]}, "names 2 pictures again"),
    "a list of pictures": ({"train": "train.txt"}, ""),
    "lists and folders": ({"train": ["train.txt", "images/train"]}, "names 2 pictures again"),
    "a list of another machine": ({"train": "far.txt"}, "found by the last parts of their paths: 2"),
    "valid": ({"val": None, "valid": "images/val"}, ""),
}


@pytest.mark.parametrize("kind", PLACES)
def test_where_pictures_lie(kind: str, tmp_path: Path) -> None:
    content, note = PLACES[kind]
    root = tmp_path / "set"
    pictures = {"images/train/a.png": LINE, "images/train/deep/b.png": LINE, "images/val/c.png": LINE}
    file = write(root, {**pictures}, **content)
    (root / "train.txt").write_bytes(b"./images/train/a.png\r\n\r\nimages/train/deep/b.png\r\n")
    (root / "far.txt").write_text("/content/set/images/train/a.png\nC:\\set\\images\\train\\deep\\b.png\n")
    dataset = read_yolo(file)
    names = [image["file_name"] for image in dataset.splits["train"]["images"]]
    assert names == ["train/a.png", "train/deep/b.png"]
    assert len(people(dataset)) == 2
    assert [image["file_name"] for image in dataset.splits["val"]["images"]] == ["val/c.png"]
    said = [line for line in dataset.notes if "joint" not in line and "OKS" not in line]
    assert (len(said) == 1 and note in said[0]) if note else said == []


def test_labels_lie_where_the_last_images_is(tmp_path: Path) -> None:
    root = tmp_path / "images" / "set"
    labels = {"train/images/deep/a.png": LINE, "valid/images/b.png": LINE}
    dataset = read_yolo(write(root, {**labels}, train="train/images", val="valid/images"))
    assert (root / "train/labels/deep/a.txt").is_file()
    assert [len(people(dataset, split)) for split in dataset.splits] == [1, 1]
    assert dataset.images == root


def test_labels_beside_the_pictures(tmp_path: Path) -> None:
    file = write(tmp_path / "set", {"a/x.png": LINE, "b/y.png": LINE}, train="a", val="b")
    assert (tmp_path / "set/a/x.txt").is_file()
    dataset = read_yolo(file)
    assert [len(people(dataset, split)) for split in dataset.splits] == [1, 1]
    assert dataset.pictures.total == 0


def test_missing_pictures_of_a_list(tmp_path: Path) -> None:
    file = write(tmp_path, {"images/train/a.png": LINE, "images/val/b.png": LINE}, train="train.txt")
    (tmp_path / "train.txt").write_text("images/train/a.png\nimages/train/gone.png\n")
    (tmp_path / "labels/train/gone.txt").write_text(LINE)
    assert read_yolo(file).pictures.lines() == ["1 x picture that is missing: images/train/gone.png"]


def test_pictures_of_two_splits_are_said(tmp_path: Path) -> None:
    dataset = small(tmp_path, val="images/train")
    assert "pictures in more than one split: 1, such as images/train/a.png" in dataset.notes


def test_a_split_that_is_missing_is_said(tmp_path: Path) -> None:
    dataset = small(tmp_path, train=None)
    assert list(dataset.splits) == ["val"]
    assert "there is no split 'train'; val stands in for it" in dataset.notes


def test_pictures_that_share_a_label_file_are_said(tmp_path: Path) -> None:
    labels: dict[str, str | bytes | None] = {"images/train/a.png": LINE, "images/train/a.jpg": LINE}
    dataset = read_yolo(write(tmp_path, {**labels, "images/val/b.png": LINE}))
    assert "label files of more than one picture: 1, such as labels/train/a.txt" in dataset.notes


@pytest.mark.parametrize(
    ("names", "person", "words"),
    [
        (
            {0: "person", 1: "ball"},
            "person",
            "lines of classes: person (2), ball (1); people are class person",
        ),
        (["ball", "Person"], "Person", "lines of classes: ball (2), Person (1); people are class Person"),
        (["standing", "lying"], "", "standing (2), lying (1); all are taken for people"),
        (None, "", "class_0 (2), class_1 (1); all are taken for people"),
    ],
)
def test_several_classes(names: Any, person: str, words: str, tmp_path: Path) -> None:
    dataset = small(tmp_path, f"{LINE}\n1{LINE[1:]}", names=names)
    assert dataset.person == person
    assert any(words in note for note in dataset.notes)
    assert [p["category_id"] for p in people(dataset)] == [1, 2]
    assert [c["id"] for c in dataset.splits["train"]["categories"]] == [1, 2]


@pytest.mark.parametrize(
    "kpt_names", [["nose", "left_eye", "right_eye"], {0: ["nose", "left_eye", "right_eye"]}]
)
def test_names_of_joints(kpt_names: Any, tmp_path: Path) -> None:
    joints = small(tmp_path, kpt_names=kpt_names).joints
    assert joints.skeleton.joints == ("nose", "left_eye", "right_eye")
    assert joints.skeleton.sigmas == (0.026, 0.025, 0.025)
    assert joints.skeleton.flip_pairs == ((1, 2),)
    assert (1, 2) in joints.skeleton.limbs
    assert joints.mirrored


def test_joints_without_names(tmp_path: Path) -> None:
    joints = small(tmp_path).joints
    assert joints.skeleton.joints == ("joint_1", "joint_2", "joint_3")
    assert joints.skeleton.sigmas == (0.05,) * 3
    assert joints.skeleton.flip_pairs == ((1, 2),)
    assert any("sigmas" in note and "0.05 for all" in note for note in joints.notes)


@pytest.mark.parametrize(
    ("names", "pairs", "words"),
    [
        (["Tail", "Left Ear", "Right Ear"], ((1, 2),), "Left Ear = Right Ear"),
        (None, (), "unknown: nothing is mirrored"),
    ],
)
def test_without_flip_idx(names: Any, pairs: Any, words: str, tmp_path: Path) -> None:
    joints = small(tmp_path, flip_idx=None, kpt_names=names).joints
    assert joints.skeleton.flip_pairs == pairs
    assert joints.mirrored == bool(pairs)
    assert any(words in note for note in joints.notes)


@pytest.mark.parametrize(
    ("skeleton", "named", "mirror"),
    [
        (COCO17, True, COCO_MIRROR),
        (COCO17, True, None),
        (COCO17, False, COCO_MIRROR),
        (CROWDPOSE14, True, None),
    ],
)
def test_joints_of_a_built_in_skeleton(skeleton: Any, named: bool, mirror: Any, tmp_path: Path) -> None:
    count = skeleton.num_joints
    names = [name.replace("_", " ").title() for name in skeleton.joints] if named else None
    line = "0 0.5 0.5 0.5 0.5" + " 0.5 0.5 2" * count
    labels: dict[str, str | bytes | None] = {"images/train/a.png": line, "images/val/b.png": line}
    file = write(tmp_path, labels, kpt_shape=[count, 3], flip_idx=mirror, kpt_names=names)
    joints = read_yolo(file).joints
    assert joints.skeleton == skeleton
    assert joints.mirrored
    assert bool(joints.notes) != named  # a guess is said


REFUSED = {
    "no kpt_shape": ({"kpt_shape": None}, "has no kpt_shape"),
    "a kpt_shape of words": ({"kpt_shape": "17, 3"}, "kpt_shape '17, 3' cannot be used"),
    "thousands of joints": (
        {"kpt_shape": [1001, 3]},
        "kpt_shape [1001, 3] is too large; 1000 keypoints at most",
    ),
    "four numbers a joint": ({"kpt_shape": [3, 4]}, "kpt_shape"),
    "a short flip_idx": ({"flip_idx": [0, 1]}, "is no mirror of 3 keypoints"),
    "a flip_idx in a circle": ({"flip_idx": [1, 2, 0]}, "is no mirror of 3 keypoints"),
    "too few names": ({"kpt_names": ["a", "b"]}, "kpt_names has 2 names for 3 keypoints"),
    "a name twice": ({"kpt_names": ["a", "b", "b"]}, "'b' is there twice"),
    "no such folder": ({"train": "images/none"}, "train 'images/none' is not there"),
    "a picture": ({"train": "images/train/a.png"}, "is no folder"),
    "an empty folder": ({"train": "labels"}, "has no pictures"),
    "no splits": ({"train": None, "val": None}, "none of train, val and test has pictures"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_data_yaml_gets_wrong(kind: str, tmp_path: Path) -> None:
    content, message = REFUSED[kind]
    with pytest.raises((DataError, ConfigError)) as caught:
        small(tmp_path, **content)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_folders_and_files_that_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no data\.yaml"):
        read_yolo(tmp_path)
    with pytest.raises(ConfigError, match="No such file"):
        read_yolo(tmp_path / "x.yaml")
    (tmp_path / "a.yaml").write_text("[1]")
    with pytest.raises(DataError, match=r"is no data\.yaml"):
        read_yolo(tmp_path)
    (tmp_path / "b.yml").write_text("x: 1")
    with pytest.raises(DataError, match="has 2 YAML files"):
        read_yolo(tmp_path)


def test_no_labels_at_all_says_where_one_would_be(tmp_path: Path) -> None:
    file = write(tmp_path, {"images/train/a.png": None, "images/val/b.png": None})
    with pytest.raises(DataError, match="no picture has labels") as caught:
        read_yolo(file)
    assert str(tmp_path / "labels/train/a.txt") in caught.value.hint


def test_a_picture_with_a_long_header(tmp_path: Path) -> None:
    """The size stands behind more than what is read at first."""
    file = write(tmp_path, {"images/train/a.jpg": LINE, "images/val/b.png": LINE})
    noise = np.random.default_rng(0).integers(0, 255, 200_000, np.uint8).tobytes()
    Image.new("RGB", (80, 60)).save(tmp_path / "images/train/a.jpg", icc_profile=noise)
    assert read_yolo(file).splits["train"]["images"][0]["width"] == 80
