"""Overlap of boxes, and leaving out those too much like a better one."""

from __future__ import annotations

import numpy as np
import pytest

from mipnet.data.box_ops import box_iou, box_nms


def test_iou_of_known_boxes() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [20, 0, 10, 10]], np.float64)
    assert box_iou(boxes[:1], boxes) == pytest.approx(np.array([[1, 1 / 3, 0]]))
    assert box_iou(boxes[:0], boxes).shape == (0, 3)
    assert box_iou(boxes, boxes[:0]).shape == (3, 0)


def test_the_better_box_stays_and_images_do_not_mix() -> None:
    image = np.array([0, 0, 0, 2])
    boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10], [2, 0, 10, 10], [0, 0, 10, 10]], np.float64)
    # IoU 9/11 with the neighbour, 8/12 with the one after: the middle one goes, so its other neighbour stays.
    assert box_nms(image, boxes, np.array([0.9, 0.8, 0.7, 0.1]), 0.7).tolist() == [0, 2, 3]
    assert box_nms(image, boxes, np.array([0.7, 0.9, 0.8, 0.1]), 0.7).tolist() == [1, 3]
    assert box_nms(image, boxes, np.array([0.9, 0.8, 0.7, 0.1]), 0.6).tolist() == [0, 3]
    assert box_nms(image, boxes, np.ones(4), 0.7).tolist() == [0, 2, 3]  # of equal ones the first
    assert box_nms(image, boxes, np.ones(4), 1).tolist() == [0, 1, 2, 3]
    assert box_nms(image[:0], boxes[:0], np.ones(0), 0.5).tolist() == []


def test_nms_of_many_agrees_with_the_definition() -> None:
    r = np.random.default_rng(3)
    boxes = np.column_stack([r.uniform(0, 50, (60, 2)), r.uniform(10, 40, (60, 2))])
    image, scores = np.sort(r.integers(0, 3, 60)), r.permutation(60) / 60
    kept = box_nms(image, boxes, scores, 0.4)
    alike = (box_iou(boxes, boxes) > 0.4) & (image[:, None] == image)
    for i in range(60):
        better_and_kept = [j for j in kept if scores[j] > scores[i] and alike[i, j]]
        assert (i in kept) == (not better_and_kept)
