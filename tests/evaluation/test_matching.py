"""Who is found by which pose: COCO's rules on cases that can be done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mipnet.config.schema import DataConfig
from mipnet.evaluation.matching import Matches, match_poses
from tests.helpers.two_joints import AREA, DATA, TWO_JOINTS, data_set, person, results


def found(matches: Matches) -> list[tuple[float, int]]:
    return list(zip(matches.scores.tolist(), matches.person.tolist(), strict=True))


def test_the_better_scored_pose_takes_the_person_though_the_other_is_nearer() -> None:
    matches = match_poses(
        DATA, data_set(person(7, 1, 100)), results((1, 100, 0.4), (1, 105, 0.9), (2, 100, 0.5))
    )
    assert found(matches) == [(0.9, 0), (0.5, -1), (0.4, -1)]  # another image's pose finds nobody
    assert matches.distances().tolist() == [[5, 5]]
    assert matches.joint_oks(TWO_JOINTS.sigmas) == pytest.approx(np.exp(-25 / (2 * 0.01 * AREA)))


def test_a_pose_beyond_oks_one_half_finds_nobody() -> None:
    for shift, person_index in ((11.7, 0), (11.9, -1)):
        (one,) = found(match_poses(DATA, data_set(person(7, 1, 100)), results((1, 100 + shift, 0.9))))
        assert one == (0.9, person_index)


def test_ignored_people_and_their_poses_count_neither_way() -> None:
    crowd = person(1, 1, 0, iscrowd=1)
    unlabelled = person(2, 1, 300, num_keypoints=0, keypoints=[0] * 6)
    both = results((1, 0, 0.9), (1, 2, 0.8), (1, 305, 0.7), (1, 600, 0.6), (1, 900, 0.5))
    matches = match_poses(DATA, data_set(crowd, unlabelled, person(3, 1, 600)), both)
    assert len(matches.keypoints) == 1
    assert matches.keypoints[0, 0, 0] == 600
    assert found(matches) == [(0.6, 0), (0.5, -1)]


def test_all_poses_of_an_image_count_not_only_twenty() -> None:
    many = [(1, 500.0, 0.9)] * 25 + [(1, 100.0, 0.1)]
    matches = match_poses(DATA, data_set(person(7, 1, 100)), results(*many))
    assert found(matches)[-1] == (0.1, 0)
    assert len(matches.scores) == 26


def test_crowdpose_takes_the_area_of_the_box() -> None:
    """OKS 0.5 at 11.8 px · √(0.53 · 800 / 10,000) = 2.4 px; the file states no area."""
    data = DataConfig(format="crowdpose", skeleton=TWO_JOINTS)
    someone = person(7, 1, 100)
    del someone["area"]
    for shift, person_index in ((2.3, 0), (2.5, -1)):
        (one,) = found(match_poses(data, data_set(someone), results((1, 100 + shift, 0.9))))
        assert one == (0.9, person_index)


def test_nobody_and_no_poses() -> None:
    nobody = match_poses(DATA, data_set(), results((1, 0, 0.5)))
    assert (found(nobody), nobody.keypoints.shape) == ([(0.5, -1)], (0, 2, 3))
    nothing = match_poses(DATA, data_set(person(7, 1, 100)), [])
    assert (found(nothing), nothing.poses.shape, len(nothing.keypoints)) == ([], (0, 2, 3), 1)
