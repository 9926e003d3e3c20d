"""The champion: moves of the alias, the history for rollbacks, and the decisions about candidates.

The alias ``champion`` is MLflow's. The history of champions, the current one last, is one tag of the
registered model, not of the versions, because a deleted version's tags cannot be read any more. A
promotion appends to the history and a rollback removes from it, so rollbacks end even if a version is in it
twice.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from mipnet.errors import UserError
from mipnet.registry.judge import Judgement
from mipnet.registry.store import CHAMPION, Registry, version_number
from mipnet.tracking.provenance import user_name

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPIONS_TAG = "champions"
"""Tag of the registered model with the history of champions, as JSON."""
MAX_CHAMPIONS = 40
"""Length of the history: a tag holds 5000 characters."""
OLD_MOVE_TAG_PREFIX = "champion."
"""Prefix of older versions' tags, one for each move of the alias."""

logger = logging.getLogger(__name__)


class Champion(NamedTuple):
    """An entry of the history.

    Attributes:
        version: number of the version.
        how: reason of the move, e.g. "accepted".
        at, by: time (ISO 8601, UTC) and user.
    """

    version: int
    how: str
    at: str
    by: str


def champions(registry: Registry, current: int = 0) -> list[Champion]:
    """The history of champions; ends with ``current``, the alias's version (0: none), even if set by hand."""
    tags = registry.client.get_registered_model(registry.model).tags
    if CHAMPIONS_TAG in tags:
        return _with_current([Champion(*entry) for entry in json.loads(tags[CHAMPIONS_TAG])], current)
    history: list[Champion] = []
    moves = sorted(tag for tag in tags.items() if tag[0].startswith(OLD_MOVE_TAG_PREFIX))
    for move in (json.loads(value) for _, value in moves):
        history, how = _with_current(history, move["previous"]), move["decision"]
        if move["action"] == "rollback":
            how = f"rolled back from {move['previous']}"
            while history and history.pop().version != move["version"]:
                pass
        history.append(Champion(move["version"], how, move["at"], move["by"]))
    return _with_current(history, current)


def make_champion(registry: Registry, version: ModelVersion, how: str, expected: int) -> None:
    """Move the alias to a version.

    Args:
        registry: the registered model.
        version: the new champion.
        how: reason, for the history.
        expected: number of the alias's current version, 0 for none.

    Raises:
        UserError: the alias has moved in the meantime; nothing is changed then.
    """
    _move(registry, champions(registry, expected), version_number(version), how, expected)


def roll_back(registry: Registry) -> tuple[int, int, list[int]]:
    """Move the alias back to the previous champion.

    Returns:
        number of the champion now, of the one before (0 for none), and of deleted versions between them.

    Raises:
        UserError: there is no earlier champion.
    """
    number, history = version_number(registry.champion()), champions(registry)
    existing = {version_number(version) for version in registry.versions()} - {number}
    deleted = []
    while history and history[-1].version not in existing:
        deleted.append(history.pop().version)
    deleted = [earlier for earlier in deleted if earlier != number]
    if not history:
        gone = f"; deleted: {', '.join(map(str, deleted))}" if deleted else ""
        raise UserError(f"{registry.model} has no earlier champion{gone}", "promote a version instead", 1)
    now = history.pop().version
    _move(registry, history, now, f"rolled back from {number or 'none'}", number)
    return now, number, deleted


def check_champion_unchanged(registry: Registry, expected: int) -> None:
    """Raise UserError if the champion is not the version ``expected`` (0 for none)."""
    now = registry.aliases().get(CHAMPION, 0)
    if now != expected:
        moved = f"the champion moved from version {expected or 'none'} to {now or 'none'} in the meantime"
        raise UserError(f"{moved}; nothing was changed", "the same command looks at the new one", 1)


def record_decision(
    registry: Registry,
    version: ModelVersion,
    decision: str,
    *,
    against: int,
    judgement: Judgement,
    table: str,
) -> None:
    """Record a decision about a version: the last one as tags of the version, all as artifacts of its run.

    Args:
        registry: the registered model.
        version: the candidate.
        decision: "accepted", "refused" or "forced".
        against: number of the champion in the comparison, 0 for none.
        judgement: the reasons.
        table: the comparison as text.
    """
    at, by = _stamp()
    decision_tags = {
        "promotion": decision,
        "promotion.against": str(against or "none"),
        "promotion.at": at,
        "promotion.by": by,
        "promotion.reason": judgement.reason,
        "promotion.figures": "; ".join(judgement.lines),
    }
    figures = [asdict(figure) for figure in judgement.figures]
    content = {"version": version_number(version), **decision_tags, "figures": figures}
    content["table"] = table.splitlines()
    path = f"promotion/version-{version.version}-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.json"
    decision_tags["promotion.record"] = registry.log_dict(version, path, content)
    for name, value in decision_tags.items():
        registry.client.set_model_version_tag(registry.model, str(version.version), name, value)


def decision_line(version: ModelVersion) -> str:
    """The last decision about a version and its reason; "" if there is none."""
    names = ("promotion", *(f"promotion.{name}" for name in ("against", "at", "by", "reason")))
    decision, against, at, by, reason = (version.tags.get(name, "") for name in names)
    because = f": {reason}" if reason else ""
    return f"{decision} against {against}, {at} by {by}{because}" if decision else ""


def _with_current(history: list[Champion], current: int) -> list[Champion]:
    if not current or (history and history[-1].version == current):
        return history
    return [*history, Champion(current, "set by hand", "-", "somebody")]


def _move(registry: Registry, earlier: list[Champion], version: int, how: str, expected: int) -> None:
    check_champion_unchanged(registry, expected)
    registry.client.set_registered_model_alias(registry.model, CHAMPION, str(version))
    history = [*earlier, Champion(version, how, *_stamp())][-MAX_CHAMPIONS:]
    registry.client.set_registered_model_tag(registry.model, CHAMPIONS_TAG, json.dumps(history))
    logger.info("%s: champion %d -> %d (%s)", registry.model, expected, version, how)
    if registry.aliases().get(CHAMPION) != version:  # MLflow has no compare-and-set
        raise UserError("somebody else moved the champion just now", "mipnet registry list shows it", 1)


def _stamp() -> tuple[str, str]:
    """Time (ISO 8601, UTC) and user name."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", user_name() or "unknown"
