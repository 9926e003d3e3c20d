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
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from mipnet.errors import UserError
from mipnet.registry.judge import Judgement
from mipnet.registry.store import CHAMPION, Registry, number_of

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

LINE = "champions"
"""The tag of the registered model with the line of champions, as JSON."""
LONGEST_LINE = 40
"""So many are remembered: a tag holds 5000 characters."""
OLD_MOVE = "champion."
"""Begins the names of the tags by which mipnet remembered it before, one for each move of the alias."""


class Champion(NamedTuple):
    """One of the line.

    Attributes:
        version: its number.
        how: it came to that, e.g. "accepted".
        at, by: when (ISO 8601, UTC) and by whom.
    """

    version: int
    how: str
    at: str
    by: str


def champions(registry: Registry, present: int = 0) -> list[Champion]:
    """The line of champions; at its end who bears the alias now (0: nobody), even if it was set by hand."""
    tags = registry.client.get_registered_model(registry.model).tags
    if LINE in tags:
        return _with_present([Champion(*entry) for entry in json.loads(tags[LINE])], present)
    line: list[Champion] = []
    for move in [json.loads(value) for name, value in sorted(tags.items()) if name.startswith(OLD_MOVE)]:
        line, how = _with_present(line, move["previous"]), move["decision"]
        if move["action"] == "rollback":
            how = f"rolled back from {move['previous']}"
            while line and line.pop().version != move["version"]:
                pass
        line.append(Champion(move["version"], how, move["at"], move["by"]))
    return _with_present(line, present)


def make_champion(registry: Registry, version: ModelVersion, how: str, expected: int) -> None:
    """Give the alias to a version.

    Args:
        registry: the version's.
        version: the new champion.
        how: it came to that, to remember.
        expected: whose the alias is thought to be, 0 for nobody's.

    Raises:
        UserError: it is somebody else's by now; nothing is changed then.
    """
    _move(registry, champions(registry, expected), number_of(version), how, expected)


def roll_back(registry: Registry) -> tuple[int, int, list[int]]:
    """Make the champion before the present one champion again.

    Returns:
        the champion now, the one before (0 for none), and those between them that were deleted.

    Raises:
        UserError: there is none to go back to.
    """
    number, line = number_of(registry.champion()), champions(registry)
    there = {number_of(version) for version in registry.versions()} - {number}
    deleted = []
    while line and line[-1].version not in there:
        deleted.append(line.pop().version)
    deleted = [earlier for earlier in deleted if earlier != number]
    if not line:
        gone = f"; deleted: {', '.join(map(str, deleted))}" if deleted else ""
        raise UserError(f"{registry.model} has no earlier champion{gone}", "promote a version instead", 1)
    now = line.pop().version
    _move(registry, line, now, f"rolled back from {number or 'none'}", number)
    return now, number, deleted


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
    at, by = _stamp()
    said = {
        "promotion": decision,
        "promotion.against": str(against or "none"),
        "promotion.at": at,
        "promotion.by": by,
        "promotion.reason": judgement.reason,
        "promotion.figures": "; ".join(judgement.lines),
    }
    figures = [asdict(figure) for figure in judgement.figures]
    content = {"version": number_of(version), **said, "figures": figures, "table": table.splitlines()}
    path = f"promotion/version-{version.version}-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.json"
    said["promotion.record"] = registry.keep(version, path, content)
    for name, value in said.items():
        registry.client.set_model_version_tag(registry.model, str(version.version), name, value)


def decision_line(version: ModelVersion) -> str:
    """What was decided of it last, and why; "" if nothing was."""
    names = ("promotion", *(f"promotion.{name}" for name in ("against", "at", "by", "reason")))
    decision, against, at, by, reason = (version.tags.get(name, "") for name in names)
    because = f": {reason}" if reason else ""
    return f"{decision} against {against}, {at} by {by}{because}" if decision else ""


def _with_present(line: list[Champion], present: int) -> list[Champion]:
    if not present or (line and line[-1].version == present):
        return line
    return [*line, Champion(present, "set by hand", "-", "somebody")]


def _move(registry: Registry, earlier: list[Champion], version: int, how: str, expected: int) -> None:
    check_unmoved(registry, expected)
    registry.client.set_registered_model_alias(registry.model, CHAMPION, str(version))
    line = [*earlier, Champion(version, how, *_stamp())][-LONGEST_LINE:]
    registry.client.set_registered_model_tag(registry.model, LINE, json.dumps(line))
    if registry.aliases().get(CHAMPION) != version:  # MLflow cannot compare and set
        raise UserError("somebody else moved the champion just now", "mipnet registry list shows it", 1)


def _stamp() -> tuple[str, str]:
    """When, and who is at the keyboard as far as the system knows."""
    user = "unknown"
    with contextlib.suppress(OSError, KeyError, ImportError):  # a container may have no name for its user
        user = getpass.getuser()
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", user
