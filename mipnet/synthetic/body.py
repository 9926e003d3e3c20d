"""A 3-D body: proportions, and the joints and limb frames of a pose (forward kinematics).

Space is in metres, right-handed: x toward the person's left at yaw 0, y up, z toward the viewer, the ground
point under the pelvis at the origin. A frame's columns are its own x (the person's left), y (up along the
limb) and z (front); limbs hang along -y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from mipnet.synthetic.poses import Pose

# Indices of frames and joints; pairs are (left, right) = (n, n + 1).
PELVIS, CHEST, HEAD, UPPER_ARM, FOREARM, THIGH, SHIN, FOOT = 0, 1, 2, 3, 5, 7, 9, 11
J_PELVIS, J_WAIST, J_NECK, J_HEAD = 0, 1, 2, 3
J_SHOULDER, J_ELBOW, J_WRIST, J_HIP, J_KNEE, J_ANKLE = 4, 6, 8, 10, 12, 14

HEAD_HALF = (0.103, 0.138, 0.116)  # half-axes of the skull in metres: larger than life, for readable faces


@dataclass(frozen=True)
class Build:
    """Proportions in metres. ``girth`` scales every thickness; a child is small with a large head."""

    stature: float
    girth: float
    shoulder: float  # half distance of the shoulder joints
    hip: float  # half distance of the hip joints
    head: float
    torso: float
    arm: float
    leg: float
    bust: float
    belly: float


def random_build(r: Random) -> Build:
    child = r.random() < 0.08
    broad = r.gauss(0.0, 1.0)  # shoulders relative to hips
    girth = min(max(r.gauss(1.22, 0.15), 0.95), 1.6)  # silhouettes with about the aspect ratios of COCO's
    feminine = broad < 0.0
    stature = r.uniform(0.68, 0.82) if child else min(max(r.gauss(0.995 + 0.012 * broad, 0.05), 0.87), 1.12)
    return Build(
        stature=stature,
        girth=girth,
        shoulder=0.176 + 0.009 * broad + 0.05 * (girth - 1),
        hip=0.095 - 0.005 * broad + 0.03 * (girth - 1),
        head=1.2 if child else r.uniform(0.96, 1.06),
        torso=r.uniform(0.95, 1.05),
        arm=r.uniform(0.95, 1.06),
        leg=0.93 if child else r.uniform(0.95, 1.06),
        bust=r.uniform(0.4, 1.0) if feminine and not child else 0.0,
        belly=max(0.0, girth - 1.30 + r.gauss(0.0, 0.04)) * 3.0,
    )


def _rot(axis: int, degrees: np.ndarray) -> np.ndarray:
    """Rotations (..., 3, 3) about x, y or z by the right-hand rule."""
    a = degrees * (np.pi / 180.0)
    c, s = np.cos(a), np.sin(a)
    out = np.zeros((*a.shape, 3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out[..., axis, axis] = 1.0
    out[..., i, i] = out[..., j, j] = c
    out[..., i, j] = -s
    out[..., j, i] = s
    return out


def _mirrored(pairs: np.ndarray) -> np.ndarray:
    """Mirror the second of two left-side rotations (P, 2, 3, 3), for the right side; in place."""
    pairs[:, 1, 0, 1:] *= -1.0
    pairs[:, 1, 1:, 0] *= -1.0
    return pairs


@dataclass(frozen=True)
class Skeletons:
    """Frames (P, 13, 3, 3) and joints (P, 16, 3) of P people in the camera's orientation, in metres."""

    frames: np.ndarray
    joints: np.ndarray


def _angles(p: Pose, yaw: float) -> tuple[float, ...]:
    """The 26 numbers of a pose: nine angles about x, seven about z, nine about y, and the lift."""
    about_x = (p.lean, p.bend, p.nod, -p.hip[0], -p.hip[1], -p.elbow[0], -p.elbow[1], *p.knee)
    about_z = (p.side, p.sway, p.tip, *p.raise_, *p.spread)
    twists = (-p.plane[0], -p.plane[1], p.plane[0] + p.twist[0], p.plane[1] + p.twist[1])
    return *about_x, *about_z, yaw, p.spin, p.turn, *twists, *p.toe_out, p.lift


