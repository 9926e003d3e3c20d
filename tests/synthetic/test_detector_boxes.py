"""Detector-like boxes of generated scenes."""

from __future__ import annotations

import numpy as np
import pytest

from mipnet.data.box_ops import box_iou
from mipnet.synthetic import Scene, ScenePerson, detector_boxes


def person(box: tuple[float, float, float, float], visible: float = 1.0) -> ScenePerson:
    return ScenePerson(np.zeros((17, 3), np.float32), np.float32(box), box[2] * box[3], [], visible)


def scene(*people: ScenePerson) -> Scene:
    return Scene(np.zeros((160, 192, 3), np.uint8), people)


APART = scene(person((5, 10, 40, 100)), person((100, 10, 50, 120), 0.6))
CLOSE = scene(person((50, 20, 40, 100)), person((54, 22, 40, 100), 0.4), person((120, 20, 40, 100)))


@pytest.mark.parametrize("kind", ["det5", "union"])
def test_people_apart_keep_their_boxes(kind: str) -> None:
    for index in range(20):
        boxes, scores = detector_boxes(APART, kind, 0, index)
        assert boxes.shape == (2, 4)
        assert boxes.dtype == scores.dtype == np.float32
        assert scores[0] >= scores[1] > 0
        true = np.stack([p.box for p in APART.people]).astype(np.float64)
        match = box_iou(true, boxes).max(1)
        assert (match > 0.7).all()
        assert not np.isin(boxes, true).all()
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= (192.001, 160.001)).all()


def test_det5_suppresses_the_hidden_person() -> None:
    for index in range(20):
        boxes, _ = detector_boxes(CLOSE, "det5", 0, index)
        assert len(boxes) == 2
        assert np.max(np.triu(box_iou(boxes, boxes), 1)) <= 0.5


def test_union_joins_the_pair() -> None:
    boxes, _ = detector_boxes(CLOSE, "union", 0, 0)
    assert len(boxes) == 2
    joined = boxes[boxes[:, 0].argmin()]
    assert joined == pytest.approx([50, 20, 44, 102], abs=12)


def test_boxes_are_a_function_of_seed_and_index() -> None:
    same = [detector_boxes(APART, "det5", 1, 2)[0] for _ in range(2)]
    assert (same[0] == same[1]).all()
    assert (same[0] != detector_boxes(APART, "det5", 1, 3)[0]).any()
    assert (same[0] != detector_boxes(APART, "det5", 2, 2)[0]).any()


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="det7"):
        detector_boxes(APART, "det7", 0, 0)  # type: ignore[arg-type]
