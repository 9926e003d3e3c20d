"""Figures of a split against what can be counted by hand, and CrowdPose's own crowdIndex."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mipnet.config.schema import DataConfig
from mipnet.data.annotation_statistics import split_statistics
from mipnet.data.coco import CocoKeypointFile
from mipnet.data.crowding import crowd_index
from mipnet.data.dataset_formats import open_split
from mipnet.skeletons import COCO17, CROWDPOSE14
from mipnet.storage import Folder


def person(number: int, image: int, box: list[float], joints: list[list[float]]) -> dict[str, Any]:
    keypoints = np.zeros((17, 3))
    keypoints[: len(joints)] = np.reshape(joints, (-1, 3))
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": 0,
        "keypoints": keypoints.ravel().tolist(),
        "num_keypoints": len(joints),
    }


def split_of(root: Path, people: list[dict[str, Any]]) -> CocoKeypointFile:
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 100} for i in range(3)]
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO17.joints)}]
    content = {"images": images, "annotations": people, "categories": categories}
    (root / "annotations").mkdir()
    (root / "train").mkdir()
    (root / "annotations" / "person_keypoints_train.json").write_text(json.dumps(content))
    return open_split(DataConfig(), Folder.of(root), "train")


def row(x: float, count: int = 4) -> list[list[float]]:
    return [[x, 20 + 10 * i, 2] for i in range(count)]


def test_figures_of_a_split_counted_by_hand(tmp_path: Path) -> None:
    file = split_of(
        tmp_path,
        [
            person(1, 0, [10, 10, 40, 60], row(20)),
            person(2, 0, [20, 10, 40, 60], row(45)),  # IoU 0.6 with the first, whose box holds its joints
            person(3, 0, [45, 10, 40, 60], row(75)),  # IoU 0.23 with the second
            person(4, 1, [10, 10, 30, 95], [[20, 20, 2], [20, 120, 2]]),  # box and joint beyond the border
            person(5, 1, [60, 10, 30, 60], [[20, 20, 2], [20, 30, 2], [70, 20, 2]]),  # joints off the box
            person(6, 1, [60, 10, 30, 60], [[20, 20, 2], [20, 30, 2], [70, 20, 2]]),  # the same again: once
            person(7, 1, [60, 10, 30, 60], []),  # nobody to learn from
        ],
    )
    found = split_statistics(file, (48, 64), 1.25)
    assert (found.images, found.people_images, found.people) == (3, 2, 5)
    assert found.mean_keypoints == pytest.approx((3 * 4 + 2 + 3) / 5)
    assert (found.mean_people_per_image, found.max_people_per_image) == (2.5, 3)
    assert found.near == pytest.approx(3 / 5)
    assert found.close == pytest.approx(2 / 5)
    # λ = 1 needs more than 3 joints of another: the crops of the first three show a neighbour, the rest none.
    assert found.second_person == pytest.approx(3 / 5)
    assert (found.boxes_outside_image, found.keypoints_outside_box) == (1, 1)
    assert found.unlabelled == COCO17.joints[4:]
    assert np.isnan(found.stated_crowd_index)


def test_crowd_index_counts_the_joints_of_others() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [50, 50, 5, 5]], np.float64)
    keypoints = np.zeros((3, 4, 3))
    keypoints[0] = [[1, 1, 2], [6, 1, 2], [7, 1, 1], [8, 8, 0]]  # two of three in the second's box
    keypoints[1] = [[12, 1, 2], [13, 1, 2], [14, 1, 2], [9, 1, 2]]  # one of four in the first's
    keypoints[2] = [[51, 51, 2], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert crowd_index(boxes, keypoints) == pytest.approx((1 / 3 + 2 / 4 + 0) / 3)
    assert crowd_index(boxes[:1], keypoints[:1]) == 0
    pile = np.repeat(keypoints[:1], 5, axis=0)
    assert crowd_index(np.repeat(boxes[:1], 5, axis=0), pile) == 1  # five in one box: 4, but at most 1


@pytest.mark.shared
def test_crowd_index_is_crowdposes_own(shared: Path) -> None:
    folder = Folder.of(shared / "data" / "crowdpose-sample")
    if not folder.exists("crowdpose_val.json"):
        pytest.fail("crowdpose-sample has no crowdpose_val.json")
    file = CocoKeypointFile(folder, "crowdpose_val.json", "images", CROWDPOSE14)
    people = file.people()
    stated = np.array([file.coco.imgs[i]["crowdIndex"] for i in people.images.ids.tolist()])
    ours = np.array(
        [
            crowd_index(people.boxes[a:b], people.keypoints[a:b])
            for a, b in zip(people.image_offsets[:-1], people.image_offsets[1:], strict=True)
        ]
    )
    # Not every image agrees; its authors may have counted people whom the file leaves out.
    assert np.mean(np.abs(ours - stated) <= 0.0051) > 0.5
    assert np.corrcoef(ours, stated)[0, 1] > 0.85
