"""One picture in, merged poses out."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mipnet.data.geometry import crop_affine, warp_crop
from mipnet.evaluation.operating_point import OperatingPoint
from mipnet.inference.crop_predictor import CropPredictor
from mipnet.inference.image_predictor import ImagePredictor

SMALL = np.zeros((5, 5, 3), np.uint8)
BOXES = np.array([[10, 10, 40, 80], [90, 20, 50, 70.0]])


@pytest.fixture(scope="module")
def predictor(small_models: list[Path]) -> ImagePredictor:
    return ImagePredictor.load(small_models[0])


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (120, 160, 3), np.uint8)


def test_poses_of_one_image_are_merged_best_first(predictor: ImagePredictor, image: np.ndarray) -> None:
    found = predictor(image, BOXES, [0.5, 0.9])
    count, joints = len(found), predictor.skeleton.num_joints
    assert count
    assert found.keypoints.shape == (count, joints, 3)
    assert found.keypoints.dtype == np.float32
    assert (found.scores.shape, found.instance.shape, found.box.shape) == ((count,), (count,), (count, 4))
    assert found.scores.tolist() == sorted(found.scores, reverse=True)
    assert {tuple(box) for box in found.box} <= {tuple(box) for box in BOXES}
    assert set(found.instance.tolist()) <= {0, 1}

    first = next(i for i in range(count) if found.instance[i] == 0 and (found.box[i] == BOXES[0]).all())
    width, height = predictor.crop_predictor.config.input.size
    center, size = np.array([30.0, 50.0]), np.array([80 * width / height, 80.0]) * 1.25
    crop = warp_crop(image, crop_affine(center, size, 0.0, (width, height)), (width, height))
    pose = predictor.crop_predictor(crop[None], center[None], size[None])[0, 0]
    np.testing.assert_allclose(found.keypoints[first], pose, atol=0.02)

    alone = predictor(image, BOXES[:1])
    score = alone.scores[alone.instance.tolist().index(0)]
    assert score == pytest.approx(2 * found.scores[first], rel=1e-3)  # box scores are 1 by default


def test_pixels_a_path_and_bytes_are_the_same_picture(
    predictor: ImagePredictor, image: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), image[..., ::-1])
    wanted = predictor(image, BOXES)
    for given in (str(path), path, path.read_bytes()):
        np.testing.assert_array_equal(predictor(given, BOXES.tolist()).keypoints, wanted.keypoints)


def test_no_boxes_is_the_whole_picture_and_an_empty_list_is_nobody(
    predictor: ImagePredictor, image: np.ndarray
) -> None:
    whole = predictor(image)
    assert len(whole)
    np.testing.assert_array_equal(whole.box, np.tile([[0, 0, 160, 120]], (len(whole), 1)))
    np.testing.assert_array_equal(whole.keypoints, predictor(image, [[0, 0, 160, 120]]).keypoints)
    nobody = predictor(image, [])
    assert len(nobody) == 0
    assert nobody.keypoints.shape == (0, predictor.skeleton.num_joints, 3)
    assert nobody.to_coco() == []


def test_coco_results(predictor: ImagePredictor, image: np.ndarray) -> None:
    found = predictor(image, [[10.123, 10, 40, 80]])
    results = found.to_coco(image_id=7, category_id=3)
    assert [r["score"] for r in results] == found.scores.tolist()
    first = results[0]
    assert (first["image_id"], first["category_id"], first["box"]) == (7, 3, [10.12, 10, 40, 80])
    assert first["instance"] == found.instance[0]
    np.testing.assert_allclose(np.reshape(first["keypoints"], (-1, 3)), found.keypoints[0])


def test_more_boxes_than_a_batch_are_answered_alike(
    predictor: ImagePredictor, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    batch = predictor.crop_predictor.evaluation.batch_size
    boxes = np.column_stack([rng.uniform(0, 40, (2 * batch + 1, 2)), rng.uniform(20, 60, (2 * batch + 1, 2))])
    seen: list[np.ndarray] = []
    call = CropPredictor.__call__

    def watched(self: CropPredictor, crops: Any, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        seen.append(centers)
        return call(self, crops, centers, sizes)

    monkeypatch.setattr(CropPredictor, "__call__", watched)
    found = predictor(image, boxes)
    assert [len(centers) for centers in seen] == [batch, batch, 1]
    assert np.concatenate(seen) == pytest.approx(boxes[:, :2] + boxes[:, 2:] / 2)
    assert {tuple(box) for box in found.box} <= {tuple(box) for box in boxes}


@pytest.mark.parametrize(
    ("image", "boxes", "scores", "message"),
    [
        (np.zeros((5, 5, 3)), None, None, "'image' is float64"),
        (np.zeros((5, 5), np.uint8), None, None, "'image' is uint8 (5, 5)"),
        (np.zeros((0, 5, 3), np.uint8), None, None, "'image' is uint8 (0, 5, 3)"),
        (b"not a picture", None, None, "'image' is not a picture"),
        (np.zeros((5, 5, 3), np.uint8), [1, 2, 3, 4], None, "'boxes' is not a list of"),
        (np.zeros((5, 5, 3), np.uint8), [[1, 2, 0, 4]], None, "'boxes' is not a list of"),
        (np.zeros((5, 5, 3), np.uint8), [[1, 2, np.nan, 4]], None, "'boxes' is not a list of"),
        (np.zeros((5, 5, 3), np.uint8), "all", None, "'boxes' is not a list of"),
        (np.zeros((5, 5, 3), np.uint8), [[1, 2, 3, 4]], [1, 1], "'scores' is not one number for each of 1"),
        (SMALL, [[1, 2, 3, 4]], ["a"], "'scores' is not one number for each of 1"),
        (SMALL, [[1, 2, 3, 4]], [np.nan], "'scores' is not one number for each of 1"),
        (SMALL, [[1, 2, 3, 4]], [np.inf], "'scores' is not one number for each of 1"),
        (SMALL, [[1, 2, 3, 4]], [-0.1], "'scores' is not one number for each of 1"),
        (SMALL, [[0, 0, 1e300, 1e300]], None, "'boxes' is not a list of"),
        (SMALL, [[0, 0, 2, 2], [5, 0, 9, 9]], None, "'boxes' has at place 1 [5.0, 0.0, 9.0, 9.0], which"),
        (SMALL, [[0, -9, 9, 9]], None, "'boxes' has at place 0 [0.0, -9.0, 9.0, 9.0], which lies outside"),
        (SMALL.tolist(), None, None, "'image' is a list, neither"),
        (torch.zeros((5, 5, 3), dtype=torch.uint8), None, None, "'image' is a Tensor, neither"),
    ],
)
def test_what_is_no_picture_or_no_boxes_is_refused(
    predictor: ImagePredictor, image: Any, boxes: Any, scores: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        predictor(image, boxes, scores)


def test_poses_below_the_operating_point_are_left_out_unless_all_are_wanted(
    small_models: list[Path], image: np.ndarray, tmp_path: Path
) -> None:
    """With the threshold of joints that count, 0.2, all scores of an untrained network would be 0."""
    shutil.copytree(small_models[0], tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    content = json.loads(path.read_text())
    content["extra"]["config"]["evaluation"]["keypoint_threshold"] = -1e9
    path.write_text(json.dumps(content))
    everything = ImagePredictor.load(path.parent)
    assert everything.operating_point is None
    wanted = everything(image, BOXES, [0.5, 0.9])
    assert len(set(wanted.scores)) == len(wanted) > 1

    least = float(wanted.scores[1])
    content["extra"]["operating_point"] = {"pose_score": least, "joint_score": 0.1, "source": "det5"}
    path.write_text(json.dumps(content))
    predictor = ImagePredictor.load(path.parent)
    assert predictor.operating_point == OperatingPoint(least, 0.1, "det5")
    found = predictor(image, BOXES, [0.5, 0.9])
    assert len(found) == 2
    np.testing.assert_array_equal(found.keypoints, wanted.keypoints[:2])
    np.testing.assert_array_equal(found.box, wanted.box[:2])
    assert found.instance.tolist() == wanted.instance[:2].tolist()
    lowest = min(0.0, float(wanted.scores[-1]))
    assert len(predictor(image, BOXES, [0.5, 0.9], min_score=lowest)) == len(wanted)
    assert len(everything(image, BOXES, [0.5, 0.9], min_score=np.float32(1e9))) == 0


@pytest.mark.parametrize("score", [True, "0.5", float("nan"), [0.5]])
def test_a_least_score_that_is_no_number_is_refused(
    predictor: ImagePredictor, image: np.ndarray, score: Any
) -> None:
    with pytest.raises(ValueError, match=r"^'min_score' is not a number"):
        predictor(image, BOXES, min_score=score)


def test_files_that_are_missing_or_no_picture_are_named(predictor: ImagePredictor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        predictor(tmp_path / "nowhere.jpg")
    (tmp_path / "text.jpg").write_text("text")
    with pytest.raises(ValueError, match=r"text\.jpg"):
        predictor(tmp_path / "text.jpg")
