"""The alias moves on and back; whoever was champion, and what was decided of whom, is remembered."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator

import pytest

from mipnet.errors import UserError
from mipnet.registry.champion import (
    Champion,
    champions,
    decision_line,
    make_champion,
    record_decision,
    roll_back,
)
from mipnet.registry.judge import Figure, Judgement
from mipnet.registry.store import CHAMPION, Registry, open_registry
from mipnet.storage import Folder
from mipnet.tracking.store import prepare_mlflow

Step = tuple[str, int]
"""What becomes of the alias: "promote" or "rollback" to a version by the commands, "hand" without them."""

FIGURE = Figure("occlusion AP", "hard", "gt", "AP", 30.0, 20.0, 1.0)
WORSE = Judgement((FIGURE,))


@pytest.fixture
def registry(
    request: pytest.FixtureRequest, model_store: Folder, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Registry]:
    """A model of five versions of one run, named after the test; they have no weights."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    prepare_mlflow(model_store)
    from mlflow import MlflowClient

    client = MlflowClient()
    name = "".join(c for c in request.node.name if c.isalnum())
    place = model_store.join("mlartifacts").uri
    run = client.create_run(client.create_experiment(name, artifact_location=place))
    client.create_registered_model(name)
    for _ in range(5):
        client.create_model_version(name, place, run.info.run_id)
    with open_registry(model_store, name) as found:
        yield found


def now(registry: Registry) -> int:
    return registry.aliases().get(CHAMPION, 0)


def line(registry: Registry) -> list[int]:
    return [champion.version for champion in champions(registry)]


def by_hand(registry: Registry, number: int) -> None:
    if number:
        registry.client.set_registered_model_alias(registry.model, CHAMPION, str(number))
    else:
        registry.client.delete_registered_model_alias(registry.model, CHAMPION)


def promote(registry: Registry, *numbers: int) -> None:
    for number in numbers:
        make_champion(registry, registry.find(str(number)), "accepted", now(registry))


def all_rollbacks(registry: Registry) -> list[int]:
    """To whom rollbacks lead until there is nobody; a line of five versions cannot lead to more than ten."""
    led: list[int] = []
    with contextlib.suppress(UserError):
        while len(led) < 10:
            led.append(roll_back(registry)[0])
            assert now(registry) == led[-1]
    with pytest.raises(UserError, match="has no earlier champion"):
        roll_back(registry)
    return led


