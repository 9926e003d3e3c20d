"""Joint angles of plausible poses, as plain numbers inside human joint limits.

All angles are degrees. Pairs are (left, right); the right side mirrors the left, so one number means the same
movement on both. ``raise_`` swings the upper arm from hanging (0) to overhead (180) in the vertical plane at
``plane`` (0 sideways, 90 forward); a negative ``raise_`` in the forward plane swings backward. ``twist`` < 0
turns the bend of the elbow toward the middle of the body. Hips flex forward, knees backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

Pair = list[float]
Range = tuple[float, float]
Arm = tuple[Range, Range, Range, Range]  # of raise_, plane, twist and elbow


def _pair() -> Pair:
    return [0.0, 0.0]


@dataclass
class Pose:
    """One posture; see the module for the meaning of the angles. ``lift`` is metres above the ground."""

    lean: float = 0.0  # pelvis forward
    side: float = 0.0  # pelvis toward the person's right
    bend: float = 0.0  # spine forward
    sway: float = 0.0  # spine sideways
    spin: float = 0.0  # chest against pelvis about the vertical
    nod: float = 0.0
    turn: float = 0.0
    tip: float = 0.0
    raise_: Pair = field(default_factory=_pair)
    plane: Pair = field(default_factory=_pair)
    twist: Pair = field(default_factory=_pair)
    elbow: Pair = field(default_factory=_pair)
    hip: Pair = field(default_factory=_pair)
    spread: Pair = field(default_factory=_pair)
    toe_out: Pair = field(default_factory=_pair)
    knee: Pair = field(default_factory=_pair)
    lift: float = 0.0
    seat: bool = False
    family: Callable[[Pose, Random], None] | None = None

    def set_arm(self, r: Random, side: int, arm: Arm) -> None:
        """Draw the arm's angles from their ranges."""
        angles = self.raise_, self.plane, self.twist, self.elbow
        for angle, limits in zip(angles, arm, strict=True):
            angle[side] = r.uniform(*limits)


# --- arms -----------------------------------------------------------------------------------------------


_RELAXED: Arm = ((5, 16), (0, 50), (-55, -20), (6, 32))
_ON_HIP: Arm = ((38, 50), (-12, 4), (-82, -66), (82, 98))
_CROSSED: Arm = ((22, 32), (58, 74), (-70, -58), (92, 106))
_FORWARD: Arm = ((62, 98), (72, 98), (-45, 0), (6, 48))
_HUGGING: Arm = ((32, 80), (48, 80), (-90, -40), (48, 104))
_EMBRACING: Arm = ((18, 52), (40, 72), (-70, -25), (72, 112))
_UP: Arm = ((138, 172), (0, 90), (-30, 30), (4, 50))
_WAVING: Arm = ((75, 108), (-5, 25), (75, 95), (50, 105))
_SIDEWAYS: Arm = ((74, 98), (-8, 20), (-30, 60), (0, 25))
_POINTING: Arm = ((76, 100), (15, 90), (-30, 30), (0, 10))
_PHONE: Arm = ((32, 48), (45, 75), (-10, 12), (124, 136))
_CARRYING: Arm = ((8, 24), (65, 92), (-30, -8), (75, 102))
_THINKING: Arm = ((26, 38), (72, 88), (-32, -18), (122, 134))
_ON_HEAD: Arm = ((112, 132), (10, 45), (60, 85), (108, 128))

_EASY_ARMS = (
    *(_RELAXED, _RELAXED, _RELAXED, _ON_HIP, _CARRYING),
    *(_FORWARD, _WAVING, _POINTING, _PHONE, _THINKING),
)
_BIG_ARMS = (_UP, _UP, _WAVING, _SIDEWAYS, _SIDEWAYS, _ON_HEAD, _FORWARD, _POINTING, _ON_HIP)


def _arms(p: Pose, r: Random, left: Arm, right: Arm) -> None:
    p.set_arm(r, 0, left)
    p.set_arm(r, 1, right)


def _any_arms(p: Pose, r: Random, choices: Sequence[Arm]) -> None:
    left = r.choice(choices)
    _arms(p, r, left, left if r.random() < 0.25 else r.choice(choices))


