"""A run in an object store is worked on by one process at a time."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mipnet import lease as lease_module
from mipnet.config import preset
from mipnet.errors import UserError
from mipnet.lease import holders, lease
from mipnet.run_folder import locked, open_run
from mipnet.storage import Folder

NUMBERS = itertools.count()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Folder:
    pytest.importorskip("fsspec")
    monkeypatch.setattr(lease_module, "LEASE_SECONDS", 2.0)
    return Folder.of(f"fsspec+memory://lease-{next(NUMBERS)}/store")


def test_a_second_process_is_refused_and_told_who_holds_it(store: Folder) -> None:
    run = open_run(store, preset("debug"), "mine")
    with (
        locked(run),
        pytest.raises(
            UserError, match=r"run mine is being worked on by another process \(.+ \d+ \d+\); wait"
        ),
        locked(run),
    ):
        pass
    with locked(run):
        pass
    assert holders(run.folder.join("lock")) == {}


def test_the_lease_of_a_killed_process_ends(store: Folder) -> None:
    store.write("dead", "host 1 7")
    with lease(store, "busy", ""):
        assert store.names() != ["dead"]
        assert len(store.names()) == 1
    assert store.names() == []


def test_a_lease_is_given_back_after_an_error(store: Folder) -> None:
    with pytest.raises(KeyError), lease(store, "busy", ""):
        raise KeyError
    assert store.names() == []


def test_of_many_at_once_never_two_have_it(store: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Folder, others: object, refused: UserError) -> None:
        raise refused

    monkeypatch.setattr(lease_module, "_wait_for_end", refuse)
    begin, changed = threading.Barrier(8), threading.Condition()
    outcomes: list[str] = []

    def work(_: int) -> None:
        begin.wait()
        try:
            with lease(store, "busy", ""), changed:
                outcomes.append("held")
                assert changed.wait_for(lambda: outcomes.count("refused") == 7, timeout=60)
        except UserError:
            with changed:
                outcomes.append("refused")
                changed.notify_all()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert outcomes.count("held") <= 1
    assert store.names() == []
