"""Poses go to the image entry whose box they were predicted in, however many entries a picture has."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mipnet.config import Config
from mipnet.config.schema import ResourcesConfig
from mipnet.data.dataset_formats import open_split
from mipnet.evaluation.predicted_poses import score_splits
from mipnet.inference.pipeline import predict_splits
from mipnet.storage import Folder

Content = dict[str, Any]
pytestmark = pytest.mark.ray


def an_entry_a_person(content: Content, name: Callable[[str, int], str]) -> None:
    """Give each person an image entry of its own with a new id."""
    entries = {image["id"]: image for image in content["images"]}
    content["images"] = []
    for person in content["annotations"]:
        image, number = entries[person["image_id"]], 5000 + person["id"]
        content["images"].append({**image, "id": number, "file_name": name(image["file_name"], number)})
        person["image_id"] = number


def results(root: Path, config: Config, model: Path, splits: list[str]) -> list[list[dict[str, Any]]]:
    """The merged poses in ground-truth boxes of each split, predicted together."""
    data = Folder.of(root)
    files = {split: open_split(config.data, data, split) for split in splits}
    poses = predict_splits(
        Folder.of(model), config, data, files, sources=["gt"], resources=ResourcesConfig(gpu=False)
    )
    return [row.results for row in score_splits(poses, config, files) if row.instance_mode == "merged"]


def by_place(poses: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What identifies a pose, in an order that does not depend on the split's."""
    return sorted((p["image_id"], p["box"], p["instance"], p["keypoints"], p["score"]) for p in poses)


@pytest.fixture
def data_set(small_coco: Folder, small_config: Config, tmp_path: Path) -> tuple[Config, Content]:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    for picture in (small_coco.local_path / "train").iterdir():
        (tmp_path / "images" / picture.name).write_bytes(picture.read_bytes())
    content = json.loads(small_coco.read("annotations/person_keypoints_train.json"))
    return replace(
        small_config, data=replace(small_config.data, root=str(tmp_path), images="images")
    ), content


def write(root: Path, split: str, content: Content) -> None:
    (root / f"annotations/person_keypoints_{split}.json").write_text(json.dumps(content))


def test_an_entry_a_person_scores_as_separate_copies_of_the_files(
    data_set: tuple[Config, Content], small_models: list[Path], tmp_path: Path, ray_session: None
) -> None:
    config, content = data_set
    copies = json.loads(json.dumps(content))

    def copied(name: str, number: int) -> str:
        (tmp_path / "images" / f"{number}.jpg").write_bytes((tmp_path / "images" / name).read_bytes())
        return f"{number}.jpg"

    an_entry_a_person(content, lambda name, number: name)
    an_entry_a_person(copies, copied)
    write(tmp_path, "one", content)
    write(tmp_path, "copies", copies)
    one, separate = results(tmp_path, config, small_models[0], ["one", "copies"])
    assert by_place(one) == by_place(separate)
    assert {pose["image_id"] for pose in one} == {image["id"] for image in content["images"]}


def test_two_splits_that_number_the_same_pictures_differently_score_the_same(
    data_set: tuple[Config, Content], small_models: list[Path], tmp_path: Path, ray_session: None
) -> None:
    config, content = data_set
    write(tmp_path, "one", content)
    for entry in content["images"]:
        entry["id"] = 11 - entry["id"]
    for person in content["annotations"]:
        person["image_id"] = 11 - person["image_id"]
    write(tmp_path, "reversed", content)
    one, other = results(tmp_path, config, small_models[0], ["one", "reversed"])
    assert by_place(one) == by_place([{**pose, "image_id": 11 - pose["image_id"]} for pose in other])
    assert len({pose["image_id"] for pose in one}) == 12
