"""The rig: a posed and dressed body as a list of solid body parts for the rasteriser.

A body part is a *sweep* (an elliptic cross-section along a segment, tapered, with rounded ends) or an
*ellipsoid*. Local coordinates are metres in the part's frame from its first end; y runs along the sweep.
Screen space: x right, y down, z toward the viewer, in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from mipnet.synthetic import body as B
from mipnet.synthetic.body import HEAD_HALF, Build, Skeletons
from mipnet.synthetic.looks import Look

VIEW_DISTANCE = 5.5  # metres from the camera to a person; sets the perspective

# Kinds of body parts, for the visibility of keypoints and for painted details.
(
    CHEST, PELVIS, NECK, TRAPEZIUS, HEAD, NOSE, EAR, HAIR, UPPER_ARM, FOREARM, HAND, THIGH, SHIN, FOOT,
    SKIRT, PACK,
) = range(16)  # fmt: skip


@dataclass(frozen=True)
class PartTable:
    """Arrays with a row per body part; ``keypoints`` and ``boxes`` have a row per person.

    Attributes:
        person: (n,) int, person index.
        ellipsoid: (n,) bool.
    """

    person: np.ndarray
    ellipsoid: np.ndarray

    def only(self, people: Sequence[int]) -> Self:
        """The rows of some people, given in ascending order and renumbered from 0."""
        keep = np.isin(self.person, people)
        rows = {"keypoints": list(people), "boxes": list(people)}
        kept = {f.name: getattr(self, f.name)[rows.get(f.name, keep)] for f in fields(self)}
        return replace(self, **kept | {"person": np.searchsorted(people, kept["person"])})


@dataclass(frozen=True)
class BodyParts(PartTable):
    """The n body parts of all people of a scene, at 1 px per metre from each person's anchor on the ground.

    Attributes:
        kind, side: (n,) int, kind of part, and side: 0 left, 1 right, -1 neither.
        frames: (n, 3, 3), columns are the part's axes in screen space.
        ends: (n, 2, 3), ends of the segment.
        half: (n, 2), half width at both ends.
        shape: (n, 3), depth / width, and cap / width at both ends.
        half3: (n, 3), half-axes of ellipsoids.
        unit: (n,), px of a local metre.
        keypoints: (people, 17, 3), COCO keypoints x, y and depth.
    """

    kind: np.ndarray
    side: np.ndarray
    frames: np.ndarray
    ends: np.ndarray
    half: np.ndarray
    shape: np.ndarray
    half3: np.ndarray
    unit: np.ndarray
    keypoints: np.ndarray


def _rows(b: Build, look: Look) -> list[tuple[float, ...]]:
    """(kind, side, frame, joint0, x, y, z, joint1, x, y, z, r0, r1, depth, cap0, cap1); joint1 < 0: ellipsoid
    whose half-axes are r0, r1, depth."""
    g, t, hd = b.girth, b.torso, b.head
    top, waist = b.shoulder - 0.022, 0.118 * g + 0.012 + 0.015 * b.belly
    loose = look.loose
    rows: list[tuple[float, ...]] = [
        (CHEST, -1, B.CHEST, B.J_WAIST, 0, -0.01, 0.006 * b.belly, B.J_WAIST, 0, 0.312 * t, -0.004,
         waist + loose, top + loose - 0.004, 0.68 + 0.05 * (g - 1), 0.3, 0.5),
        (PELVIS, -1, B.PELVIS, B.J_PELVIS, 0, 0.005, 0, B.J_WAIST, 0, -0.01, 0.006 * b.belly,
         b.hip + 0.062 * g, waist + loose + 0.003, 0.7, 0.5, 0.4),
        (NECK, -1, B.CHEST, B.J_NECK, 0, -0.03, -0.004, B.J_HEAD, 0, -0.06, -0.015, 0.058 * g**0.5,
         0.052 * g**0.5, 1, 1, 1),
    ]  # fmt: skip
    for s in (0, 1):
        m = 1 - 2 * s
        rows += [
            (TRAPEZIUS, s, B.CHEST, B.J_NECK, 0.022 * m, -0.018, -0.012, B.J_SHOULDER + s,
             -0.014 * m, 0.002, 0, 0.047 * g + 0.5 * loose, 0.05 * g + loose, 0.95, 1, 1),
            (UPPER_ARM, s, B.UPPER_ARM + s, B.J_ELBOW + s, 0, 0, 0, B.J_SHOULDER + s, 0, 0, 0,
             0.04 * g + loose, 0.052 * g + loose, 1, 1, 1),
            (FOREARM, s, B.FOREARM + s, B.J_WRIST + s, 0, 0, 0, B.J_ELBOW + s, 0, 0, 0,
             0.028 * g**0.5 + look.cuff, 0.041 * g + 0.7 * loose, 1, 1, 1),
            (HAND, s, B.FOREARM + s, B.J_WRIST + s, 0, -0.068, 0.004, -1, 0, 0, 0, 0.026, 0.074, 0.042, 0, 0),
            (THIGH, s, B.THIGH + s, B.J_KNEE + s, 0, 0, 0, B.J_HIP + s, 0, 0, 0,
             0.056 * g + look.trouser, 0.083 * g + 0.6 * look.trouser, 1, 1, 1),
            (SHIN, s, B.SHIN + s, B.J_ANKLE + s, 0, 0.01, 0, B.J_KNEE + s, 0, 0, -0.004,
             0.037 * g**0.5 + look.hem, 0.055 * g + look.trouser, 1, 0.6, 1),
            (FOOT, s, B.FOOT + s, B.J_ANKLE + s, 0, -0.036, -0.03, B.J_ANKLE + s, 0.004 * m, -0.05, 0.135,
             0.041, 0.03, 1.1, 1, 1),
        ]  # fmt: skip
        if look.ears:
            rows.append((EAR, s, B.HEAD, B.J_HEAD, 0.09 * hd * m, -0.004, -0.008, -1, 0, 0, 0,
                         0.013, 0.031 * hd, 0.02 * hd, 0, 0))  # fmt: skip
        if look.calf:
            rows.append((SHIN, s, B.SHIN + s, B.J_KNEE + s, 0, -0.11 * b.leg, -0.012, -1, 0, 0, 0,
                         0.052 * g, 0.105 * b.leg, 0.054 * g, 0, 0))  # fmt: skip
    rows.append((HEAD, -1, B.HEAD, B.J_HEAD, 0, 0, 0, -1, 0, 0, 0, *(hd * h for h in HEAD_HALF), 0, 0))
    rows.append((NOSE, -1, B.HEAD, B.J_HEAD, 0, -0.012 * hd, 0.1 * hd, -1, 0, 0, 0,
                 0.0145 * hd, 0.028 * hd, 0.02 * hd, 0, 0))  # fmt: skip
    if b.bust > 0:
        rows.append((CHEST, -1, B.CHEST, B.J_WAIST, 0, 0.225 * t, 0.055 + 0.02 * b.bust, -1, 0, 0, 0,
                     0.118 * g, 0.085, 0.034 + 0.024 * b.bust, 0, 0))  # fmt: skip
    if b.belly > 0.15:
        rows.append((CHEST, -1, B.CHEST, B.J_WAIST, 0, 0.04, 0.03 + 0.03 * b.belly, -1, 0, 0, 0,
                     0.13 * g, 0.13, 0.09 + 0.02 * b.belly, 0, 0))  # fmt: skip
    if look.bottom.skirt:
        length, flare = look.bottom.skirt
        rows.append((SKIRT, -1, B.PELVIS, B.J_PELVIS, 0, -length, 0.01, B.J_WAIST, 0, -0.03, 0,
                     b.hip + 0.075 * g + flare, waist + loose + 0.006, 0.8, 0.14, 0.3))  # fmt: skip
    if look.pack:
        rows.append((PACK, -1, B.CHEST, B.J_WAIST, 0, 0.06, -0.135 * g, B.J_WAIST, 0, 0.3 * t, -0.125 * g,
                     0.115, 0.105, 0.62, 0.5, 0.6))  # fmt: skip
    for x, y, z, rx, ry, rz in look.hair:
        rows.append(
            (HAIR, -1, B.HEAD, B.J_HEAD, x * hd, y * hd, z * hd, -1, 0, 0, 0, rx * hd, ry * hd, rz * hd, 0, 0)
        )
    return rows


def build_parts(builds: Sequence[Build], looks: Sequence[Look], skeletons: Skeletons) -> BodyParts:
    """The body parts of posed and dressed people."""
    lists = [_rows(b, look) for b, look in zip(builds, looks, strict=True)]
    table = np.array([row for rows in lists for row in rows])
    person = np.repeat(np.arange(len(lists)), [len(rows) for rows in lists])
    kind, side, frame, joint0, joint1 = table[:, [0, 1, 2, 3, 7]].astype(np.intp).T
    ellipsoid = joint1 < 0
    stature = np.array([b.stature for b in builds])[person]
    axes = skeletons.frames[person, frame]
    end0 = skeletons.joints[person, joint0] + stature[:, None] * (axes @ table[:, 4:7, None])[..., 0]
    end1 = skeletons.joints[person, joint1] + stature[:, None] * (axes @ table[:, 8:11, None])[..., 0]
    end1[ellipsoid] = end0[ellipsoid]

    # Sweeps: y runs along the segment; x and z stay as near to the body frame as that allows.
    along = _unit(np.where(ellipsoid[:, None], axes[:, :, 1], end1 - end0))
    across = axes[:, :, 0]
    across = _unit(across - (across * along).sum(1, keepdims=True) * along)
    axes = np.stack((across, along, _cross(across, along)), axis=2)
    axes[:, 1, :] *= -1.0  # the screen's y points down

    points = np.stack((end0, end1), axis=1)
    near = stature[:, None] * (1.0 + points[:, :, 2] / VIEW_DISTANCE)
    unit = near.mean(1)
    return BodyParts(
        person, ellipsoid, kind, side, axes, project(points), table[:, 11:13] * near,
        np.maximum(table[:, 13:16], 1e-6), table[:, 11:14] * unit[:, None], unit,
        project(_keypoints(builds, skeletons)),
    )  # fmt: skip


def _unit(v: np.ndarray) -> np.ndarray:
    unit: np.ndarray = v / np.maximum(np.sqrt((v * v).sum(1, keepdims=True)), 1e-9)
    return unit


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """np.cross for (n, 3), without its overhead."""
    product: np.ndarray = a[:, [1, 2, 0]] * b[:, [2, 0, 1]] - a[:, [2, 0, 1]] * b[:, [1, 2, 0]]
    return product


def project(points: np.ndarray) -> np.ndarray:
    """Project camera-space metres (..., 3) from the anchor to the screen at 1 px per metre, y down."""
    near = 1.0 + points[..., 2:] / VIEW_DISTANCE
    return points * np.concatenate((near, -near, np.ones_like(near)), axis=-1)


_FACE = np.array(
    [(0, -0.014, 0.12), (0.035, 0.014, 0.096), (-0.035, 0.014, 0.096), (0.095, -0.004, -0.008),
     (-0.095, -0.004, -0.008)]
)  # fmt: skip


def _keypoints(builds: Sequence[Build], skeletons: Skeletons) -> np.ndarray:
    out = np.empty((len(builds), 17, 3))
    size = np.array([b.stature * b.head for b in builds])
    face = size[:, None, None] * _FACE @ skeletons.frames[:, B.HEAD].swapaxes(1, 2)
    out[:, :5] = skeletons.joints[:, B.J_HEAD, None] + face
    out[:, 5:] = skeletons.joints[:, B.J_SHOULDER :]
    return out
