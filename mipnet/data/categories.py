"""The category of a COCO file whose keypoints a skeleton describes, and the order of these keypoints."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mipnet.data.json_values import id_key, shown
from mipnet.errors import DataError, suggest
from mipnet.skeletons import Skeleton

SAME_JOINT = {"tophead": "head", "headtop": "head"}
SIDES = {"l": "left", "r": "right"}
PERSON_NAMES = ("person", "people", "human", "pedestrian")
"""Names of the people's category, folded."""


@dataclass(frozen=True)
class Category:
    """The people's category.

    Attributes:
        entry: as it stands in the file, its keypoints' names in the skeleton's order.
        ids: all ids that stand for it, see ``id_key``: kinds of animals with the same keypoints are taken
            for one.
        orders: id -> (K,) indices that bring keypoints of the file into the skeleton's order; only where
            they differ.
        notes: what was decided, one line each.
    """

    entry: dict[str, Any]
    ids: frozenset[int | str]
    orders: dict[int | str, np.ndarray]
    notes: tuple[str, ...]


def choose_category(content: dict[str, Any], skeleton: Skeleton, where: str, wanted: str = "") -> Category:
    """The category whose keypoints are the skeleton's.

    Args:
        content: of a COCO file, with lists of categories and annotations.
        skeleton: K joints.
        where: the file lies, for messages.
        wanted: name or id of the category (``data.category``); "" takes whatever fits.

    Raises:
        DataError: a category without id, none of that name, or none that fits; shows both lists of joints.
    """
    categories = content["categories"]
    for category in categories:
        if not isinstance(category, dict) or id_key(category.get("id")) is None:
            raise DataError(f"{where} has a category without id", "give a COCO keypoint annotation file")
    candidates = _named(categories, where, wanted) if wanted else categories
    named = [c for c in candidates if joint_names(c)]
    if not named:
        return _without_names(content, candidates, skeleton, bool(wanted))
    notes, orders, fitting, problems = [], {}, [], []
    for category in named:
        order, problem = joint_order(joint_names(category), skeleton)
        if problem:
            problems.append(problem)
            continue
        fitting.append(category)
        if order is None and are_numbered(joint_names(category), skeleton):
            notes.append(f"category {_label(category)} numbers its keypoints; {taken_in_order(skeleton)}")
        if order is not None:
            orders[_key(category)] = order
            notes.append(f"keypoints of category {_label(category)} were brought into the skeleton's order")
    if not fitting:
        raise DataError(f"{where} {problems[0]}", "choose the skeleton with --data.skeleton")
    if len(fitting) > 1:
        notes.append(f"{len(fitting)} categories with keypoints; they are taken for one")
    others = len(named) - len(fitting)
    if others:
        notes.append(f"categories with other keypoints than skeleton {skeleton.name}, left out: {others}")
    entry = {**fitting[0], "keypoints": list(skeleton.joints)}
    return Category(entry, frozenset(_key(c) for c in fitting), orders, tuple(notes))


def joint_order(names: Sequence[str], skeleton: Skeleton) -> tuple[np.ndarray | None, str]:
    """How a file's keypoints come into the skeleton's order.

    Args:
        names: of the file's keypoints.
        skeleton: the order that is wanted.

    Returns:
        (K,) indices into the file's keypoints, None where they are in order; what is wrong, "" for nothing.
    """
    if len(names) != skeleton.num_joints:
        return None, (
            f"annotates {len(names)} keypoints but skeleton {skeleton.name} has {skeleton.num_joints}: "
            f"{', '.join(names)} in the file, {', '.join(skeleton.joints)} in the skeleton"
        )
    if are_numbered(names, skeleton):
        return None, ""
    for spelled in (same_text, fold):  # spelled alike first: head_top is not head where both are there
        ours, theirs = ([spelled(name) for name in each] for each in (skeleton.joints, names))
        if len({*ours}) == len({*theirs}) == len(ours) and {*ours} == {*theirs}:
            return None if ours == theirs else np.array([theirs.index(name) for name in ours]), ""
    only = [name for name, folded in zip(names, theirs, strict=True) if folded not in ours]
    lacking = [name for name, folded in zip(skeleton.joints, ours, strict=True) if folded not in theirs]
    return None, (
        f"annotates other joints than skeleton {skeleton.name}: {', '.join(only) or 'one of them twice'} in "
        f"place of {', '.join(lacking)}"
    )


def are_numbered(names: Sequence[str], skeleton: Skeleton) -> bool:
    """Whether a file numbers its keypoints (``1``, ``kp_1``, …), as the skeleton does not."""
    rests = {re.sub(r"\d+", "", name) for name in names}
    return len(names) > 1 and len(rests) == 1 and {*names} != {*skeleton.joints}


def same_text(name: str) -> str:
    """A name without what Unicode and letter case can write otherwise."""
    return unicodedata.normalize("NFC", name).casefold()


def taken_in_order(skeleton: Skeleton) -> str:
    return f"they are taken in the order of skeleton {skeleton.name}"


def fold(name: str) -> str:
    """A joint's name without case, spaces, ``_``, ``-``, and with its side written out, before the rest."""
    letters = r"[^\W\d_a-zA-Z]"  # of other alphabets, and with accents
    found = re.findall(rf"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|{letters}+", unicodedata.normalize("NFC", name))
    words = [SIDES.get(word.lower(), word.casefold()) for word in found]
    folded = "".join(sorted(words, key=lambda word: word not in SIDES.values()))
    return SAME_JOINT.get(folded, folded)


def joint_names(category: dict[str, Any]) -> list[str]:
    """The names of a category's keypoints, [] if it has none."""
    names = category.get("keypoints")
    return [str(name) for name in names] if isinstance(names, list | tuple) else []


def _named(categories: list[dict[str, Any]], where: str, wanted: str) -> list[dict[str, Any]]:
    found = [c for c in categories if wanted == str(c.get("name")) or id_key(wanted) == _key(c)]
    if not found:
        choices = [str(c.get("name", c["id"])) for c in categories]
        raise DataError(f"{where} has no category {wanted!r}", suggest(wanted, choices))
    return found


def _without_names(
    content: dict[str, Any], candidates: list[dict[str, Any]], skeleton: Skeleton, chosen: bool
) -> Category:
    """No category names its joints: the one that people bear, of all or of those that were chosen."""
    count = Counter(
        id_key(a.get("category_id"))
        for a in content["annotations"]
        if isinstance(a, dict) and isinstance(a.get("keypoints"), list) and a["keypoints"]
    )
    persons = [c for c in candidates if fold(str(c.get("name"))) in PERSON_NAMES]
    if not chosen and persons:
        candidates = persons
    entry = max(candidates, key=lambda c: count[_key(c)], default={"id": 1, "name": "person"})
    note = f"no category names its keypoints; {taken_in_order(skeleton)}"
    known = {**entry, "keypoints": list(skeleton.joints)}
    return Category(known, frozenset([_key(entry)]), {}, (note,) if count else ())


def _key(category: dict[str, Any]) -> int | str:
    key = id_key(category["id"])
    assert key is not None  # checked by choose_category
    return key


def _label(category: dict[str, Any]) -> str:
    return f"{shown(category['id'])} {shown(category.get('name', ''))}"
