"""Who is champion, who was, and who decided so: nothing of it is ever overwritten.

The alias ``champion`` is MLflow's. Each move of it is a tag of its own on the registered model, so that two
people at once cannot lose one another's; the decision about a version is a tag of the version and, with the
table that it rests on, an artifact of its run.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from mipnet.errors import UserError
from mipnet.tracking.versions import CHAMPION, Registry, Version

MOVE = "champion."
"""Begins the names of the tags that hold the moves; the rest is when."""
DECISIONS = "promotion"
"""Folder of decisions among the artifacts of a version's run."""

Decision = Literal["accepted", "refused", "forced"]


@dataclass(frozen=True)
class Move:
    """The alias went from one version to another.

    Attributes:
        action: by which command.
        version: the champion since then.
        previous: the one before, 0 if there was none.
        decision: how it came to that.
        at, by: when (ISO 8601, UTC) and by whom.
    """

    action: Literal["promote", "rollback"]
    version: int
    previous: int
    decision: str
    at: str
    by: str


def moves(registry: Registry) -> list[Move]:
    """All moves of the alias by these commands, the first first."""
    tags = registry.client.get_registered_model(registry.model).tags
    return [Move(**json.loads(value)) for name, value in sorted(tags.items()) if name.startswith(MOVE)]


def earlier_champions(done: Sequence[Move], current: int) -> list[int]:
    """To whom rollbacks lead, the nearest last.

    A promotion adds the champion of its time, a rollback goes back to one and forgets those after it. Whom
    somebody made champion by hand counts from the next move on.

    Args:
        done: all moves.
        current: the champion now, 0 if there is none.
    """
    line: list[int] = []
    for move in done:
        if move.previous and line[-1:] != [move.previous]:
            line.append(move.previous)
        if move.action == "rollback" and move.version in line:
            del line[len(line) - line[::-1].index(move.version) :]
        else:
            line.append(move.version)
    return line[:-1] if line[-1:] == [current] else line


def move_champion(
    registry: Registry,
    version: Version,
    expected: int,
    action: Literal["promote", "rollback"],
    decision: str,
) -> None:
    """Give the alias to a version, and remember whose it was.

    Args:
        registry: the version's.
        version: the new champion.
        expected: whose the alias is thought to be, 0 for nobody's.
        action, decision: to remember.

    Raises:
        UserError: it is somebody else's by now; nothing is changed then.
    """
    check_unmoved(registry, expected)
    registry.client.set_registered_model_alias(registry.model, CHAMPION, str(version.number))
    now = datetime.now(UTC)
    move = Move(action, version.number, expected, decision, f"{now:%Y-%m-%dT%H:%M:%SZ}", person())
    name = f"{MOVE}{now:%Y%m%dT%H%M%S.%f}.{uuid.uuid4().hex[:4]}"
    registry.client.set_registered_model_tag(registry.model, name, json.dumps(asdict(move)))
    after = registry.aliases().get(CHAMPION, 0)
    if after != version.number:  # MLflow cannot compare and set: somebody came in between
        raise UserError(
            f"somebody made version {after} champion at the same moment", "look with mipnet registry list", 1
        )


def check_unmoved(registry: Registry, expected: int) -> None:
    """Raise UserError if the champion is not the one that was looked at."""
    now = registry.aliases().get(CHAMPION, 0)
    if now != expected:
        raise UserError(
            f"the champion moved from version {expected or 'none'} to {now or 'none'} in the meantime; "
            "nothing was changed",
            "the same command looks at the new one",
            1,
        )


def roll_back(registry: Registry) -> tuple[Version, Version | None, list[int]]:
    """Make the champion before the present one champion again.

    Returns:
        the champion now, the one before, and those between them that are skipped because they were deleted.

    Raises:
        UserError: there is none to go back to.
    """
    current = registry.champion()
    number = current.number if current else 0
    there = {version.number: version for version in registry.versions()}
    skipped: list[int] = []
    for earlier in reversed(earlier_champions(moves(registry), number)):
        if earlier == number:  # what lay between was deleted
            continue
        if earlier in there:
            move_champion(registry, there[earlier], number, "rollback", "")
            return registry.find(str(earlier)), current, skipped
        skipped.append(earlier)
    gone = f"; deleted: {', '.join(map(str, skipped))}" if skipped else ""
    raise UserError(f"{registry.model} has no earlier champion{gone}", "promote a version instead", 1)


def record_decision(
    registry: Registry,
    version: Version,
    decision: Decision,
    against: Version | None,
    reason: str,
    figures: Sequence[str],
    text: str,
    values: Mapping[str, Any],
) -> None:
    """Keep what was decided about a version: the last decision as tags, each of them as artifacts of its run.

    Args:
        registry: the version's.
        version: the candidate.
        decision: what was decided.
        against: the champion that it was compared with.
        reason: one clause; "" if it was simply good enough.
        figures: those that decided, a line each.
        text: the comparison for people.
        values: the comparison for programs.
    """
    now = datetime.now(UTC)
    said = {
        "promotion": decision,
        "promotion.against": str(against.number) if against else "none",
        "promotion.at": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "promotion.by": person(),
        "promotion.reason": reason,
        "promotion.figures": "; ".join(figures),
    }
    path = f"{DECISIONS}/version-{version.number}-{now:%Y%m%dT%H%M%S.%f}"
    heading = f"# Version {version.number}: {decision}" + (f" ({reason})" if reason else "")
    record = json.dumps({**said, "version": version.number, **values}, indent=2)
    registry.keep_text(version, f"{path}.json", record)
    said["promotion.record"] = registry.keep_text(version, f"{path}.md", f"{heading}\n\n```\n{text}\n```\n")
    for name, value in said.items():
        registry.client.set_model_version_tag(registry.model, str(version.number), name, value)


def person() -> str:
    """Who is at the keyboard, as far as the system knows."""
    with contextlib.suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return "unknown"