CASES: list[tuple[list[Step], list[int]]] = [
    ([], []),
    ([("hand", 4)], []),
    ([("promote", 1)], []),
    ([("promote", 1), ("promote", 2), ("promote", 3)], [2, 1]),
    ([("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 2)], [1]),
    ([("promote", 1), ("promote", 2), ("rollback", 1), ("promote", 3)], [1]),
    ([("promote", 1), ("promote", 2), ("promote", 1)], [2, 1]),  # in it twice: no circle
    ([("promote", 5), ("promote", 1), ("promote", 2), ("promote", 1), ("promote", 2)], [1, 2, 1, 5]),
    ([("hand", 1), ("promote", 2)], [1]),
    ([("promote", 1), ("promote", 2), ("hand", 5)], [2, 1]),
    ([("promote", 1), ("promote", 2), ("hand", 1)], [2, 1]),
    ([("promote", 1), ("promote", 2), ("hand", 0)], [2, 1]),  # the alias was taken away
    ([("promote", 1), ("promote", 2), ("hand", 5), ("rollback", 2)], [1]),
]


@pytest.mark.parametrize(("steps", "led"), CASES)
def test_whom_rollbacks_lead_to(registry: Registry, steps: list[Step], led: list[int]) -> None:
    for action, number in steps:
        if action == "promote":
            promote(registry, number)
        elif action == "hand":
            by_hand(registry, number)
        else:
            assert roll_back(registry)[0] == number
    assert all_rollbacks(registry) == led


@pytest.mark.parametrize(("steps", "led"), CASES)
def test_the_line_that_commit_3205fb3_wrote_is_read(
    registry: Registry, steps: list[Step], led: list[int]
) -> None:
    """It kept each move of the alias as a tag of the registered model."""
    for second, (action, number) in enumerate(steps):
        if action != "hand":
            move = {
                "action": action,
                "version": number,
                "previous": now(registry),
                "decision": "accepted" if action == "promote" else "",
                "at": f"2026-11-25T17:33:{second:02}Z",
                "by": "me",
            }
            tag = f"champion.20261125T1733{second:02}.123456.ab{second}d"
            registry.client.set_registered_model_tag(registry.model, tag, json.dumps(move))
        by_hand(registry, number)
    assert all_rollbacks(registry) == led


def test_a_line_goes_on_where_commit_3205fb3_left_it(registry: Registry) -> None:
    moves = [("promote", 1, 0), ("promote", 2, 1), ("promote", 3, 2), ("rollback", 2, 3)]
    for second, (action, number, previous) in enumerate(moves):
        decision = "forced" if action == "promote" else ""
        move = {"action": action, "version": number, "previous": previous, "decision": decision}
        move |= {"at": f"2026-11-25T17:33:{second:02}Z", "by": "me"}
        tag = f"champion.20261125T1733{second:02}.000000.abcd"
        registry.client.set_registered_model_tag(registry.model, tag, json.dumps(move))
    by_hand(registry, 2)
    assert champions(registry, 2) == [
        Champion(1, "forced", "2026-11-25T17:33:00Z", "me"),
        Champion(2, "rolled back from 3", "2026-11-25T17:33:03Z", "me"),
    ]
    promote(registry, 4)
    assert line(registry) == [1, 2, 4]
    assert all_rollbacks(registry) == [2, 1]


def test_what_commit_3205fb3_decided_is_read(registry: Registry) -> None:
    said = {
        "promotion": "forced",
        "promotion.against": "1",
        "promotion.at": "2026-11-25T17:33:08Z",
        "promotion.by": "me",
        "promotion.reason": "easy AP falls by 2.00 (tolerance 1.00)",
        "promotion.figures": "easy AP: 2.0 -> 0.0",
        "promotion.record": "runs:/0/promotion/version-2-20261125T173308.000000.md",
    }
    for name, value in said.items():
        registry.client.set_model_version_tag(registry.model, "2", name, value)
    assert decision_line(registry.find("2")) == (
        "forced against 1, 2026-11-25T17:33:08Z by me: easy AP falls by 2.00 (tolerance 1.00)"
    )
    assert decision_line(registry.find("1")) == ""


def test_the_line_tells_how_each_became_champion(registry: Registry) -> None:
    promote(registry, 1, 2, 3)
    roll_back(registry)
    by_hand(registry, 5)
    found = champions(registry, now(registry))
    assert [(one.version, one.how) for one in found] == [
        (1, "accepted"),
        (2, "rolled back from 3"),
        (5, "set by hand"),
    ]
    assert all(re.fullmatch(r"20..-..-..T..:..:..Z", one.at) and one.by for one in found[:2])


def test_a_long_line_forgets_its_beginning(registry: Registry) -> None:
    entry = Champion(12345, "rolled back from 12346", "2026-11-25T17:33:08Z", "somebody.with.a.long.name")
    registry.client.set_registered_model_tag(registry.model, "champions", json.dumps([entry] * 40))
    promote(registry, 1, 2)
    found = line(registry)
    assert (len(found), found[-2:]) == (40, [1, 2])
    assert len(registry.client.get_registered_model(registry.model).tags["champions"]) < 5000


def test_a_deleted_champion_is_passed_over_and_said(registry: Registry) -> None:
    promote(registry, 1, 2, 3, 4)
    for number in ("2", "3"):
        registry.client.delete_model_version(registry.model, number)
    assert roll_back(registry) == (1, 4, [3, 2])
    assert line(registry) == [1]


def test_rollback_where_all_earlier_champions_were_deleted_changes_nothing(registry: Registry) -> None:
    promote(registry, 1, 2)
    registry.client.delete_model_version(registry.model, "1")
    with pytest.raises(UserError, match="has no earlier champion; deleted: 1; promote a version instead"):
        roll_back(registry)
    assert now(registry) == 2
    assert line(registry) == [1, 2]


def test_the_champion_itself_may_be_deleted(registry: Registry) -> None:
    promote(registry, 1, 2)
    registry.client.delete_model_version(registry.model, "2")  # and MLflow its alias
    assert roll_back(registry) == (1, 0, [2])


def test_what_lies_between_a_champion_and_itself_was_deleted(registry: Registry) -> None:
    promote(registry, 3, 1, 2, 1)
    registry.client.delete_model_version(registry.model, "2")
    assert roll_back(registry) == (3, 1, [2])


def test_a_champion_that_moved_in_between_is_left_alone(registry: Registry) -> None:
    promote(registry, 1, 2)
    with pytest.raises(UserError, match="moved from version 1 to 2 in the meantime; nothing was changed"):
        make_champion(registry, registry.find("3"), "accepted", 1)
    assert now(registry) == 2
    assert line(registry) == [1, 2]


def test_who_is_faster_by_a_moment_is_said(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    promote(registry, 1)
    set_tag = registry.client.set_registered_model_tag

    def meanwhile(*args: str) -> None:
        by_hand(registry, 5)
        set_tag(*args)

    monkeypatch.setattr(registry.client, "set_registered_model_tag", meanwhile)
    with pytest.raises(UserError, match="somebody else moved the champion just now"):
        promote(registry, 2)
    assert now(registry) == 5


def test_decisions_are_tags_and_each_is_kept_with_the_run(registry: Registry) -> None:
    candidate = registry.find("2")
    record_decision(registry, candidate, "refused", against=1, judgement=WORSE, table="a table\nof lines")
    record_decision(registry, candidate, "accepted", against=0, judgement=Judgement(()), table="another")
    tags = registry.find("2").tags
    assert (tags["promotion"], tags["promotion.against"], tags["promotion.reason"]) == (
        "accepted",
        "none",
        "",
    )
    import mlflow

    assert mlflow.artifacts.load_dict(tags["promotion.record"])["table"] == ["another"]
    files = [f.path for f in registry.client.list_artifacts(candidate.run_id, "promotion")]
    assert len(files) == 2
    first = mlflow.artifacts.load_dict(f"runs:/{candidate.run_id}/{min(files)}")
    assert (first["version"], first["promotion"], first["promotion.against"]) == (2, "refused", "1")
    assert first["promotion.reason"] == "occlusion AP falls by 10.00 (tolerance 1.00)"
    assert first["table"] == ["a table", "of lines"]
    assert first["figures"][0]["candidate"] == 20.0


def test_a_version_whose_run_was_deleted_keeps_its_decisions_as_tags(registry: Registry) -> None:
    version = registry.find("2")
    registry.client.delete_run(version.run_id)
    record_decision(registry, version, "refused", against=1, judgement=WORSE, table="a table")
    tags = registry.find("2").tags
    assert (tags["promotion"], tags["promotion.record"]) == ("refused", "")
    assert tags["promotion.figures"] == (
        "occlusion AP (AP of hard in gt boxes): 30.0 -> 20.0 (-10.00, may fall by 1.00: too much)"
    )