# --- legs and whole bodies ------------------------------------------------------------------------------


def _stance(p: Pose, r: Random) -> None:
    for s in (0, 1):
        p.hip[s], p.knee[s] = r.uniform(-3, 5), r.uniform(1, 8)
        p.spread[s], p.toe_out[s] = r.uniform(1, 9), r.uniform(2, 22)
    if r.random() < 0.5:  # weight on one leg
        s = r.randrange(2)
        p.hip[s], p.knee[s] = r.uniform(10, 20), r.uniform(20, 36)
        p.side = r.uniform(1, 4) * (1 if s else -1)
        p.sway = -1.3 * p.side


def stand(p: Pose, r: Random) -> None:
    _stance(p, r)
    _any_arms(p, r, _EASY_ARMS)
    if r.random() < 0.12:
        _arms(p, r, _CROSSED, _CROSSED)


def wave(p: Pose, r: Random) -> None:
    _stance(p, r)
    s = r.randrange(2)
    p.set_arm(r, s, r.choice((_WAVING, _UP)))
    p.set_arm(r, 1 - s, r.choice((_RELAXED, _ON_HIP)))


def reach(p: Pose, r: Random) -> None:
    _stance(p, r)
    p.bend, p.lean = r.uniform(0, 22), r.uniform(0, 8)
    p.hip[0] += p.lean
    p.hip[1] += p.lean
    s = r.randrange(2)
    p.set_arm(r, s, r.choice((_FORWARD, _UP, _POINTING)))
    p.set_arm(r, 1 - s, r.choice((_FORWARD, _RELAXED)))


def _gait(p: Pose, r: Random, front: int, swing: float, elbow: float) -> None:
    """Arms swing against the legs; the chest turns with them."""
    p.spin = r.uniform(3, 12) * (1 if front == 0 else -1)
    for s in (0, 1):
        p.raise_[s], p.plane[s] = swing * (-0.8 if s == front else 1.0), r.uniform(78, 96)
        p.twist[s], p.elbow[s] = r.uniform(-30, -8), elbow + r.uniform(-8, 8)
        p.spread[s], p.toe_out[s] = r.uniform(0, 4), r.uniform(0, 10)


def walk(p: Pose, r: Random) -> None:
    f = r.randrange(2)
    step = r.uniform(0.6, 1.15)
    p.hip[f], p.knee[f] = 27 * step, r.uniform(3, 14)
    p.hip[1 - f], p.knee[1 - f] = -17 * step, r.uniform(12, 38)
    _gait(p, r, f, r.uniform(14, 30), r.uniform(12, 35))
    p.bend = r.uniform(0, 6)


def run(p: Pose, r: Random) -> None:
    f = r.randrange(2)
    p.lean = r.uniform(6, 14)
    p.hip[f], p.knee[f] = r.uniform(55, 82), r.uniform(60, 95)
    p.hip[1 - f], p.knee[1 - f] = r.uniform(-16, 0), r.uniform(25, 75)
    _gait(p, r, f, r.uniform(30, 52), r.uniform(78, 100))
    p.lift = r.choice((0.0, 0.06))


def sit(p: Pose, r: Random) -> None:
    p.seat = True
    p.lean, p.bend = r.uniform(-8, 6), r.uniform(0, 16)
    for s in (0, 1):
        p.hip[s], p.knee[s] = r.uniform(78, 92) + p.lean, r.uniform(70, 98)
        p.spread[s], p.toe_out[s] = r.uniform(1, 14), r.uniform(0, 10)
    _any_arms(p, r, (_CARRYING, _RELAXED, _CARRYING, _THINKING, _PHONE, _WAVING, _FORWARD))


def squat(p: Pose, r: Random) -> None:
    p.lean, p.bend = r.uniform(12, 28), r.uniform(10, 26)
    flex = r.uniform(88, 112)
    for s in (0, 1):
        p.hip[s], p.knee[s] = flex + r.uniform(-4, 4), flex + r.uniform(-6, 12)
        p.spread[s], p.toe_out[s] = r.uniform(8, 24), r.uniform(8, 26)
    _any_arms(p, r, (_FORWARD, _CARRYING, _FORWARD, _THINKING, _RELAXED))


