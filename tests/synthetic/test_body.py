"""The 3-D body: anatomy, left and right, contact with the ground."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from mipnet.synthetic import body as B
from mipnet.synthetic.looks import random_look
from mipnet.synthetic.poses import Pose, random_pose
from mipnet.synthetic.rig import build_parts

COUNT = 200
SWAP = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


def crowd(yaws: list[float] | None = None) -> tuple[B.Skeletons, list[B.Build], list[Pose]]:
    r = Random(1)
    builds, poses = [B.random_build(r) for _ in range(COUNT)], [random_pose(r) for _ in range(COUNT)]
    return (
        B.solve(builds, poses, yaws or [r.uniform(-180, 180) for _ in range(COUNT)], 0.0, 0.0),
        builds,
        poses,
    )


def test_frames_are_rotations() -> None:
    frames = crowd()[0].frames
    assert frames @ frames.swapaxes(-1, -2) == pytest.approx(
        np.broadcast_to(np.eye(3), frames.shape), abs=1e-9
    )
    assert np.linalg.det(frames) == pytest.approx(np.ones(frames.shape[:2]))


@pytest.mark.parametrize(
    ("upper", "lower", "joint", "bend"),
    [(B.UPPER_ARM, B.FOREARM, B.J_ELBOW, 1.0), (B.THIGH, B.SHIN, B.J_KNEE, -1.0)],
)
def test_elbows_and_knees_bend_the_right_way(upper: int, lower: int, joint: int, bend: float) -> None:
    sk = crowd()[0]
    for side in (0, 1):
        limb = sk.joints[:, joint + 2 + side] - sk.joints[:, joint + side]
        forward = (limb * sk.frames[:, upper + side, :, 2]).sum(1)
        assert (bend * forward >= -1e-9).all()
        straight = (sk.frames[:, upper + side, :, 1] * sk.frames[:, lower + side, :, 1]).sum(1)
        assert (straight >= np.cos(np.radians(145))).all()


def test_feet_stand_on_the_ground_unless_jumping() -> None:
    sk, builds, poses = crowd()
    stature = np.array([b.stature for b in builds])
    ankles = sk.joints[:, B.J_ANKLE : B.J_ANKLE + 2, 1].min(1) / stature
    lift = np.array([p.lift for p in poses])
    assert (ankles - lift > 0.02).all()
    assert np.median(ankles[lift == 0]) == pytest.approx(0.08, abs=0.03)


def test_left_is_the_persons_own() -> None:
    for yaw, sign in ((0.0, 1.0), (180.0, -1.0)):
        joints = crowd([yaw] * COUNT)[0].joints
        across = joints[:, B.J_HIP, 0] - joints[:, B.J_HIP + 1, 0]
        assert (sign * across > 0.1).all()


def mirrored(p: Pose) -> Pose:
    """The same posture with left and right exchanged."""
    q = Pose(**vars(p))
    for name in ("raise_", "plane", "twist", "elbow", "hip", "spread", "toe_out", "knee"):
        setattr(q, name, getattr(p, name)[::-1])
    for name in ("side", "sway", "tip", "spin", "turn"):
        setattr(q, name, -getattr(p, name))
    return q


def test_mirrored_pose_and_yaw_give_the_mirrored_keypoints() -> None:
    r = Random(5)
    builds, poses = [B.random_build(r) for _ in range(30)], [random_pose(r) for _ in range(30)]
    looks = [random_look(r, False) for _ in range(30)]
    yaws = [r.uniform(-180, 180) for _ in range(30)]
    here = build_parts(builds, looks, B.solve(builds, poses, yaws, 6.0, 0.0)).keypoints
    there = build_parts(
        builds, looks, B.solve(builds, [mirrored(p) for p in poses], [-y for y in yaws], 6.0, 0.0)
    ).keypoints
    assert there[:, SWAP] * (-1, 1, 1) == pytest.approx(here, abs=1e-9)
