"""The alias moves on and back, and nothing of its history is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mipnet.errors import UserError
from mipnet.storage import Folder
from mipnet.tracking.champions import (
    Move,
    earlier_champions,
    move_champion,
    moves,
    record_decision,
    roll_back,
)
from mipnet.tracking.versions import CHAMPION, Registry, open_registry

Register = Callable[..., int]


def move(action: str, version: int, previous: int) -> Move:
    return Move(action, version, previous, "", "2026-01-01T00:00:00Z", "me")  # type: ignore[arg-type]


def promoted(version: int, previous: int) -> Move:
    return move("promote", version, previous)


def back(version: int, previous: int) -> Move:
    return move("rollback", version, previous)


@pytest.mark.parametrize(
    ("done", "current", "earlier"),
    [
        ([], 0, []),
        ([], 4, []),
        ([promoted(1, 0)], 1, []),
        ([promoted(1, 0), promoted(2, 1), promoted(3, 2)], 3, [1, 2]),
        ([promoted(1, 0), promoted(2, 1), promoted(3, 2), back(2, 3)], 2, [1]),
        ([promoted(1, 0), promoted(2, 1), promoted(3, 2), back(2, 3), back(1, 2)], 1, []),
        ([promoted(1, 0), promoted(2, 1), back(1, 2), promoted(3, 1)], 3, [1]),
        ([promoted(1, 0), promoted(2, 1), promoted(1, 2)], 1, [1, 2]),
        ([promoted(2, 1)], 2, [1]),  # 1 was made champion by hand
        ([promoted(1, 0), promoted(2, 1)], 5, [1, 2]),  # now 5, by hand
        ([promoted(1, 0), promoted(2, 1)], 0, [1, 2]),  # the alias was taken away
        ([promoted(1, 0), promoted(2, 1), back(2, 5)], 2, [1]),
        ([promoted(3, 0), promoted(4, 3), promoted(5, 3)], 5, [3, 4, 3]),  # two at the same moment
    ],
)
def test_whom_a_rollback_leads_to(done: list[Move], current: int, earlier: list[int]) -> None:
    assert earlier_champions(done, current) == earlier


@pytest.fixture
def registry(request: pytest.FixtureRequest, register: Register, model_store: Folder) -> Iterator[Registry]:
    """A model of three versions, named after the test."""
    register(request.node.name)
    with open_registry(model_store, request.node.name) as found:
        first = found.find("1")
        for _ in range(2):  # of the same weights: only who is who matters here
            found.client.create_model_version(found.model, first.uri, first.run_id)
        yield found


def promote(registry: Registry, number: int) -> None:
    expected = registry.aliases().get(CHAMPION, 0)
    move_champion(registry, registry.find(str(number)), expected, "promote", "accepted")


def test_rollback_twice_walks_further_back(registry: Registry) -> None:
    for number in (1, 2, 3):
        promote(registry, number)
    for expected in (2, 1):
        now, before, skipped = roll_back(registry)
        assert (now.number, before and before.number) == (expected, expected + 1)
        assert CHAMPION in now.aliases
        assert not skipped
        assert registry.aliases()[CHAMPION] == expected
    with pytest.raises(UserError, match="has no earlier champion"):
        roll_back(registry)
    assert registry.aliases()[CHAMPION] == 1
    told = [(m.action, m.previous, m.version) for m in moves(registry)]
    assert told == [
        ("promote", 0, 1),
        ("promote", 1, 2),
        ("promote", 2, 3),
        ("rollback", 3, 2),
        ("rollback", 2, 1),
    ]
    assert all(m.by and m.at for m in moves(registry))


def test_a_deleted_champion_is_passed_over(registry: Registry) -> None:
    for number in (1, 2, 3):
        promote(registry, number)
    registry.client.delete_model_version(registry.model, "2")
    now, _, skipped = roll_back(registry)
    assert (now.number, skipped) == (1, [2])


def test_a_champion_that_moved_in_between_is_left_alone(registry: Registry) -> None:
    promote(registry, 1)
    promote(registry, 2)
    with pytest.raises(UserError, match="moved from version 1 to 2 in the meantime; nothing was changed"):
        move_champion(registry, registry.find("3"), 1, "promote", "accepted")
    assert registry.aliases()[CHAMPION] == 2
    assert len(moves(registry)) == 2


def test_decisions_are_tags_and_all_of_them_are_kept_with_the_run(registry: Registry) -> None:
    candidate, champion = registry.find("2"), registry.find("1")
    record_decision(
        registry, candidate, "refused", champion, "it is worse", ["AP: 1 -> 0"], "a table", {"figures": [1]}
    )
    record_decision(registry, candidate, "accepted", None, "", ["AP: 1"], "another", {})
    assert registry.find("2").tags["promotion.figures"] == "AP: 1"
    tags = registry.find("2").tags
    assert (tags["promotion"], tags["promotion.against"], tags["promotion.reason"]) == (
        "accepted",
        "none",
        "",
    )
    import mlflow

    assert "another" in mlflow.artifacts.load_text(tags["promotion.record"])
    files = [f.path for f in registry.client.list_artifacts(candidate.run_id, "promotion")]
    assert len(files) == 4
    first = mlflow.artifacts.load_dict(f"runs:/{candidate.run_id}/{min(files)}")
    assert (first["promotion"], first["promotion.against"], first["figures"]) == ("refused", "1", [1])


def test_a_version_whose_run_was_deleted_keeps_its_decisions_as_tags(registry: Registry) -> None:
    version = registry.find("2")
    registry.client.delete_run(version.run_id)
    record_decision(registry, version, "accepted", None, "", ["AP: 1"], "a table", {})
    tags = registry.find("2").tags
    assert (tags["promotion"], tags["promotion.figures"], tags["promotion.record"]) == (
        "accepted",
        "AP: 1",
        "",
    )