def solve(
    builds: Sequence[Build], poses: Sequence[Pose], yaws: Sequence[float], tilt: float, roll: float
) -> Skeletons:
    """Pose people, stand each on the ground facing its yaw (0 toward the viewer), and turn the camera.

    Angles are degrees. ``tilt`` > 0 looks down on the people.
    """
    n = len(builds)
    size = np.array([(b.shoulder, b.hip, b.torso, b.head, b.arm, b.leg, b.stature) for b in builds])
    shoulder, hip_width, torso, head, arm, leg, stature = size.T
    angles = np.array([_angles(p, yaw) for p, yaw in zip(poses, yaws, strict=True)])
    raise_, lift = angles[:, 12:14], angles[:, 25]
    about_x, about_z, about_y = _rot(0, angles[:, :9]), _rot(2, angles[:, 9:16]), _rot(1, angles[:, 16:25])
    trunk = about_y[:, :3] @ about_x[:, :3] @ about_z[:, :3]
    frames = np.empty((n, 13, 3, 3))
    frames[:, PELVIS] = pelvis = trunk[:, 0]
    frames[:, CHEST] = chest = pelvis @ trunk[:, 1]
    frames[:, HEAD] = chest @ trunk[:, 2]

    arms = about_y[:, 3:5] @ about_z[:, 3:5] @ about_y[:, 5:7]
    legs = about_x[:, 3:5] @ about_z[:, 5:7] @ about_y[:, 7:9]
    bends = about_x[:, 5:9]
    frames[:, UPPER_ARM : UPPER_ARM + 2] = upper = chest[:, None] @ _mirrored(arms)
    frames[:, FOREARM : FOREARM + 2] = upper @ bends[:, :2]
    frames[:, THIGH : THIGH + 2] = thigh = pelvis[:, None] @ _mirrored(legs)
    frames[:, SHIN : SHIN + 2] = shin = thigh @ bends[:, 2:]
    # The ankle levels the sole as far as an ankle can.
    level = np.degrees(np.arctan2(shin[:, :, 1, 2], shin[:, :, 1, 1]))
    frames[:, FOOT : FOOT + 2] = foot = shin @ _rot(0, np.clip(level, -25.0, 50.0))

    joints = np.zeros((n, 16, 3))
    joints[:, J_WAIST] = waist = (0.115 * torso)[:, None] * pelvis[:, :, 1]
    on_chest = np.zeros((n, 3, 3))  # neck and shoulders from the waist, in the chest's axes
    shrug = np.maximum(raise_ - 70.0, 0.0) / 100.0  # shoulders rise and close in when the arms go up
    on_chest[:, 0, 1], on_chest[:, :, 2] = 0.40 * torso, -0.01
    on_chest[:, 1:, 0] = (shoulder[:, None] - 0.028 * shrug) * (1.0, -1.0)
    on_chest[:, 1:, 1] = 0.352 * torso[:, None] + 0.04 * shrug
    spots = waist[:, None] + on_chest @ chest.swapaxes(1, 2)
    joints[:, J_NECK], joints[:, J_SHOULDER : J_SHOULDER + 2] = spots[:, 0], spots[:, 1:]
    skull = frames[:, HEAD]
    neck = 0.5 * (chest + skull)
    joints[:, J_HEAD] = spots[:, 0] + 0.052 * neck[:, :, 1] + 0.02 * neck[:, :, 2] + 0.012 * skull[:, :, 2]
    joints[:, J_HEAD] += (0.11 * head)[:, None] * skull[:, :, 1]
    joints[:, J_HIP] = hip_width[:, None] * pelvis[:, :, 0]
    joints[:, J_HIP + 1] = -joints[:, J_HIP]
    for base, limb, length in (
        (J_SHOULDER, UPPER_ARM, 0.285 * arm),
        (J_ELBOW, FOREARM, 0.25 * arm),
        (J_HIP, THIGH, 0.43 * leg),
        (J_KNEE, SHIN, 0.42 * leg),
    ):
        down = length[:, None, None] * frames[:, limb : limb + 2, :, 1]
        joints[:, base + 2 : base + 4] = joints[:, base : base + 2] - down

    heels = joints[:, J_ANKLE : J_ANKLE + 2, 1] - 0.078 * foot[:, :, 1, 1]
    toes = heels + 0.13 * foot[:, :, 1, 2]
    lowest = np.minimum(np.minimum(heels, toes).min(1), joints[:, :, 1].min(1) - 0.05)
    joints[:, :, 1] += (lift - lowest)[:, None]
    camera = _rot(0, np.array(tilt)) @ _rot(2, np.array(roll))
    return Skeletons(camera @ frames, (stature[:, None, None] * joints) @ camera.T)
