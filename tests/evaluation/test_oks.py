from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mipnet.errors import ConfigError
from mipnet.evaluation.oks import oks_matrix, oks_nms, soft_oks_nms
from mipnet.skeletons import COCO17

steady = settings(deadline=None, derandomize=True)


def people(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poses in a few tight groups, so that suppression has something to do."""
    rng = np.random.default_rng(seed)
    heart = rng.uniform(0, 200, (3, 17, 2))[rng.integers(0, 3, count)]
    poses = np.concatenate([heart + rng.normal(0, 6, (count, 17, 2)), rng.random((count, 17, 1))], axis=-1)
    return poses, rng.integers(0, 5, count) / 4, rng.uniform(500, 30000, count)


def at(*xs: float) -> np.ndarray:
    """One-joint poses (P, 1, 3) on a line."""
    return np.array([[x, 0.0, 1.0] for x in xs]).reshape(-1, 1, 3)


def distance(oks: float) -> float:
    """Px between two one-joint poses of area 100 and sigma 0.5 with this OKS: exp(-d² / 200)."""
    return math.sqrt(-200 * math.log(oks))


def test_oks_by_hand() -> None:
    a = np.array([[[0, 0, 0], [10, 0, 2]]])
    b = np.array([[[0, 5, 1], [10, 0, 0]], [[0, 0, 1], [13, 4, 1]]])
    # mean area 150, sigmas 0.1 and 0.2: 2 · (2 sigma)² · area = 12 and 48; the third column plays no part
    oks = oks_matrix(a, np.array([100]), b, np.array([200, 200]), (0.1, 0.2))
    expected = [[(math.exp(-25 / 12) + 1) / 2, (1 + math.exp(-25 / 48)) / 2]]
    np.testing.assert_allclose(oks, expected)


@pytest.mark.parametrize("sigmas", [(0.1,), COCO17.sigmas[:-1], (*COCO17.sigmas, 0.1)])
def test_sigmas_of_the_wrong_length_are_refused(sigmas) -> None:
    poses, scores, areas = people(0, 3)
    with pytest.raises(ConfigError, match=f"{len(sigmas)} sigmas for poses of 17"):
        oks_nms(poses, scores, areas, sigmas, 0.9)


def test_people_without_area_or_joints_in_common() -> None:
    oks = oks_matrix(at(0, 50), np.zeros(2), at(0, 50), np.zeros(2), (0.05,))
    np.testing.assert_array_equal(oks, np.eye(2))
    assert oks_matrix(at(), np.zeros(0), at(1), np.ones(1), (0.05,)).shape == (0, 1)


@steady
@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_oks_is_symmetric_and_1_with_itself(seed, count) -> None:
    poses, _, areas = people(seed, count)
    oks = oks_matrix(poses, areas, poses, areas, COCO17.sigmas)
    np.testing.assert_array_equal(oks, oks.T)
    np.testing.assert_array_equal(np.diag(oks), 1)
    assert ((oks >= 0) & (oks <= 1)).all()


def test_nms_by_hand() -> None:
    # 1 is near 0, 2 is near 1 but not near 0: 1 goes, and so 2 stays.
    step = distance(0.6)
    poses, areas = at(0, step, 2 * step, 500), np.full(4, 100.0)
    kept = oks_nms(poses, np.array([0.9, 0.8, 0.7, 0.95]), areas, (0.5,), 0.5)
    assert kept.tolist() == [3, 0, 2]
    assert oks_nms(poses, np.array([0.8, 0.9, 0.7, 0.1]), areas, (0.5,), 0.5).tolist() == [1, 3]
    assert oks_nms(poses, np.array([0.9, 0.8, 0.7, 0.95]), areas, (0.5,), 0.61).tolist() == [3, 0, 1, 2]


def test_nms_takes_the_first_of_equal_scores_and_only_drops_above_the_threshold() -> None:
    poses, areas = at(0, 0, 0), np.full(3, 100.0)
    assert oks_nms(poses, np.ones(3), areas, (0.5,), 0.9).tolist() == [0]
    assert oks_nms(poses, np.ones(3), areas, (0.5,), 1.0).tolist() == [0, 1, 2]
    far, scores = at(*range(0, 100_000, 1000)), np.arange(100) % 3 / 2
    kept = oks_nms(far, scores, np.full(100, 100.0), (0.5,), 0.9)
    assert kept.tolist() == [*range(2, 100, 3), *range(1, 100, 3), *range(0, 100, 3)]
    assert oks_nms(at(), np.zeros(0), np.zeros(0), (0.5,), 0.9).tolist() == []


@steady
@given(st.integers(0, 2**32 - 1), st.integers(0, 20), st.sampled_from((0.3, 0.5, 0.9)))
def test_nms_is_idempotent_and_ordered(seed, count, threshold) -> None:
    poses, scores, areas = people(seed, count)
    kept = oks_nms(poses, scores, areas, COCO17.sigmas, threshold)
    again = oks_nms(poses[kept], scores[kept], areas[kept], COCO17.sigmas, threshold)
    assert again.tolist() == list(range(len(kept)))
    assert (np.diff(scores[kept]) <= 0).all()
    oks = oks_matrix(poses[kept], areas[kept], poses[kept], areas[kept], COCO17.sigmas)
    assert (oks[~np.eye(len(kept), dtype=bool)] <= threshold).all()
    dropped = np.setdiff1d(np.arange(count), kept)
    if len(dropped):  # each for a reason
        oks = oks_matrix(poses[dropped], areas[dropped], poses[kept], areas[kept], COCO17.sigmas)
        assert ((oks > threshold) & (scores[kept] >= scores[dropped][:, None])).any(axis=1).all()


def test_soft_nms_by_hand() -> None:
    # 1 is near 0 (OKS 0.9): 0.8 · exp(-0.81 / 0.9) = 0.325 puts it behind 2 (0.5, far away).
    poses, scores, areas = at(0, distance(0.9), 500), np.array([0.9, 0.8, 0.5]), np.full(3, 100.0)
    assert soft_oks_nms(poses, scores, areas, (0.5,), 0.9).tolist() == [0, 2, 1]
    assert scores.tolist() == [0.9, 0.8, 0.5]  # the argument stays as it was
    assert soft_oks_nms(poses, scores, areas, (0.5,), 100.0).tolist() == [0, 1, 2]


def test_soft_nms_keeps_at_most_20() -> None:
    poses, scores, areas = people(1, 30)
    kept = soft_oks_nms(poses, scores, areas, COCO17.sigmas, 0.9)
    assert len(kept) == len(set(kept.tolist())) == 20
