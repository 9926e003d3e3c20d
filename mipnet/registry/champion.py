"""Who is champion, who was before, and what was decided of whom.

The alias ``champion`` is MLflow's. The line of champions, the present one last, is one tag of the registered
model: a version's tags cannot be read any more when it is deleted, and the way further back would be lost
with it. A promotion makes the line longer and a rollback makes it shorter, so rollbacks come to an end even
where a version is in it twice.
"""

from __future__ import annotations

import contextlib
import getpass
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mipnet.errors import UserError
from mipnet.registry.judge import Judgement
from mipnet.registry.store import CHAMPION, Registry, number_of

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

LINE = "champions"
"""The tag of the registered model with the line of champions: their numbers, with spaces between them."""
LONGEST_LINE = 500
"""Champions that are remembered: a tag holds 5000 characters."""
OLD_MOVE = "champion."
"""Begins the names of the tags by which mipnet remembered it before, one for each move of the alias."""
ROLLED_BACK = "rolled back"


def champions(registry: Registry) -> list[int]:
    """The line of champions; an alias that was set by hand is not in it yet."""
    tags = registry.client.get_registered_model(registry.model).tags
    if LINE in tags:
        return [int(number) for number in tags[LINE].split()]
    line: list[int] = []
    for _, move in sorted(tag for tag in tags.items() if tag[0].startswith(OLD_MOVE)):
        done = json.loads(move)
        line = _with_present(line, done["previous"])
        if done["action"] == "rollback" and done["version"] in line:
            while line[-1] != done["version"]:
                line.pop()
        else:
            line.append(done["version"])
    return line


def make_champion(registry: Registry, version: ModelVersion, expected: int) -> None:
    """Give the alias to a version.

    Args:
        registry: the version's.
        version: the new champion.
        expected: whose the alias is thought to be, 0 for nobody's.

    Raises:
        UserError: it is somebody else's by now; nothing is changed then.
    """
    line = _with_present(champions(registry), expected)
    _move(registry, [*line, number_of(version)], expected)


def roll_back(registry: Registry) -> tuple[int, int, list[int]]:
    """Make the champion before the present one champion again.

    Returns:
        the champion now, the one before (0 for none), and those between them that were deleted.

    Raises:
        UserError: there is none to go back to.
    """
    current, line = registry.champion(), champions(registry)
    number, there = number_of(current), {number_of(version) for version in registry.versions()}
    deleted = []
    while line and line[-1] not in there - {number}:
        if (last := line.pop()) != number:
            deleted.append(last)
    if not line:
        gone = f"; deleted: {', '.join(map(str, deleted))}" if deleted else ""
        raise UserError(f"{registry.model} has no earlier champion{gone}", "promote a version instead", 1)
    _move(registry, line, number)
    if current:
        _set_tags(registry, current, _decided(ROLLED_BACK, line[-1], ""))
    return line[-1], number, deleted


def check_unmoved(registry: Registry, expected: int) -> None:
    """Raise UserError if the champion is not the one that was looked at."""
    now = registry.aliases().get(CHAMPION, 0)
    if now != expected:
        moved = f"the champion moved from version {expected or 'none'} to {now or 'none'} in the meantime"
        raise UserError(f"{moved}; nothing was changed", "the same command looks at the new one", 1)


def record_decision(
    registry: Registry, version: ModelVersion, decision: str, against: int, judgement: Judgement, table: str
) -> None:
    """Keep what was decided of a version: the last decision as its tags, each as an artifact of its run.

    Args:
        registry: the version's.
        version: the candidate.
        decision: "accepted", "refused" or "forced".
        against: number of the champion that it was compared with, 0 if there was none.
        judgement: why.
        table: the comparison, for people.
    """
    said = _decided(decision, against, judgement.reason)
    said["promotion.figures"] = "; ".join(judgement.lines)
    figures = [asdict(figure) for figure in judgement.figures]
    content = {"version": number_of(version), **said, "figures": figures, "table": table.splitlines()}
    path = f"promotion/version-{version.version}-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.json"
    said["promotion.record"] = registry.keep(version, path, content)
    _set_tags(registry, version, said)


def decision_line(version: ModelVersion) -> str:
    """What was decided of it last, and why; "" if nothing was."""
    names = ("promotion", *(f"promotion.{name}" for name in ("against", "at", "by", "reason")))
    decision, against, at, by, reason = (version.tags.get(name, "") for name in names)
    word = "to" if decision == ROLLED_BACK else "against"
    because = f": {reason}" if reason else ""
    return f"{decision} {word} {against}, {at} by {by}{because}" if decision else ""


def _with_present(line: list[int], present: int) -> list[int]:
    """The line with the champion of now at its end, who may have been made so by hand; 0 is nobody."""
    return [*line, present] if present and line[-1:] != [present] else line


def _move(registry: Registry, line: list[int], expected: int) -> None:
    check_unmoved(registry, expected)
    client, model, number = registry.client, registry.model, line[-1]
    client.set_registered_model_alias(model, CHAMPION, str(number))
    client.set_registered_model_tag(model, LINE, " ".join(map(str, line[-LONGEST_LINE:])))
    if registry.aliases().get(CHAMPION) != number:  # MLflow cannot compare and set
        raise UserError("somebody else moved the champion just now", "mipnet registry list shows it", 1)


def _decided(decision: str, against: int, reason: str) -> dict[str, str]:
    """The tags of a decision that is taken now."""
    user = "unknown"
    with contextlib.suppress(OSError, KeyError, ImportError):  # a container may have no name for its user
        user = getpass.getuser()
    return {
        "promotion": decision,
        "promotion.against": str(against or "none"),
        "promotion.at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "promotion.by": user,
        "promotion.reason": reason,
    }


def _set_tags(registry: Registry, version: ModelVersion, tags: Mapping[str, str]) -> None:
    for name, value in tags.items():
        registry.client.set_model_version_tag(registry.model, str(version.version), name, value)