def lunge(p: Pose, r: Random) -> None:
    f = r.randrange(2)
    p.hip[f], p.knee[f] = r.uniform(52, 78), r.uniform(58, 86)
    p.hip[1 - f], p.knee[1 - f] = r.uniform(-18, -6), r.uniform(16, 46)
    p.spread[0], p.spread[1] = r.uniform(0, 8), r.uniform(0, 8)
    _any_arms(p, r, (_ON_HIP, _SIDEWAYS, _UP, _FORWARD, _CARRYING))


def bow(p: Pose, r: Random) -> None:
    _stance(p, r)
    p.lean, p.bend = r.uniform(14, 40), r.uniform(14, 34)
    for s in (0, 1):
        p.hip[s] += p.lean * 0.9
        p.knee[s] += r.uniform(0, 14)
    p.nod = r.uniform(-22, 2)
    _any_arms(p, r, (_FORWARD, _CARRYING, _RELAXED))


def jump(p: Pose, r: Random) -> None:
    p.lift = r.uniform(0.10, 0.30)
    bend = r.uniform(0, 60)
    for s in (0, 1):
        p.hip[s], p.knee[s] = 0.7 * bend + r.uniform(-8, 14), bend + r.uniform(5, 28)
        p.spread[s], p.toe_out[s] = r.uniform(4, 26), r.uniform(0, 15)
    _any_arms(p, r, _BIG_ARMS)


def kick(p: Pose, r: Random) -> None:
    _stance(p, r)
    s = r.randrange(2)
    p.side = p.sway = 0.0
    p.lean = r.uniform(-14, -4)
    p.hip[s], p.knee[s], p.spread[s] = r.uniform(48, 86), r.uniform(4, 40), r.uniform(0, 18)
    p.hip[1 - s], p.knee[1 - s] = p.lean + r.uniform(0, 8), r.uniform(4, 18)
    _any_arms(p, r, (_SIDEWAYS, _ON_HIP, _CARRYING, _FORWARD, _RELAXED))


def dance(p: Pose, r: Random) -> None:
    s = r.randrange(2)
    p.side, p.sway, p.spin = r.uniform(-9, 9), r.uniform(-16, 16), r.uniform(-22, 22)
    p.hip[s], p.knee[s] = r.uniform(15, 62), r.uniform(20, 84)
    p.spread[s], p.spread[1 - s] = r.uniform(5, 32), r.uniform(2, 14)
    p.hip[1 - s], p.knee[1 - s] = r.uniform(-4, 14), r.uniform(2, 24)
    p.toe_out[s], p.toe_out[1 - s] = r.uniform(5, 32), r.uniform(5, 25)
    p.tip = r.uniform(-12, 12)
    _any_arms(p, r, _BIG_ARMS)


def hug(p: Pose, r: Random) -> None:
    """Arms forward, as the facing pairs of the hard scenes need."""
    _stance(p, r)
    p.bend = r.uniform(0, 12)
    arm = r.choice((_EMBRACING, _EMBRACING, _EMBRACING, _EMBRACING, _HUGGING, _HUGGING, _FORWARD))
    _arms(p, r, arm, arm)


_FAMILIES = (
    (stand, 26), (walk, 17), (wave, 9), (reach, 8), (dance, 12), (run, 7), (sit, 6), (lunge, 4), (squat, 3),
    (jump, 5), (kick, 4), (bow, 3),
)  # fmt: skip
_CHOICES = tuple(f for f, n in _FAMILIES for _ in range(n))


def random_pose(r: Random, family: Callable[[Pose, Random], None] | None = None) -> Pose:
    """A pose of ``family``, or of a family drawn by its weight, with the head looking about a little."""
    p = Pose()
    p.family = family or r.choice(_CHOICES)
    p.family(p, r)
    p.nod += r.uniform(-9, 10)
    p.turn += r.gauss(0, 17)
    p.tip += r.uniform(-7, 7)
    p.turn = min(max(p.turn, -50.0), 50.0)
    return p
