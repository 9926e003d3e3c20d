"""Whose keypoints a category's names are, and in which order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mipnet.data.categories import joint_order
from mipnet.skeletons import Skeleton


def skeleton(*joints: str) -> Skeleton:
    return Skeleton("mine", joints, (0.05,) * len(joints), (), (), ())


SHORT, CJK = ("HD", "LH", "RH"), ("頭", "左肩", "右肩")


@pytest.mark.parametrize(
    ("ours", "theirs", "order"),
    [
        (SHORT, SHORT, None),
        (SHORT, ("RH", "LH", "HD"), [2, 1, 0]),
        (SHORT, ("rh", "hd", "lh"), [1, 2, 0]),
        (CJK, ("右肩", "頭", "左肩"), [1, 2, 0]),
        (("Épaule", "Tête"), ("te\u0302te", "e\u0301paule"), [1, 0]),
        (("left_hand", "right_hand"), ("Hand Right", "handLeft"), [1, 0]),
        (("head_top", "head", "neck"), ("neck", "head", "head_top"), [2, 1, 0]),
        (("1", "2", "3"), ("3", "1", "2"), [1, 2, 0]),
        (SHORT, ("1", "2", "3"), None),
        (SHORT, ("kp_1", "kp_2", "kp_3"), None),
        (("1", "2", "3"), ("0", "1", "2"), None),
    ],
)
def test_names_that_are_spelled_alike_are_one_joint(
    ours: Sequence[str], theirs: Sequence[str], order: list[int] | None
) -> None:
    found, problem = joint_order(theirs, skeleton(*ours))
    assert problem == ""
    assert (found if found is None else found.tolist()) == order


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (SHORT, ("HD", "LF", "RF"), "other joints than skeleton mine: LF, RF in place of LH, RH"),
        (CJK, ("頭", "左肩", "首"), "other joints than skeleton mine: 首 in place of 右肩"),
        (("head", "neck", "hip"), ("head_top", "Head", "neck"), "in place of hip"),
        (("head_top", "head", "neck"), ("TopHead", "Head", "neck"), "other joints than skeleton mine"),
        (SHORT, ("HD", "LH"), "annotates 2 keypoints but skeleton mine has 3"),
    ],
)
def test_other_joints_are_refused(ours: Sequence[str], theirs: Sequence[str], words: str) -> None:
    found, problem = joint_order(theirs, skeleton(*ours))
    assert found is None
    assert words in problem
