"""The journal: whole records in the order in which processes began, the first of each step."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from mipnet.storage import Folder
from mipnet.tracking import journal
from mipnet.tracking.journal import JOURNAL_FOLDER, Journal, JournalReader


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.of(tmp_path / "run")


@pytest.fixture
def remote() -> Folder:
    """A folder that takes whole objects only, as object stores do."""
    pytest.importorskip("fsspec")
    return Folder.of(f"fsspec+memory://journal-{os.getpid()}/run")


def new(reader: JournalReader) -> list[tuple[str, Any, bool]]:
    return [(e.record["do"], e.record.get("step"), e.repeated) for e in reader.read()]


def test_records_are_read_once_and_in_order(folder: Folder) -> None:
    reader = JournalReader(folder)
    assert new(reader) == []
    worker, validation = Journal(folder, "worker"), Journal(folder, "validation")
    worker.add("started", step=0)
    worker.add_row("training", {"step": 4, "loss": 1.0})
    validation.add_row("validation", {"step": 4, "AP": 0.5})
    assert new(reader) == [("started", 0, False), ("training", 4, False), ("validation", 4, False)]
    worker.add_row("training", {"step": 8, "loss": float("nan")})
    assert new(reader) == [("training", 8, False)]
    assert new(reader) == []


def test_the_first_record_of_a_step_counts_whoever_reads_when(folder: Folder) -> None:
    live = JournalReader(folder)
    first = Journal(folder, "worker")
    for step in (4, 8, 12):
        first.add_row("training", {"step": step, "loss": 1.0, "time": step})
    assert len(new(live)) == 3
    second = Journal(folder, "worker")  # of the process that replaces it
    for step in (8, 12, 16):
        second.add_row("training", {"step": step, "loss": 2.0, "time": 100 + step})
    assert new(live) == [("training", 8, True), ("training", 12, True), ("training", 16, False)]
    told = [e.record["row"] for e in JournalReader(folder).read() if not e.repeated]
    assert [(row["step"], row["loss"], row["time"]) for row in told] == [
        (4, 1.0, 4),
        (8, 1.0, 8),
        (12, 1.0, 12),
        (16, 2.0, 116),
    ]


def test_files_are_ordered_by_their_begin_also_beyond_nine(folder: Folder) -> None:
    for step in range(12):
        Journal(folder, "validation").add("metrics", step=step)
    assert [step for _, step, _ in new(JournalReader(folder))] == list(range(12))


def test_a_line_that_is_cut_is_waited_for(folder: Folder) -> None:
    one, reader = Journal(folder, "worker"), JournalReader(folder)
    one.add("metrics", step=1)
    (path,) = (folder.local_path / JOURNAL_FOLDER).iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:10])
    assert new(reader) == []
    path.write_bytes(whole)
    assert new(reader) == [("metrics", 1, False)]


@pytest.mark.parametrize("odd", [b"\xff\xfe", b"[1]", b'{"step": 3}', b'{"do": 5}', b"null", b'{"do": "met'])
def test_a_damaged_line_costs_itself_and_is_named(folder: Folder, odd: bytes) -> None:
    one, reader = Journal(folder, "worker"), JournalReader(folder)
    one.add("metrics", step=1)
    (path,) = (folder.local_path / JOURNAL_FOLDER).iterdir()
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(odd + b"\n\n")
    one.add("metrics", step=2)
    assert new(reader) == [("metrics", 1, False), ("metrics", 2, False)]
    assert reader.damaged == [f"{path.name}, byte {size}"]


def test_what_a_full_disk_does_not_take_follows_when_there_is_room(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, reader = Journal(folder, "worker"), JournalReader(folder)
    one.add("metrics", step=1)

    class Full:
        """A file on a disk with room for seven bytes."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.file, self.room = open(*arguments, **options), 7  # noqa: SIM115

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, content: bytes) -> int:
            if not self.room:
                raise OSError(28, "No space left on device")
            taken, self.room = self.file.write(content[: self.room]), 0
            return int(taken)

    monkeypatch.setattr(journal, "open", Full, raising=False)
    one.add("metrics", step=2)
    one.add("metrics", step=3)
    assert not one.flush()
    monkeypatch.undo()
    assert new(reader) == [("metrics", 1, False)]
    one.add("metrics", step=4)
    assert one.flush()
    assert [step for _, step, _ in new(reader)] == [2, 3, 4]
    assert not reader.damaged


def test_what_is_flushed_is_on_the_disk(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power failure keeps a checkpoint, which is, so it must keep the records before it."""
    synced: list[int] = []
    monkeypatch.setattr(journal.os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    one = Journal(folder, "worker")
    assert one.flush()
    one.add("metrics", step=1)
    assert synced == []
    assert one.flush()
    (path,) = (folder.local_path / JOURNAL_FOLDER).iterdir()
    assert synced == [path.stat().st_ino]

    def fail(file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(journal.os, "fsync", fail)
    assert not one.flush()


def test_an_object_store_gets_growing_objects_of_a_limited_size(
    remote: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "PART_BYTES", 200)
    monkeypatch.setattr(journal, "SECONDS_BETWEEN_PARTS", 1e9)
    one, reader = Journal(remote, "worker"), JournalReader(remote)
    found = []
    for step in range(20):
        one.add("metrics", step=step)
        if step % 3 == 0:
            assert one.flush()
            found += [s for _, s, _ in new(reader)]
            assert found == list(range(step + 1))
    one.flush()
    sizes = remote.join(JOURNAL_FOLDER).stats()
    assert 2 < len(sizes) < 10
    assert [s for _, s, _ in new(JournalReader(remote))] == list(range(20))


def test_nobody_waits_while_records_are_put_into_an_object_store(
    remote: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, write = threading.Event(), Folder.write

    def slow(*arguments: Any) -> None:
        assert may_write.wait(60)
        write(*arguments)

    monkeypatch.setattr(Folder, "write", slow)
    one = Journal(remote.join("slow"), "worker")
    for step in range(3):
        one.add("metrics", step=step)
    assert new(JournalReader(remote.join("slow"))) == []
    may_write.set()
    assert one.flush()
    assert [step for _, step, _ in new(JournalReader(remote.join("slow")))] == [0, 1, 2]
