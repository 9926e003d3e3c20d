"""Generated scenes: determinism, sound annotations, pinned difficulty."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from functools import cache

import cv2
import numpy as np
import pytest

from mipnet.data.box_ops import box_iou
from mipnet.synthetic import DIFFICULTIES, Scene, detector_boxes, render_scene

SEED = 3
COUNT = 25
BANDS = {"easy": (0.0, 0.1), "medium": (0.1, 0.5), "hard": (0.5, 0.9)}


@cache
def scenes(difficulty: str) -> list[Scene]:
    return [render_scene(difficulty, SEED, i) for i in range(COUNT)]


def largest_iou(scene: Scene) -> float:
    boxes = np.array([p.box for p in scene.people], dtype=np.float64)
    return float(np.max(np.triu(box_iou(boxes, boxes), 1)))


def digest(scene: Scene) -> str:
    h = hashlib.sha256(scene.image.tobytes())
    for p in scene.people:
        h.update(p.keypoints.tobytes() + p.box.tobytes())
        h.update(repr((p.area, p.segmentation, p.visible_fraction)).encode())
    return h.hexdigest()


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_types_and_shapes(difficulty: str) -> None:
    for scene in scenes(difficulty):
        assert scene.image.shape == (160, 192, 3)
        assert scene.image.dtype == np.uint8
        assert 1 <= len(scene.people) <= 4
        for p in scene.people:
            assert p.keypoints.shape == (17, 3)
            assert p.keypoints.dtype == np.float32
            assert p.box.shape == (4,)
            assert p.box.dtype == np.float32


def test_same_arguments_same_bytes() -> None:
    assert digest(render_scene("hard", SEED, 4)) == digest(scenes("hard")[4])


def test_other_arguments_other_scene() -> None:
    images = [
        render_scene(*a).image for a in (("hard", 0, 0), ("hard", 0, 1), ("hard", 1, 0), ("medium", 0, 0))
    ]
    assert len({im.tobytes() for im in images}) == 4


def test_fresh_process_same_bytes() -> None:
    code = (
        "import hashlib\nfrom mipnet.synthetic import render_scene\n"
        "print(hashlib.sha256(render_scene('medium', 3, 7).image.tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(scenes("medium")[7].image.tobytes()).hexdigest()


def test_unknown_difficulty_is_refused() -> None:
    with pytest.raises(ValueError, match="impossible"):
        render_scene("impossible", 0, 0)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_overlap_stays_in_its_band(difficulty: str) -> None:
    low, high = BANDS[difficulty]
    for scene in scenes(difficulty):
        assert low - 1e-6 <= largest_iou(scene) < high + 1e-6
        assert all(0.3 <= p.visible_fraction <= 1.0 for p in scene.people)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_labelled_keypoints_are_in_the_image(difficulty: str) -> None:
    for scene in scenes(difficulty):
        for p in scene.people:
            x, y, v = p.keypoints.T
            assert set(v.tolist()) <= {0.0, 1.0, 2.0}
            assert ((x >= 0) & (x <= 191) & (y >= 0) & (y <= 159))[v > 0].all()
            assert not p.keypoints[v == 0].any()


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_boxes_areas_and_polygons_agree(difficulty: str) -> None:
    for scene in scenes(difficulty):
        for p in scene.people:
            x, y, w, h = p.box
            assert x >= 0
            assert y >= 0
            assert x + w <= 192
            assert y + h <= 160
            assert 0 < p.area <= w * h
            points = np.concatenate([np.reshape(s, (-1, 2)) for s in p.segmentation])
            assert (points.min(0) >= (x - 1e-3, y - 1e-3)).all()
            assert (points.max(0) <= (x + w + 1e-3, y + h + 1e-3)).all()
            if x > 0 and y > 0 and x + w < 192 and y + h < 160:  # at the border slivers may lack a polygon
                assert np.abs(points.max(0) - points.min(0) - (w, h)).max() <= 1.0
            drawn = sum(cv2.contourArea(np.float32(s).reshape(-1, 1, 2)) for s in p.segmentation)
            assert drawn == pytest.approx(p.area, rel=0.05)


def test_visible_body_joints_lie_on_their_person() -> None:
    checked = 0
    for scene in scenes("hard"):
        for p in scene.people:
            outline = [np.float32(s).reshape(-1, 1, 2) for s in p.segmentation]
            for x, y, v in p.keypoints[5:].tolist():
                if v == 2:
                    inside = max(cv2.pointPolygonTest(o, (x + 0.5, y + 0.5), True) for o in outline)
                    assert inside > -1.0
                    checked += 1
    assert checked > 300


@pytest.mark.slow
@pytest.mark.parametrize(
    ("difficulty", "iou", "visible"), [("easy", 0.01, 1.00), ("medium", 0.30, 0.90), ("hard", 0.65, 0.79)]
)
def test_pinned_difficulty(difficulty: str, iou: float, visible: float) -> None:
    many = [render_scene(difficulty, 17, i) for i in range(300)]
    assert np.mean([largest_iou(s) for s in many]) == pytest.approx(iou, abs=0.03)
    assert np.mean([p.visible_fraction for s in many for p in s.people]) == pytest.approx(visible, abs=0.03)
    if difficulty == "hard":
        kept = sum(len(detector_boxes(s, "det5", 17, i)[0]) for i, s in enumerate(many))
        assert kept / sum(len(s.people) for s in many) == pytest.approx(0.63, abs=0.04)
