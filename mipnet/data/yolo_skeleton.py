"""The skeleton that a data.yaml of YOLO-pose describes, as far as it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mipnet.data.categories import fold
from mipnet.data.joint_names import UNKNOWN_SIGMA, known_sigmas, mirrored_pairs
from mipnet.data.json_values import whole_number
from mipnet.errors import DataError
from mipnet.skeletons import COCO17, SKELETONS, Skeleton

MOST_KEYPOINTS = 1000
"""Of a person; the time that the checks of a skeleton take grows with the square of their number."""


@dataclass(frozen=True)
class YoloSkeleton:
    """What a data.yaml says about the joints.

    Attributes:
        skeleton: built-in where the joints are those of one, else of its own.
        mirrored: whether it is known which joints change places in a mirror.
        notes: what was guessed, one line each.
    """

    skeleton: Skeleton
    mirrored: bool
    notes: tuple[str, ...]


def keypoint_shape(content: Mapping[str, Any], where: str) -> tuple[int, int]:
    """``kpt_shape``: how many keypoints, and 2 or 3 numbers for each.

    Raises:
        DataError: there is none, or it is none.
    """
    given = content.get("kpt_shape")
    if given is None:
        raise DataError(
            f"{where} has no kpt_shape", "give the data.yaml of a data set for pose, not for boxes"
        )
    numbers = [whole_number(n) for n in given] if isinstance(given, list | tuple) else []
    if len(numbers) != 2 or numbers[0] is None or numbers[0] < 1 or numbers[1] not in (2, 3):
        hint = "give the number of keypoints, and 2 (x, y) or 3 (x, y, visibility): [17, 3]"
        raise DataError(f"{where}: kpt_shape {given!r:.50} cannot be used", hint)
    if numbers[0] > MOST_KEYPOINTS:
        raise DataError(
            f"{where}: kpt_shape {given!r:.50} is too large", f"{MOST_KEYPOINTS} keypoints at most"
        )
    return numbers[0], numbers[1]


def yolo_skeleton(content: Mapping[str, Any], count: int, name: str, where: str, person: int) -> YoloSkeleton:
    """The skeleton of a data.yaml.

    Joints of known names have the OKS constants and limbs of COCO and CrowdPose.

    Args:
        content: of the file.
        count: K, of ``kpt_shape``.
        name: what to call a skeleton of its own.
        where: the file lies, for messages.
        person: index of the people's class, which ``kpt_names`` may have names for.

    Raises:
        DataError: names or mirrored joints that do not fit the keypoints.
    """
    names, order = _names(content, count, where, person), _mirror(content, count, where)
    for known in SKELETONS.values():
        fits = order in (None, list(known.flip_permutation))
        if names and fits and [*map(fold, names)] == [*map(fold, known.joints)]:
            return YoloSkeleton(known, True, ())
    if not names and order == list(COCO17.flip_permutation):
        note = "joints have no names (kpt_names); they are taken for COCO's, whose flip_idx this is"
        return YoloSkeleton(COCO17, True, (note,))
    notes = [] if names else ["joints have no names (kpt_names): joint_1, joint_2, …"]
    joints = names or [f"joint_{i}" for i in range(1, count + 1)]
    folded = [fold(joint) for joint in joints]
    if order is None:
        pairs = mirrored_pairs(joints)
        what = ", ".join(f"{joints[a]} = {joints[b]}" for a, b in pairs) or "unknown: nothing is mirrored"
        notes.append(f"there is no flip_idx; joints that change places in a mirror: {what}")
    else:
        pairs = [(i, other) for i, other in enumerate(order) if i < other]
    known_constants = known_sigmas(joints)
    unknown = [joint for joint, sigma in zip(joints, known_constants, strict=True) if sigma is None]
    rest = f"{UNKNOWN_SIGMA} for {', '.join(unknown) if len(unknown) < count else 'all'}"
    notes.append("OKS constants (sigmas) are not part of the format: " + (rest if unknown else "COCO's"))
    limbs = [
        (folded.index(a), folded.index(b))
        for a, b in ((fold(COCO17.joints[i]), fold(COCO17.joints[j])) for i, j in COCO17.limbs)
        if a in folded and b in folded
    ]
    sigmas = tuple(sigma or UNKNOWN_SIGMA for sigma in known_constants)
    name = f"{name}-joints" if name in SKELETONS else name
    skeleton = Skeleton(name, tuple(joints), sigmas, tuple(pairs), tuple(limbs), ())
    return YoloSkeleton(skeleton, bool(pairs) or order is not None, tuple(notes))


def _names(content: Mapping[str, Any], count: int, where: str, person: int) -> list[str]:
    """``kpt_names``: a list, or one for each class, or names by number; [] if there are none."""
    given = content.get("kpt_names")
    if isinstance(given, Mapping):
        of_class = given.get(person, next(iter(given.values()), None))
        given = of_class if isinstance(of_class, list) else list(given.values())
    if not given:
        return []
    if not isinstance(given, list) or len(given) != count:
        found = len(given) if isinstance(given, list) else 1
        raise DataError(
            f"{where}: kpt_names has {found} names for {count} keypoints", "mend one of them there"
        )
    return [str(name) for name in given]


def _mirror(content: Mapping[str, Any], count: int, where: str) -> list[int] | None:
    """``flip_idx``: for each keypoint that of the mirrored person; None if there is none."""
    given = content.get("flip_idx")
    if not given:
        return None
    order = [whole_number(i) for i in given] if isinstance(given, list) else []
    known = [i for i in order if i is not None]
    if sorted(known) != list(range(count)) or any(known[known[i]] != i for i in known):
        hint = f"give {count} indices that name each keypoint once and change places in pairs"
        raise DataError(f"{where}: flip_idx {given!r:.60} is no mirror of {count} keypoints", hint)
    return known
