"""The skeletons' tables agree with themselves and with what others publish."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from mipnet.errors import ConfigError
from mipnet.skeletons import COCO17, SKELETONS, Skeleton, skeleton


@pytest.mark.parametrize("s", SKELETONS.values(), ids=SKELETONS)
def test_tables_fit_together(s: Skeleton) -> None:
    k = s.num_joints
    assert len(s.sigmas) == k == len(set(s.joints))
    assert all(sigma > 0 for sigma in s.sigmas)
    assert all(0 <= j < k for pair in (*s.limbs, *s.flip_pairs) for j in pair)
    assert sorted(set(s.upper_body)) == list(s.upper_body)
    assert {j for limb in s.limbs for j in limb} == set(range(k))  # no joint without a bone
    assert skeleton(s.name) is s


@pytest.mark.parametrize("s", SKELETONS.values(), ids=SKELETONS)
def test_flip_exchanges_left_and_right_and_nothing_else(s: Skeleton) -> None:
    order = s.flip_permutation
    assert [order[i] for i in order] == list(range(s.num_joints))
    sides = {"left": "right", "right": "left"}
    for name, source in zip(s.joints, order, strict=True):
        side, _, part = name.partition("_")
        assert s.joints[source] == (f"{sides[side]}_{part}" if side in sides else name)
    assert all(s.sigmas[a] == s.sigmas[b] for a, b in s.flip_pairs)
    assert all((a in s.upper_body) == (b in s.upper_body) for a, b in s.flip_pairs)
    bones = {frozenset(limb) for limb in s.limbs}
    assert {frozenset(order[j] for j in bone) for bone in bones} == bones


@pytest.mark.parametrize("s", SKELETONS.values(), ids=SKELETONS)
def test_hips_knees_and_ankles_are_the_lower_body(s: Skeleton) -> None:
    lower = {name for i, name in enumerate(s.joints) if i not in s.upper_body}
    assert lower == {f"{side}_{part}" for side in ("left", "right") for part in ("hip", "knee", "ankle")}


def test_coco_sigmas_are_pycocotools() -> None:
    from pycocotools.cocoeval import Params

    np.testing.assert_allclose(COCO17.sigmas, Params("keypoints").kpt_oks_sigmas)


def test_crowdpose_sigmas_of_the_joints_that_coco_has() -> None:
    coco = dict(zip(COCO17.joints, COCO17.sigmas, strict=True))
    crowdpose = skeleton("crowdpose14")
    for name, sigma in zip(crowdpose.joints, crowdpose.sigmas, strict=True):
        assert sigma == coco.get(name, 0.079)


def test_an_unknown_skeleton() -> None:
    with pytest.raises(ConfigError, match="unknown skeleton 'coco'; did you mean 'coco17'"):
        skeleton("coco")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmas": COCO17.sigmas[:-1]}, "16 sigmas for 17 joints; give one for each"),
        ({"sigmas": (*COCO17.sigmas, 0.1)}, "18 sigmas for 17 joints"),
        ({"sigmas": (0.0, *COCO17.sigmas[1:])}, "sigma 0.0 is not above 0"),
        ({"sigmas": (float("nan"), *COCO17.sigmas[1:])}, "sigma nan is not above 0"),
        ({"sigmas": (1.07, *COCO17.sigmas[1:])}, "sigma 1.07 is not below 1; COCO's are 0.025 to 0.107"),
        ({"sigmas": (float("inf"), *COCO17.sigmas[1:])}, "sigma inf is not below 1"),
        ({"joints": ("nose", "nose", *COCO17.joints[2:])}, "'nose' is there twice"),
        ({"flip_pairs": ((1, 17),)}, "index 17 is beyond its 17 joints"),
        ({"limbs": ((-1, 2),)}, "index -1 is beyond"),
        ({"upper_body": (20,)}, "index 20 is beyond"),
    ],
)
def test_tables_that_do_not_fit_together_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        dataclasses.replace(COCO17, **change)
    assert str(caught.value).startswith("skeleton coco17: ")
