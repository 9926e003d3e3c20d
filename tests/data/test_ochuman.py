"""OCHuman's own file, by hand."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from mipnet.config.presets import DATASETS
from mipnet.data.dataset_formats import open_split
from mipnet.data.ochuman import OCHUMAN_KEYPOINTS, ids_from_names, is_ochuman, ochuman_to_coco
from mipnet.errors import DataError
from mipnet.evaluation.coco import evaluate_keypoints
from mipnet.skeletons import COCO17
from mipnet.storage import Folder

# Joint number i of OCHuman's order lies at (10 + i, 100 + i); hidden in all ways, and two are missing.
CODES = [1, 2, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 2, 3, 1]
OCHUMAN_KEYPOINTS19 = [value for i, code in enumerate(CODES) for value in (10 + i, 100 + i, code)]
CONTENT: dict[str, Any] = {
    "images": [
        {
            "image_id": "000007",
            "file_name": "000007.jpg",
            "width": 400,
            "height": 300,
            "annotations": [
                {"bbox": [5, 90, 45, 190], "keypoints": OCHUMAN_KEYPOINTS19, "segms": None},
                {"bbox": [50, 90, 95, 190], "keypoints": None},
            ],
        },
        {"image_id": "12", "file_name": "12.jpg", "width": 40, "height": 30, "annotations": []},
    ],
    "keypoint_visible": {"missing": 0, "vis": 1, "self_occluded": 2, "others_occluded": 3},
}


def test_joints_boxes_and_visibility_by_hand() -> None:
    before = copy.deepcopy(CONTENT)
    coco = ochuman_to_coco(CONTENT, "here")
    assert before == CONTENT
    assert [(i["id"], i["width"], i["height"]) for i in coco["images"]] == [(7, 400, 300), (12, 40, 30)]
    (person,) = coco["annotations"]  # the second has no pose
    assert person["bbox"] == [5, 90, 40, 100]
    assert person["area"] == pytest.approx(0.53 * 4000)
    found = {name: tuple(person["keypoints"][3 * i : 3 * i + 3]) for i, name in enumerate(COCO17.joints)}
    assert found["nose"] == (26, 116, 1)  # number 16, hidden by itself
    assert found["left_eye"] == (28, 118, 2)
    assert found["right_eye"] == (27, 117, 1)  # hidden by others
    assert found["right_ear"] == (0, 0, 0)  # missing
    assert found["left_ear"] == (25, 115, 2)
    assert found["right_shoulder"] == (10, 100, 2)
    assert found["left_shoulder"] == (13, 103, 2)
    assert found["right_elbow"] == (11, 101, 1)
    assert found["right_wrist"] == (12, 102, 1)
    assert found["left_wrist"] == (15, 105, 2)
    assert found["right_hip"] == (16, 106, 2)
    assert found["left_ankle"] == (21, 111, 2)
    assert person["num_keypoints"] == 16
    assert set(OCHUMAN_KEYPOINTS) - set(COCO17.joints) == {"head", "neck"}


def test_it_is_opened_like_any_other_file_and_can_be_evaluated(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "ochuman.json").write_text(json.dumps(CONTENT))
    file = open_split(DATASETS["ochuman"], Folder.of(tmp_path), "ochuman")
    people, invalid_annotations = file.people(), file.invalid_annotations
    assert (len(people), invalid_annotations.total) == (1, 0)
    result = {"image_id": 7, "category_id": 1, "score": 0.5}
    result["keypoints"] = file.annotations["annotations"][0]["keypoints"]
    assert evaluate_keypoints(file.annotations, [result], COCO17.sigmas)["AP"] == pytest.approx(1)


def test_only_its_own_format_is_taken_for_it() -> None:
    assert is_ochuman(CONTENT)
    assert not is_ochuman(ochuman_to_coco(CONTENT, "here"))
    assert not is_ochuman({"images": []})
    assert not is_ochuman([])
    assert not is_ochuman({"images": [{"id": 1}]})


def test_ids_that_are_no_numbers_are_counted() -> None:
    assert ids_from_names(["3", 5]) == [3, 5]
    assert ids_from_names(["3", "b"]) == [1, 2]
    assert ids_from_names(["3", "03"]) == [1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image.pop("width"), "image 0 lacks 'width'"),
        (lambda image: image["annotations"][0].update(keypoints=[1, 2, 1] * 17), "17 keypoints, not 19"),
        (lambda image: image["annotations"][0].pop("bbox"), "lacks 'bbox'"),
        (lambda image: image["annotations"][0].update(bbox=[1, 2, 3]), "image"),
        (lambda image: image.update(annotations=None), "image"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(change: Any, message: str) -> None:
    content = copy.deepcopy(CONTENT)
    change(content["images"][0])
    with pytest.raises(DataError, match=message) as caught:
        ochuman_to_coco(content, "ochuman.json")
    assert str(caught.value).startswith("ochuman.json is not OCHuman's file: ")
    assert len(str(caught.value).splitlines()) == 1
