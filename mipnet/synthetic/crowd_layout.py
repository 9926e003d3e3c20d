"""Places people in a scene: the camera, the crowd, and the box IoU of the main pair."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import numpy as np

from mipnet.synthetic.body import Build, random_build, solve
from mipnet.synthetic.looks import Look, random_look
from mipnet.synthetic.poses import Pose, hug, random_pose
from mipnet.synthetic.raster import HEIGHT, WIDTH, Outline, outline
from mipnet.synthetic.rig import VIEW_DISTANCE, BodyParts, build_parts

Box = tuple[float, float, float, float]  # x0, y0, x1, y1

# Largest box IoU of any two people in a scene; of the main pair in medium and hard scenes.
IOU_BANDS = {"easy": (0.0, 0.1), "medium": (0.1, 0.5), "hard": (0.5, 0.9)}
# Weights of 1 to 4 people.
_CROWD = {"easy": (30, 34, 22, 14), "medium": (0, 46, 32, 22), "hard": (0, 60, 27, 13)}
_MAX_EASY_IOU, _MAX_OTHER_IOU = 0.09, 0.45  # of further people with anyone, without and with a main pair
_NEAR_PAIR = 0.7  # probability that a further person stands near the main pair


@dataclass(frozen=True)
class SceneLayout:
    """A scene before rasterisation.

    Attributes:
        parts, outline: the body parts of all people.
        people: build and look of each person.
        poses: of each person.
        anchors: (people, 3) ground points x, y and depth in px.
        scales: (people,) px per metre.
        horizon: row in px.
    """

    parts: BodyParts
    outline: Outline
    people: list[tuple[Build, Look]]
    poses: list[Pose]
    anchors: np.ndarray
    scales: np.ndarray
    horizon: float


@dataclass(frozen=True)
class ScenePlan:
    """The requirements of a scene. Drawn once and kept over failed attempts, so that scenes that are hard to
    compose are not rarer."""

    crowd: int
    facing: bool  # the main pair embraces
    wanted: float  # box IoU of the main pair; 0 without one


def draw_plan(r: Random, difficulty: str) -> ScenePlan:
    crowd = r.choices((1, 2, 3, 4), weights=_CROWD[difficulty])[0]
    low, high = IOU_BANDS[difficulty]
    if difficulty == "hard":
        wanted = low + 0.02 + (high - low - 0.04) * r.betavariate(1.0, 1.55)
        return ScenePlan(crowd, r.random() < 0.5, wanted)
    return ScenePlan(crowd, False, 0.0 if difficulty == "easy" else r.uniform(low + 0.01, high - 0.01))


@dataclass(frozen=True)
class _Stage:
    """The ground plane: people lower in the image are nearer and larger."""

    scale: float
    feet: float
    camera: float  # height of the camera over the ground, metres

    def feet_of(self, scale: float) -> float:
        return self.feet + (scale - self.scale) * self.camera

    def depth_of(self, scale: float) -> float:
        return VIEW_DISTANCE * self.scale * (1.0 - self.scale / scale)


@dataclass(frozen=True)
class _Place:
    """Position of a person of the cast. ``lift``: depth in px in addition to that of the ground."""

    index: int
    scale: float
    x: float
    box: Box
    lift: float = 0.0


def clipped_iou(a: Box, b: Box) -> float:
    """IoU of two boxes after clipping both to the image."""
    ax0, ay0, ax1, ay1 = max(a[0], 0.0), max(a[1], 0.0), min(a[2], float(WIDTH)), min(a[3], float(HEIGHT))
    bx0, by0, bx1, by1 = max(b[0], 0.0), max(b[1], 0.0), min(b[2], float(WIDTH)), min(b[3], float(HEIGHT))
    w, h = min(ax1, bx1) - max(ax0, bx0), min(ay1, by1) - max(ay0, by0)
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - w * h)


def _at(unit: Box, scale: float, x: float, y: float) -> Box:
    return unit[0] * scale + x, unit[1] * scale + y, unit[2] * scale + x, unit[3] * scale + y


def _free_x(r: Random, unit: Box, scale: float) -> float:
    """A random x of the anchor (px) for which the box is inside the image, or sometimes partly outside."""
    spill = r.uniform(0.0, 0.35) * (unit[2] - unit[0]) * scale if r.random() < 0.12 else -2.0
    low, high = -spill - unit[0] * scale, WIDTH + spill - unit[2] * scale
    return r.uniform(low, high) if low < high else 0.5 * (low + high)


def _stage(r: Random, crowd: int) -> _Stage:
    camera = r.uniform(1.0, 1.9)
    if r.random() < 0.07:  # a close-up without feet
        scale = r.uniform(92, 125)
        return _Stage(scale, r.uniform(8, 22) + 1.78 * scale, camera)
    scale = r.uniform(*((64, 88), (60, 86), (54, 80), (48, 72))[crowd - 1])
    lowest = HEIGHT - 5.0
    return _Stage(scale, r.uniform(min(1.75 * scale + 6, lowest), lowest), camera)


def _join(
    r: Random, places: list[_Place], index: int, unit: Box, stage: _Stage, plan: ScenePlan
) -> _Place | None:
    """A position for a further person, often near the main pair; without a pair, apart from all others."""
    limit = min(_MAX_OTHER_IOU, 0.95 * plan.wanted) if plan.wanted else _MAX_EASY_IOU
    near = plan.wanted > 0 and r.random() < _NEAR_PAIR
    first = places[0].box
    for attempt in range(12):
        scale = stage.scale * r.uniform(0.8, 1.12)
        if near and attempt < 8:
            width = 0.5 * (first[2] - first[0] + (unit[2] - unit[0]) * scale)
            centre = 0.5 * (first[0] + first[2]) + r.choice((-1, 1)) * r.uniform(0.3, 1.1) * width
            x = centre - 0.5 * (unit[0] + unit[2]) * scale
            if not -unit[0] * scale < x < WIDTH - unit[2] * scale:
                continue
        else:
            x = _free_x(r, unit, scale)
        box = _at(unit, scale, x, stage.feet_of(scale))
        worst = max(clipped_iou(box, p.box) for p in places)
        if worst <= (limit if plan.wanted or attempt >= 7 else 0.0):
            return _Place(index, scale, x, box)
    return None


def _beside(first: Box, unit: Box, scale: float, y: float, step: int, wanted: float) -> float | None:
    """The x at which the box IoU is ``wanted``, in direction ``step`` from where the centres coincide.

    None if the IoU is lower even at the centre.
    """
    centre = 0.5 * (first[0] + first[2] - (unit[0] + unit[2]) * scale)

    def iou(offset: float) -> float:  # decreases with the offset
        return clipped_iou(first, _at(unit, scale, centre + step * offset, y))

    if iou(0.0) <= wanted:
        return None
    low, high = 0.0, 0.5 * (first[2] - first[0] + (unit[2] - unit[0]) * scale)
    for _ in range(14):
        middle = 0.5 * (low + high)
        if iou(middle) > wanted:
            low = middle
        else:
            high = middle
    return centre + step * (0.5 * (low + high))


@dataclass(frozen=True)
class _Cast:
    """All people who may appear: the first person, candidate partners, then the others."""

    people: list[tuple[Build, Look]]
    poses: list[Pose]
    parts: BodyParts
    outline: Outline
    units: list[Box]  # silhouettes at 1 px per metre, from the anchor
    partners: int


def _draw_cast(r: Random, plan: ScenePlan, side: int) -> _Cast:
    # High IoU needs boxes of similar shape.
    partners = 0 if not plan.wanted else 2 if plan.wanted < 0.6 else 4
    count = plan.crowd + max(partners - 1, 0)
    builds = [random_build(r) for _ in range(count)]
    if plan.facing:  # people who embrace may differ in height: a parent and a child
        tall = builds[0].stature
        small = max(tall * r.uniform(0.8, 1.0), 0.66)
        mine, theirs = r.choice(((tall, small), (small, tall)))
        builds[0] = replace(builds[0], stature=mine)
        builds[1 : 1 + partners] = [replace(b, stature=theirs) for b in builds[1 : 1 + partners]]
    looks = [random_look(r, b.bust > 0) for b in builds[: plan.crowd]]
    looks[1:2] = looks[1:2] * max(partners, 1)  # candidate partners share their clothes: only one is shown
    poses: list[Pose] = []
    yaws: list[float] = []
    for i in range(count):
        partner = 0 < i <= partners
        if plan.facing and (i == 0 or partner):
            poses.append(random_pose(r, hug))
            yaws.append((-90.0 if partner else 90.0) * side + r.gauss(0, 32))
        else:
            same = partner and r.random() < plan.wanted
            poses.append(random_pose(r, poses[0].family if same else None))
            yaws.append(r.gauss(0.0, 55.0) if r.random() < 0.45 else r.uniform(-180.0, 180.0))
    parts = build_parts(builds, looks, solve(builds, poses, yaws, r.uniform(-4, 12), r.gauss(0, 2.5)))
    shape = outline(parts)
    units: list[Box] = [(x0, y0, x1, y1) for x0, y0, x1, y1 in shape.boxes.tolist()]
    people = list(zip(builds, looks, strict=True))
    return _Cast(people, poses, parts, shape, units, partners)


def _partner(
    r: Random, plan: ScenePlan, stage: _Stage, first: _Place, cast: _Cast, side: int
) -> _Place | None:
    """The first candidate partner that can have the wanted IoU, at the position where it has."""
    # With arms stretched toward each other, boxes coincide while bodies are apart: move closer from there.
    step = -side if plan.facing else side
    for attempt in range(3 * cast.partners):
        i = 1 + attempt % cast.partners
        # Metres nearer than the first person: enough to be in front or behind, unless they face each other.
        gap = r.uniform(-0.12, 0.12) if plan.facing else r.choice((-1, 1)) * r.uniform(0.22, 0.8)
        scale = stage.scale / (1.0 - gap / VIEW_DISTANCE)
        unit, y = cast.units[i], stage.feet_of(scale)
        x = _beside(first.box, unit, scale, y, step, plan.wanted)
        if x is not None:
            # Bodies at one spot must not intersect: separate them in depth.
            closeness = max(0.0, 0.32 - abs(x - first.x) / scale)
            lift = max(0.0, closeness - abs(gap)) * (scale if gap > 0 else -scale)
            return _Place(i, scale, x, _at(unit, scale, x, y), lift)
    return None


def compose(r: Random, plan: ScenePlan) -> SceneLayout | None:
    """Draw random people, poses and positions; None if they do not meet the plan."""
    stage = _stage(r, plan.crowd)
    side = r.choice((-1, 1))  # the partner stands to the right or left of the first person
    cast = _draw_cast(r, plan, side)
    x = _free_x(r, cast.units[0], stage.scale)
    places = [_Place(0, stage.scale, x, _at(cast.units[0], stage.scale, x, stage.feet))]
    if plan.wanted:
        partner = _partner(r, plan, stage, places[0], cast, side)
        if partner is None:
            return None
        places.append(partner)
    for i in range(len(cast.units) - (plan.crowd - len(places)), len(cast.units)):
        other = _join(r, places, i, cast.units[i], stage, plan)
        if other is None:
            return None
        places.append(other)

    shown = [p.index for p in places]
    return SceneLayout(
        parts=cast.parts.only(shown),
        outline=cast.outline.only(shown),
        people=[cast.people[i] for i in shown],
        poses=[cast.poses[i] for i in shown],
        anchors=np.array([(p.x, stage.feet_of(p.scale), stage.depth_of(p.scale) + p.lift) for p in places]),
        scales=np.array([p.scale for p in places]),
        horizon=stage.feet - stage.scale * stage.camera,
    )
