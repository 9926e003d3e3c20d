"""The real data sets as downloaded, in small: where their files are found, and what is said if not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mipnet.config.presets import DATASETS
from mipnet.config.schema import DataConfig
from mipnet.data.crops import decode_image
from mipnet.data.dataset_formats import open_split
from mipnet.data.detections import read_detections
from mipnet.errors import DataError
from mipnet.skeletons import SKELETONS
from mipnet.storage import Folder


def write(root: Path, annotations: str, images: str, skeleton: str = "coco17") -> None:
    """One image with one person."""
    joints = SKELETONS[skeleton].joints
    person = {
        "id": 1, "image_id": 7, "category_id": 1, "bbox": [2, 3, 20, 30], "area": 300, "iscrowd": 0,
        "keypoints": [5, 6, 2] * len(joints), "num_keypoints": len(joints),
    }  # fmt: skip
    content = {
        "images": [{"id": 7, "file_name": "7.jpg", "width": 40, "height": 50, "crowdIndex": 0.5}],
        "annotations": [person],
        "categories": [{"id": 1, "name": "person", "keypoints": list(joints)}],
    }
    for path in (root / annotations, root / images / "7.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
    (root / annotations).write_text(json.dumps(content))
    (root / images / "7.jpg").write_bytes(b"pixels")


OCHUMAN = "ochuman_coco_format_val_range_0.00_1.00.json"
KNOWN = [
    ("coco", "val2017", "annotations/person_keypoints_val2017.json", "val2017"),
    ("coco", "val2017", "annotations/person_keypoints_val2017.json", "images/val2017"),
    ("coco", "val2017", "annotations/person_keypoints_val2017.json", "images"),
    ("crowdpose", "trainval", "json/crowdpose_trainval.json", "images"),
    ("crowdpose", "test", "annotations/crowdpose_test.json", "images"),
    ("ochuman", "val", OCHUMAN, "images"),
    ("ochuman", "val", f"annotations/{OCHUMAN}", "images"),
]


@pytest.mark.parametrize(("name", "split", "annotations", "images"), KNOWN)
def test_layouts_are_found_as_downloaded(
    tmp_path: Path, name: str, split: str, annotations: str, images: str
) -> None:
    data = DATASETS[name]
    write(tmp_path, annotations, images, data.skeleton)
    file = open_split(data, Folder.of(tmp_path), split)
    people, invalid_annotations = file.people(), file.invalid_annotations
    assert (len(people), invalid_annotations.total, file.fixes) == (1, 0, [])
    assert people.images.read(0) == b"pixels"


@pytest.mark.parametrize("name", DATASETS)
def test_splits_of_the_named_data_sets_are_all_in_their_layout(tmp_path: Path, name: str) -> None:
    data = DATASETS[name]
    for split in {data.train, data.val, *data.evaluate}:
        with pytest.raises(DataError, match="there are no annotations"):
            open_split(data, Folder.of(tmp_path), split)
        annotations = {"coco": "annotations/person_keypoints_{}.json", "crowdpose": "json/crowdpose_{}.json"}
        pattern = annotations.get(name, "ochuman_coco_format_{}_range_0.00_1.00.json")
        write(tmp_path, pattern.format(split), split if name == "coco" else "images", data.skeleton)
        assert len(open_split(data, Folder.of(tmp_path), split).people()) == 1


def test_a_missing_file_is_told_with_the_paths_that_were_tried(tmp_path: Path) -> None:
    root = Folder.of(tmp_path)
    with pytest.raises(DataError) as caught:
        open_split(DATASETS["crowdpose"], root, "val")
    for name in ("json/crowdpose_val.json", "annotations/crowdpose_val.json"):
        assert str(tmp_path / name) in str(caught.value)
    assert "--data.annotations" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    write(tmp_path, "annotations/person_keypoints_val.json", "elsewhere")
    with pytest.raises(DataError) as caught:
        open_split(DataConfig(), root, "val")
    for name in ("/val,", "/images/val,", "/images;"):
        assert f"{tmp_path}{name}" in str(caught.value)
    assert "--data.images" in str(caught.value)


def test_any_other_places_are_patterns(tmp_path: Path) -> None:
    write(tmp_path, "labels/night/of_{7}.json", "pictures/night")
    data = DataConfig(annotations="labels/{split}/of_{7}.json", images="pictures/{split}")
    assert len(open_split(data, Folder.of(tmp_path), "night").people()) == 1
    with pytest.raises(DataError, match=r"tried .*/labels/day/of_\{7\}.json; "):
        open_split(data, Folder.of(tmp_path), "day")
    with pytest.raises(DataError, match="leads out of its folder"):
        open_split(DataConfig(annotations="../{split}.json"), Folder.of(tmp_path), "day")


def test_one_pattern_leaves_the_other_to_the_layout(tmp_path: Path) -> None:
    write(tmp_path, "val.json", "images/val")
    assert open_split(DataConfig(annotations="{split}.json"), Folder.of(tmp_path), "val").images_uri == str(
        tmp_path / "images/val"
    )


def test_the_category_of_the_people_is_the_files(tmp_path: Path) -> None:
    write(tmp_path, "annotations/person_keypoints_val.json", "val")
    path = tmp_path / "annotations/person_keypoints_val.json"
    content: dict[str, Any] = json.loads(path.read_text())
    content["categories"][0]["id"] = content["annotations"][0]["category_id"] = 5
    content["categories"].insert(0, {"id": 1, "name": "kite"})
    path.write_text(json.dumps(content))
    root = Folder.of(tmp_path)
    file = open_split(DataConfig(), root, "val")
    assert file.category_id == 5
    found = [{"image_id": 7, "category_id": c, "bbox": [1, 1, 9, 9], "score": c / 9} for c in (1, 5)]
    root.write("boxes.json", json.dumps(found))
    assert read_detections(file, root, "boxes.json", 0).scores.tolist() == [5 / 9]


@pytest.mark.shared
def test_the_crowdpose_sample_through_patterns(shared: Path) -> None:
    data = DataConfig(
        format="crowdpose", skeleton="crowdpose14", annotations="crowdpose_{split}.json", images="images"
    )
    root = Folder.of(shared / "data/crowdpose-sample")
    file = open_split(data, root, "sample")
    people, invalid_annotations = file.people(), file.invalid_annotations
    assert (len(people), invalid_annotations.total) == (4, 0)  # the fifth has no joint
    for index in range(len(people.images)):
        image = decode_image(people.images.read(index))
        assert image is not None
        part = slice(*people.image_offsets[index : index + 2])
        corners = people.boxes[part, :2] + people.boxes[part, 2:]
        assert np.all(corners < image.shape[1::-1])
    val = open_split(data, root, "val")
    assert (len(val.annotations["images"]), val.fixes) == (2000, [])  # this release's sizes are right


@pytest.mark.shared
def test_coco_mini_as_downloaded(shared: Path) -> None:
    file = open_split(DATASETS["coco"], Folder.of(shared / "data/coco-mini"), "train2017")
    assert len(file.people()) == 86
    assert file.fixes == []
