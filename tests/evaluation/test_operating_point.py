"""The operating point: the threshold of best F1 on cases that can be done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mipnet.errors import UserError
from mipnet.evaluation.best_threshold import best_f1_threshold, choose_operating_point
from mipnet.evaluation.matching import match_poses
from mipnet.evaluation.operating_point import OPERATING_POINT_KEY, OperatingPoint, operating_point_of
from tests.helpers.two_joints import DATA, TWO_JOINTS, data_set, person, results

T, F = True, False


@pytest.mark.parametrize(
    ("scores", "hits", "positives", "threshold"),
    [
        # F1 of the best 1, 2, 3, 4: 2/4, 4/5, 4/6, 6/7: all are kept, down to half of the lowest.
        ([0.9, 0.8, 0.6, 0.2], [T, T, F, T], 3, 0.1),
        # 2/3, 4/4: the rest is below.
        ([0.9, 0.8, 0.6, 0.2], [T, T, F, F], 2, 0.7),
        # in any order
        ([0.2, 0.8, 0.6, 0.9], [F, T, F, T], 2, 0.7),
        # 2/3 and, of all four, 4/6: the same, so that fewer are kept.
        ([0.9, 0.5, 0.4, 0.3], [T, F, F, T], 2, 0.7),
        ([0.9, 0.5, 0.4], [T, F, T], 3, 0.2),  # 2/4, 2/5, 4/6
        # Of the two at 0.5 one is right: 2/4 without both, 4/6 with both.
        ([0.9, 0.5, 0.5, 0.1], [T, F, T, F], 3, 0.3),
        ([0.0, 0.0], [T, F], 1, 0.0),
    ],
)
def test_the_threshold_of_best_f1(
    scores: list[float], hits: list[bool], positives: int, threshold: float
) -> None:
    found = best_f1_threshold(np.array(scores), np.array(hits), positives)
    assert found == pytest.approx(threshold)


def test_no_threshold_where_nothing_is_right() -> None:
    assert best_f1_threshold(np.array([0.5]), np.array([False]), 3) is None
    assert best_f1_threshold(np.zeros(0), np.zeros(0, bool), 3) is None


def test_poses_first_then_the_joints_of_those_that_are_kept() -> None:
    """Of the kept poses' joints, b of the second is 40 px off, and the last person's b has no label: both are
    wrong. The pose at 0.2 is not kept, though the scores of its joints are high."""
    people = [person(i, 1, 100 * i) for i in range(3)]
    people[2] = person(2, 1, 200, num_keypoints=1, keypoints=[200, 0, 2, 0, 0, 0])
    poses = results((1, 0, 0.9), (1, 100, 0.8), (1, 200, 0.7), (1, 600, 0.2))
    joint_scores = [(0.9, 0.8), (0.7, 0.3), (0.6, 0.2), (0.95, 0.95)]
    for pose, (a, b) in zip(poses, joint_scores, strict=True):
        pose["keypoints"][2], pose["keypoints"][5] = a, b
    poses[1]["keypoints"][3] += 40
    matches = match_poses(DATA, data_set(*people), poses)
    assert matches.hits.tolist() == [True, True, True, False]
    point = choose_operating_point(matches, TWO_JOINTS.sigmas, "det5")
    # poses: 6/6 with three; joints: right at 0.9, 0.8, 0.7, 0.6, wrong at 0.3 and 0.2
    assert point == OperatingPoint(pytest.approx(0.45), pytest.approx(0.45), "det5")


def test_no_operating_point_where_nobody_is_found() -> None:
    matches = match_poses(DATA, data_set(person(1, 1, 0)), results((1, 500, 0.9)))
    assert choose_operating_point(matches, TWO_JOINTS.sigmas, "gt") is None


def test_what_a_model_json_holds() -> None:
    point = OperatingPoint(0.31, 0.2, "det5")
    assert operating_point_of({OPERATING_POINT_KEY: point.to_json()}, "here") == point
    assert operating_point_of({"config": {}}, "here") is None
    for broken in ({"pose_score": 0.1}, [0.1], {"pose_score": "x", "joint_score": 0, "source": "gt"}):
        with pytest.raises(UserError, match="here has an operating point without"):
            operating_point_of({OPERATING_POINT_KEY: broken}, "here")
