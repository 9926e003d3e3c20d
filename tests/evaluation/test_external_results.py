"""Other methods' results: what is read, what is refused, and their lines in the table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mipnet.cli.main import main
from mipnet.config import preset
from mipnet.config.schema import DataConfig
from mipnet.data.coco import CocoKeypointFile
from mipnet.data.dataset_formats import open_split
from mipnet.errors import DataError
from mipnet.evaluation.external_results import external_result_rows, read_results
from mipnet.storage import Folder


@pytest.fixture
def file(small_coco: Folder) -> CocoKeypointFile:
    return open_split(DataConfig(), small_coco, "train")


def perfect(file: CocoKeypointFile) -> list[dict[str, Any]]:
    """Every person as annotated."""
    return [
        {"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 0.5}
        for a in file.annotations["annotations"]
    ]


def write(folder: Path, content: Any, name: str = "poses.json") -> Folder:
    (folder / name).write_text(json.dumps(content))
    return Folder.of(folder)


def test_perfect_poses_score_one_under_their_own_name(file: CocoKeypointFile, tmp_path: Path) -> None:
    write(tmp_path, perfect(file), "train.json")
    write(tmp_path, perfect(file)[: len(perfect(file)) // 2], "half.json")
    config = replace(preset("tiny"), data=DataConfig(root="x"))
    named = [f"openpose={tmp_path}/{{split}}.json", f"half={tmp_path}/half.json"]
    whole, half = external_result_rows(named, {"train": file}, config)
    assert whole.name == "train/openpose/results"
    assert whole.metrics["AP"] == pytest.approx(1)
    assert half.name == "train/half/results"
    assert 0.3 < half.metrics["AP"] < 0.7


@pytest.mark.parametrize("ending", [".jpg", ""])
def test_images_by_file_name_and_no_category(file: CocoKeypointFile, tmp_path: Path, ending: str) -> None:
    poses = [{**pose, "image_id": f"{pose['image_id']}{ending}"} for pose in perfect(file)]
    for pose in poses:
        del pose["category_id"]
    assert read_results(write(tmp_path, poses), "poses.json", file) == (perfect(file), ())


@pytest.mark.parametrize("spell", [float, lambda number: f"{number:012d}"])
def test_image_ids_in_other_spellings(file: CocoKeypointFile, tmp_path: Path, spell: Any) -> None:
    poses = [{**pose, "image_id": spell(pose["image_id"])} for pose in perfect(file)]
    assert read_results(write(tmp_path, poses), "poses.json", file) == (perfect(file), ())


def test_a_short_name_of_two_images_is_of_neither(small_coco: Folder, tmp_path: Path) -> None:
    content = json.loads(small_coco.read("annotations/person_keypoints_train.json"))
    content["images"][1]["file_name"] = "day/0.jpg"  # the image before it is 0.jpg
    content["images"][3]["file_name"] = "night/2.jpg"
    content["images"][2]["file_name"] = "day/2.jpg"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train").mkdir()
    write(tmp_path / "annotations", content, "person_keypoints_train.json")
    file = open_split(DataConfig(), Folder.of(tmp_path), "train")
    names = ("0.jpg", "day/0.jpg", "day/2.jpg", "night/2.jpg", "4", "4.jpg")
    found = file.matcher.match([{"file_name": name} for name in names], "x", "result")
    assert found == [0, 1, 2, 3, 4, 4]
    poses = [{**perfect(file)[0], "image_id": "2.jpg"}]
    with pytest.raises(
        DataError, match=r"result 0 is of '2\.jpg', which fits several images \(day/2.jpg, night"
    ):
        read_results(write(tmp_path, poses), "poses.json", file)


def renamed(file: CocoKeypointFile, *names: str) -> list[dict[str, Any]]:
    """Perfect poses with file names in order of the images, and ids of another numbering."""
    return [
        {**pose, "image_id": 11 - pose["image_id"], "file_name": names[pose["image_id"]]}
        for pose in perfect(file)
    ]


@pytest.mark.parametrize("pattern", ["{}.jpg", "train/{}.jpg", "/home/anna/set/train/{}.jpg", "{}", "{}.png"])
def test_file_names_win_over_ids(file: CocoKeypointFile, tmp_path: Path, pattern: str) -> None:
    poses = renamed(file, *(pattern.format(i) for i in range(12)))
    found, notes = read_results(write(tmp_path, poses), "poses.json", file)
    assert [pose["image_id"] for pose in found] == [pose["image_id"] for pose in perfect(file)]
    assert notes == ()
    without = [{k: v for k, v in pose.items() if k != "image_id"} for pose in poses]
    assert read_results(write(tmp_path, without), "poses.json", file)[0] == found


def test_results_of_other_images_are_counted_or_refused(file: CocoKeypointFile, tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(12)]
    found, (note,) = read_results(
        write(tmp_path, renamed(file, *names[:10], "x.jpg", "y.jpg")), "poses.json", file
    )
    assert {pose["image_id"] for pose in found} == set(range(10))
    assert "poses.json: 7 x result of an image that" in note
    with pytest.raises(
        DataError, match=r"no result is of an image of .*; name the images as there, e.g. 0.jpg"
    ):
        read_results(write(tmp_path, renamed(file, *(f"x{n}" for n in names))), "poses.json", file)
    two = [f"{'day' if i % 2 else 'night'}/{i // 2}.jpg" for i in range(12)]
    with pytest.raises(DataError, match=r"result 1 is of 'day/0.jpg', which fits 0.jpg, as 'night/0.jpg"):
        read_results(write(tmp_path, renamed(file, *two)), "poses.json", file)


def test_one_category_that_the_annotations_do_not_know_is_peoples(
    file: CocoKeypointFile, tmp_path: Path
) -> None:
    poses = [{**pose, "category_id": 0} for pose in perfect(file)]
    found, (note,) = read_results(write(tmp_path, poses), "poses.json", file)
    assert found == perfect(file)
    assert note.endswith("category 0 of all results was taken for people's, 1")
    poses[0]["category_id"] = 1
    with pytest.raises(DataError, match="result 1 is of category 0, which is not of people"):
        read_results(write(tmp_path, poses), "poses.json", file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": 999}, "result 2 is of image 999, which"),
        ({"image_id": [1]}, "result 2 is of image [1], which"),
        ({"keypoints": [1, 2, 3]}, "result 2 has 1 keypoints, coco17 17"),
        ({"keypoints": [float("nan")] * 51}, "keypoints or a score that are not numbers"),
        ({"keypoints": "none"}, "keypoints or a score that are not numbers"),
        ({"score": None}, "keypoints or a score that are not numbers"),
    ],
)
def test_unusable_results_are_named(file: CocoKeypointFile, tmp_path: Path, change: Any, words: str) -> None:
    poses = perfect(file)
    poses[2] |= change
    with pytest.raises(DataError) as caught:
        read_results(write(tmp_path, poses), "poses.json", file)
    assert words in str(caught.value)
    assert str(tmp_path / "poses.json") in str(caught.value)


def test_no_list_no_file_no_name(file: CocoKeypointFile, tmp_path: Path) -> None:
    config = preset("tiny")
    with pytest.raises(DataError, match="is not a list"):
        read_results(write(tmp_path, {}), "poses.json", file)
    with pytest.raises(DataError, match="lacks image_id"):
        read_results(write(tmp_path, [{}]), "poses.json", file)
    with pytest.raises(DataError, match=r"none\.json does not exist; give --results NAME=FILE"):
        external_result_rows([f"a={tmp_path}/none.json"], {"train": file}, config)
    with pytest.raises(DataError, match=r"--results: 'poses\.json' names no file"):
        external_result_rows(["poses.json"], {"train": file}, config)


def test_a_table_of_others_alone_needs_no_model(
    file: CocoKeypointFile, small_coco: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, perfect(file))
    argv = ["evaluate", "--results", f"openpose={tmp_path}/poses.json", "--data", small_coco.uri]
    assert main([*argv, "--data.evaluate", "train", "--out", str(tmp_path / "out")]) == 0
    header, _, line = capsys.readouterr().out.splitlines()[:3]
    assert header.split()[:4] == ["split", "boxes", "instances", "AP"]
    assert line.split()[:4] == ["train", "openpose", "results", "100.0"]
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["train/openpose/results/AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("named", "message"),
    [(("m=a.json", "m=b.json"), "'m' is given twice"), (("a/b=a.json",), "'a/b' has a '/'")],
)
def test_names_that_the_table_cannot_tell_apart(file: CocoKeypointFile, named: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"--results: the name {message}; give each method a name of its own"):
        external_result_rows(named, {"train": file}, preset("tiny"))
