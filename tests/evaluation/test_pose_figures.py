"""Figures of joints and of precision and recall: three poses by hand."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mipnet.evaluation.matching import Matches, match_poses
from mipnet.evaluation.operating_point import OperatingPoint
from mipnet.evaluation.pose_figures import (
    ALL_JOINTS,
    Detection,
    JointFigures,
    detection,
    figures_json,
    figures_text,
    flat_figures,
    joint_ap,
    joint_figures,
    pose_figures,
    score_curve,
)
from mipnet.evaluation.result_rows import ResultRow
from tests.helpers.two_joints import AREA, DATA, TWO_JOINTS, data_set, person, results

ANNOTATIONS = data_set(
    person(1, 1, 100),
    person(2, 1, 300, num_keypoints=1, keypoints=[300, 0, 2, 0, 0, 0]),  # b is not labelled
    person(3, 2, 100),
)


def three_poses() -> list[dict[str, Any]]:
    """The first finds person 1 with a 6 px and b 9 px off, the second nobody, the third person 2, exactly.

    Nobody finds person 3. The boxes' longer sides are 40 px, so that PCK counts up to 8 px.
    """
    poses = results((1, 100, 0.9), (1, 600, 0.8), (1, 300, 0.5))
    poses[0]["keypoints"][0] += 6
    poses[0]["keypoints"][3] += 9
    return poses


@pytest.fixture(scope="module")
def matches() -> Matches:
    return match_poses(DATA, ANNOTATIONS, three_poses())


def test_precision_and_recall_by_hand(matches: Matches) -> None:
    assert detection(matches) == Detection(
        3, pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(4 / 6)
    )
    assert detection(matches, 0.9) == Detection(1, 1.0, pytest.approx(1 / 3), pytest.approx(2 / 4))
    nothing = detection(matches, 0.95)
    assert (nothing.poses, nothing.recall, nothing.f1) == (0, 0.0, 0.0)
    assert math.isnan(nothing.precision)
    curve = score_curve(matches)
    assert curve["score"] == [0.9, 0.8, 0.5]
    assert curve["precision"] == pytest.approx([1, 1 / 2, 2 / 3])
    assert curve["recall"] == pytest.approx([1 / 3, 1 / 3, 2 / 3])


def test_joints_by_hand(matches: Matches) -> None:
    """a: labelled in three people. At 6 px OKS is exp(-36 / 200) = 0.84, which passes 0.5 to 0.8, seven of
    ten thresholds. There, precision is 1 up to recall 1/3 (34 of 101 levels) and 2/3 up to 2/3 (33 more).
    At the other three the third pose alone is right: 1/3 up to recall 1/3.

    b: labelled in two, and only the first pose has one to find. At 9 px OKS is exp(-81 / 200) = 0.67, which
    passes 0.5 to 0.65. Precision is 1 up to recall 1/2 (51 levels), as the false positive comes later."""
    assert math.exp(-36 / (0.02 * AREA)) == pytest.approx(0.835, abs=1e-3)
    figures = joint_figures(matches, TWO_JOINTS)
    ap_a = (7 * (34 + 33 * 2 / 3) + 3 * 34 / 3) / 1010
    ap_b = 4 * 51 / 1010
    assert figures["a"] == JointFigures(
        3, pytest.approx(ap_a), pytest.approx(3), pytest.approx(3 / 40), pytest.approx(2 / 3)
    )
    assert figures["b"] == JointFigures(2, pytest.approx(ap_b), pytest.approx(9), pytest.approx(9 / 40), 0.0)
    everything = figures[ALL_JOINTS]
    assert everything == JointFigures(
        5, pytest.approx((ap_a + ap_b) / 2), pytest.approx(5), pytest.approx(5 / 40), pytest.approx(2 / 5)
    )


def test_a_joint_that_nobody_has_or_finds_is_nan_and_zero() -> None:
    assert math.isnan(joint_ap(np.array([-1.0]), 0))
    assert joint_ap(np.zeros(0), 2) == 0
    assert joint_ap(np.array([-1.0, math.nan]), 2) == 0
    figures = joint_figures(match_poses(DATA, ANNOTATIONS, results((1, 600, 0.8))), TWO_JOINTS)
    assert (figures["a"].ap, figures["a"].pck) == (0, 0)
    assert math.isnan(figures["a"].error_px)


def rows() -> list[ResultRow]:
    modes = {"merged": three_poses(), "lambda0": three_poses(), "results": three_poses()}
    found = [ResultRow("val", "det", mode, {"AP": 0.5}, poses) for mode, poses in modes.items()]
    return [*found, ResultRow("val", "gt", "merged", {"AP": math.nan}, [])]


def test_of_merged_poses_and_of_other_methods_with_the_operating_point_of_the_model_only() -> None:
    config = SimpleNamespace(data=DATA)
    files = {"val": SimpleNamespace(annotations=ANNOTATIONS)}
    point = OperatingPoint(0.85, 0.2, "det")
    figures = pose_figures(rows(), config, files, point)  # type: ignore[arg-type]
    assert [figure.name for figure in figures] == ["val/det/merged", "val/det/results"]
    assert figures[0].kept == detection(match_poses(DATA, ANNOTATIONS, three_poses()), 0.85)
    assert figures[1].kept is None

    flat = flat_figures(figures)
    assert flat["val/det/merged/F1"] == pytest.approx(0.5)
    assert flat["val/det/merged/F1_all_poses"] == flat["val/det/results/F1_all_poses"] == pytest.approx(2 / 3)
    assert flat["val/det/merged/PCK"] == pytest.approx(0.4)
    assert "val/det/results/F1" not in flat

    text = figures_text(figures, point)
    assert "poses from score 0.850, joints from 0.200" in text
    assert "val    det    merged     kept        1      100.0    33.3  50.0\n" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["val", "det", "all", "joints", "5", "31.2", "5.0", "12.5", "40.0"] in lines

    content = figures_json(figures, None)
    assert content["operating_point"] is None
    assert content["figures"][0]["joints"]["b"]["error_px"] == pytest.approx(9)
    assert "NaN" not in json.dumps(content)


def test_nan_is_null_in_json() -> None:
    figures = pose_figures(
        [ResultRow("val", "det", "merged", {}, results((1, 600, 0.8)))],
        SimpleNamespace(data=DATA),  # type: ignore[arg-type]
        {"val": SimpleNamespace(annotations=ANNOTATIONS)},  # type: ignore[dict-item]
        None,
    )
    assert figures_json(figures, None)["figures"][0]["joints"]["a"]["error_px"] is None
    assert "error" not in str(flat_figures(figures))
