from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mipnet.config.schema import EvaluationConfig
from mipnet.evaluation.merging import merge_data_set, merge_instances, pose_scores
from mipnet.skeletons import COCO17

steady = settings(deadline=None, derandomize=True)


def people(seed: int, boxes: int, instances: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    poses = rng.uniform(0, 300, (boxes, instances, 17, 3))
    poses[:, 1:][rng.random((boxes, instances - 1)) < 0.5] = poses[0, 0]  # lambda > 0 often repeats a primary
    return poses, rng.random((boxes, instances)), rng.uniform(500, 30000, boxes)


def test_pose_scores_by_hand() -> None:
    keypoint_scores = np.array([[[0.9, 0.5, 0.2], [0.1, 0.2, 0.0]], [[0.3, 0.1, -1], [1, 1, 1]]])
    expected = [[0.8 * 0.7, 0], [0.5 * 0.3, 0.5]]
    np.testing.assert_allclose(pose_scores(np.array([0.8, 0.5]), keypoint_scores, 0.2), expected)
    np.testing.assert_allclose(pose_scores(np.ones(1), keypoint_scores[1:, :1], threshold=0.0), [[0.2]])


def test_merge_by_hand() -> None:
    # Two boxes over people A (x = 0), B (x = 100) and C: box 0 sees A, then B; box 1 sees A again, then C.
    poses = np.array([[[[0, 0, 1]], [[100, 0, 1]]], [[[1, 0, 1]], [[200, 0, 1]]]], dtype=float)
    scores, areas = np.array([[0.8, 0.7], [0.9, 0.2]]), np.full(2, 100.0)
    merged = merge_instances(poses, scores, areas, (0.5,), EvaluationConfig(discount=0.5, oks_nms=0.9))
    assert merged.boxes.tolist() == [1, 0, 1]
    assert merged.instances.tolist() == [0, 1, 1]
    np.testing.assert_allclose(merged.scores, [0.9, 0.35, 0.1])
    primary = merge_instances(poses, scores, areas, (0.5,), EvaluationConfig(), instance_mode=0)
    assert (primary.boxes.tolist(), primary.instances.tolist()) == ([1], [0])
    second = merge_instances(poses, scores, areas, (0.5,), EvaluationConfig(discount=0.5), instance_mode=1)
    assert (second.boxes.tolist(), second.instances.tolist()) == ([0, 1], [1, 1])
    np.testing.assert_allclose(second.scores, [0.35, 0.1])


def test_discount_is_raised_to_the_instance() -> None:
    poses = np.zeros((1, 3, 1, 3))
    poses[0, :, 0, 0] = [0, 500, 1000]
    merged = merge_instances(
        poses, np.ones((1, 3)), np.full(1, 100.0), (0.5,), EvaluationConfig(discount=0.9)
    )
    assert merged.instances.tolist() == [0, 1, 2]
    np.testing.assert_allclose(merged.scores, [1, 0.9, 0.81])


@steady
@given(st.integers(1, 6), st.integers(2, 4), st.sampled_from((0.3, 0.9)))
def test_the_primary_wins_ties(boxes, instances, threshold) -> None:
    # All instances of all boxes are the same pose with the same score: box 0's primary is the one to keep.
    poses = np.broadcast_to(np.random.default_rng(0).uniform(0, 99, (17, 3)), (boxes, instances, 17, 3))
    merged = merge_instances(
        poses,
        np.full((boxes, instances), 0.5),
        np.full(boxes, 999.0),
        COCO17.sigmas,
        EvaluationConfig(discount=1.0, oks_nms=threshold),
    )
    assert (merged.boxes.tolist(), merged.instances.tolist()) == ([0], [0])


def test_a_later_boxes_primary_wins_a_tie_against_an_earlier_boxes_second() -> None:
    poses = np.array([[[[500, 0, 1]], [[0, 0, 1]]], [[[0, 0, 1]], [[900, 0, 1]]]], dtype=float)
    merged = merge_instances(
        poses, np.full((2, 2), 0.5), np.full(2, 100.0), (0.5,), EvaluationConfig(discount=1.0)
    )
    assert list(zip(merged.boxes.tolist(), merged.instances.tolist(), strict=True)) == [
        (0, 0),
        (1, 0),
        (1, 1),
    ]


@pytest.mark.parametrize("instances", ["merged", 0, 1])
def test_data_set_is_merged_image_by_image(instances) -> None:
    poses, scores, areas = people(0, 9)
    image_ids = [7, 3, 7, 7, 5, 3, 5, 7, 3]
    evaluation = EvaluationConfig(discount=0.9, oks_nms=0.5)
    merged = merge_data_set(
        image_ids,
        poses,
        scores,
        areas,
        COCO17.sigmas,
        evaluation=evaluation,
        instance_mode=instances,
    )
    expected = []
    for image in (3, 5, 7):
        members = np.flatnonzero(np.array(image_ids) == image)
        one = merge_instances(
            poses[members],
            scores[members],
            areas[members],
            COCO17.sigmas,
            evaluation,
            instance_mode=instances,
        )
        expected += list(zip(members[one.boxes], one.instances, one.scores, strict=True))
    assert list(zip(*merged, strict=True)) == expected
    assert len(expected) < scores.size


def test_a_pose_of_another_image_is_no_duplicate() -> None:
    poses, areas = np.zeros((2, 1, 1, 3)), np.full(2, 100.0)
    merged = merge_data_set(
        ["b", "a"], poses, np.array([[0.5], [0.9]]), areas, (0.5,), evaluation=EvaluationConfig()
    )
    assert merged.boxes.tolist() == [1, 0]


def test_nothing_to_merge() -> None:
    nothing = np.zeros((0, 2, 17, 3)), np.zeros((0, 2)), np.zeros(0)
    merged = merge_data_set([], *nothing, COCO17.sigmas, evaluation=EvaluationConfig())
    assert [len(column) for column in merged] == [0, 0, 0]
    assert merged.boxes.dtype == np.int64
