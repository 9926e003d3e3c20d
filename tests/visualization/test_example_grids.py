"""The contact sheets: which images, in which order, in which colours."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from mipnet.config.schema import DataConfig
from mipnet.data.box_ops import box_iou
from mipnet.data.coco import CocoKeypointFile
from mipnet.data.dataset_formats import open_split
from mipnet.errors import DataError
from mipnet.skeletons import COCO17
from mipnet.storage import Folder
from mipnet.visualization.example_grids import CELL, colours, example_grid, examples, moved, ranked
from mipnet.visualization.overlays import MARGIN

RNG = np.random.default_rng(3)
BODY = RNG.uniform(0, 1, (17, 2))  # of a box's sides
BOXES = {
    1: [[10, 10, 60, 120], [120, 10, 60, 120]],  # apart
    2: [[10, 10, 60, 120], [25, 10, 60, 120]],  # IoU 0.6
    3: [[10, 10, 60, 120], [50, 10, 60, 120]],  # IoU 0.2
    4: [[40, 10, 70, 130]],
}
ERRORS = {1: 4.0, 2: 0.0, 3: 30.0, 4: 300.0}  # px that the predictions of an image are off


def pose(box: list[float], off: float = 0, value: float = 2) -> list[float]:
    joints = BODY * box[2:] + box[:2]
    joints[:, 0] += off
    return np.column_stack([joints, np.full(17, value)]).ravel().tolist()


def result(image: int, box: list[float], off: float, instance: int) -> dict[str, Any]:
    return {
        "image_id": image,
        "keypoints": pose(box, off, 0.9),
        "score": 0.5,
        "instance": instance,
        "box": box,
    }


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> CocoKeypointFile:
    root: Path = tmp_path_factory.mktemp("grid")
    (root / "val").mkdir()
    (root / "annotations").mkdir()
    annotations = []
    for image, boxes in BOXES.items():
        cv2.imwrite(str(root / "val" / f"{image}.png"), np.full((150, 200, 3), 40 * image, np.uint8))
        for box in boxes:
            person = {"bbox": box, "keypoints": pose(box), "num_keypoints": 17, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": 1, **person})
    for number, person in enumerate(annotations):
        if number:  # the first has no area, as in CrowdPose
            person["area"] = person["bbox"][2] * person["bbox"][3] * 0.5
    images = [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 150} for i in BOXES]
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO17.joints)}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "person_keypoints_val.json").write_text(json.dumps(content))
    return open_split(DataConfig(), Folder.of(root), "val")


def result_rows(instances: int = 2) -> list[Any]:
    def of(instance: int) -> list[dict[str, Any]]:
        return [
            result(i, b, ERRORS[i] + 50 * instance, instance) for i, boxes in BOXES.items() for b in boxes
        ]

    alone = [of(instance) for instance in range(instances)]
    instance_modes = {"merged": [pose for poses in alone for pose in poses]} | (
        {f"lambda{i}": a for i, a in enumerate(alone)} if instances > 1 else {}
    )
    return [
        SimpleNamespace(split="val", source="gt", instance_mode=v, results=r)
        for v, r in instance_modes.items()
    ]


def order(file: CocoKeypointFile, which: Any) -> list[int]:
    return [int(e.images.ids[e.index]) for e in ranked(examples(file, result_rows()), which)]


def test_best_is_better_than_worst_by_oks(file: CocoKeypointFile) -> None:
    found = examples(file, result_rows())
    score = {int(e.images.ids[e.index]): e.score() for e in found}
    assert score[2] == pytest.approx(1)
    assert score[2] > score[1] > score[3] > score[4]
    assert order(file, "best") == [2, 1, 3]  # the one of a single person is left out
    assert order(file, "worst") == [3, 1, 2]


def test_a_person_who_is_not_found_counts(file: CocoKeypointFile) -> None:
    half = result_rows()
    half[0].results = [r for r in half[0].results if r["image_id"] != 1 or r["box"] == BOXES[1][0]]
    assert examples(file, half)[0].score() == pytest.approx(
        examples(file, result_rows())[0].score() / 2, abs=0.01
    )


def test_crowded_is_by_box_overlap_and_first_by_id(file: CocoKeypointFile) -> None:
    assert order(file, "crowded") == [2, 3, 1, 4]
    assert order(file, "first") == [1, 2, 3, 4]
    overlaps = [e.overlap() for e in examples(file, result_rows())]
    assert overlaps == pytest.approx([0, 0.6, 0.2, 0], abs=0.01)


def test_only_labelled_joints_count(file: CocoKeypointFile) -> None:
    example = examples(file, result_rows())[1]
    keypoints = example.keypoints.copy()
    keypoints[:, 5:] = 0  # unlabelled: at 0, 0 with v = 0
    assert type(example)(**{**vars(example), "keypoints": keypoints}).score() == pytest.approx(1)


@pytest.mark.parametrize(("instances", "columns"), [(1, 3), (2, 5), (3, 6)])
def test_one_row_an_image_one_column_a_view(file: CocoKeypointFile, instances: int, columns: int) -> None:
    grid = example_grid(file, result_rows(instances), 2, "first")
    taller = example_grid(file, result_rows(instances), 3, "first")
    assert grid.dtype == np.uint8
    assert grid.shape[2] == 3
    assert grid.shape[1] == MARGIN + columns * (CELL + MARGIN)
    assert CELL / 2 < taller.shape[0] - grid.shape[0] < 1.5 * CELL


def test_rows_are_the_images_asked_for(file: CocoKeypointFile) -> None:
    grid = example_grid(file, result_rows(), 1, "best")
    bottom = grid[-MARGIN - 8, MARGIN + 4]  # in the first picture, where no box runs
    assert np.abs(bottom.astype(int) - 80).max() <= 2  # image 2 is grey 80


def test_a_person_keeps_its_colour(file: CocoKeypointFile) -> None:
    example = examples(file, result_rows())[0]
    right, left = result(1, BOXES[1][1], 2, 0), result(1, BOXES[1][0], 2, 1)
    assert colours(example.similar([left, right, left])) == [0, 1, 0]
    boxes = np.array([BOXES[1][1], BOXES[1][0], [90, 100, 5, 5]], float)
    assert colours(box_iou(example.boxes, boxes)) == [1, 0, 4]  # a stranger's is nobody else's
    assert colours(example.similar([])) == []


def test_poses_move_with_their_picture() -> None:
    at = moved({"keypoints": [10, 20, 0.5], "box": (10, 20, 4, 6), "instance": 1}, 10, 18, 2)
    np.testing.assert_allclose(at["keypoints"], [[0.5, 4.5, 0.5]])  # the middle of pixel 0 and of pixel 2
    assert at["box"] == (0, 4, 8, 12)
    assert at["instance"] == 1


def test_images_that_cannot_be_read_are_passed_over(file: CocoKeypointFile, tmp_path: Path) -> None:
    good = Path(file.images_uri) / "1.png"
    content = good.read_bytes()
    good.write_bytes(b"not an image")
    try:
        assert (
            example_grid(file, result_rows(), 4, "first").shape
            == example_grid(file, result_rows(), 3, "first").shape
        )
        with pytest.raises(DataError, match="no image that can be drawn"):
            example_grid(file, result_rows(), 0, "first")
    finally:
        good.write_bytes(content)


def test_an_image_without_any_pose_has_its_ground_truth(file: CocoKeypointFile) -> None:
    nothing = [SimpleNamespace(split="val", source="gt", instance_mode="merged", results=[])]
    assert examples(file, nothing)[0].score() == 0
    assert example_grid(file, nothing, 4, "worst").shape[1] == MARGIN + 3 * (CELL + MARGIN)
