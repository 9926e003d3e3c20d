"""The journal of a run: what its processes record, as JSON lines in the run's folder.

Each process appends to a file of its own, so that none waits for another, and no lost process, node or server
takes a record with it. The driver reads them all, for MLflow and for the screen.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mipnet.errors import UserError
from mipnet.storage import Folder

JOURNAL_FOLDER = "records"
PART_BYTES = 256 * 1024
SECONDS_BETWEEN_PARTS = 10.0
"""Object stores cannot append: records are put there together, at most so often, as one growing object."""

Record = dict[str, Any]
"""``do``: its kind; ``time``: when it was made, in ms since 1970; the other keys depend on the kind. Of those
with the same ``once`` and ``step``, only the first counts."""

logger = logging.getLogger(__name__)


def seconds_between_reads(folder: Folder) -> float:
    """How long a reader waits for more: a file system costs nothing to look at, an object store a request."""
    return 0.5 if folder.is_local else SECONDS_BETWEEN_PARTS / 2


class Journal:
    """Writes the records of one process.

    Args:
        run_folder: of the run.
        source: what writes them: "driver", "artifacts", "worker", "validation" or "controller".
    """

    def __init__(self, run_folder: Folder, source: str) -> None:
        self.folder, self.source = run_folder.join(JOURNAL_FOLDER), source
        self._name = ""
        self._part, self._waiting = b"", b""  # what the last object has; what is not written yet
        self._written = 0.0
        self._lock, self._turn = threading.Lock(), threading.Lock()  # of what waits; of those who write

    def add(self, kind: str, **values: Any) -> None:
        """Record something; a storage that cannot be written raises nothing, the next call tries again.

        On a file system it is written at once; in an object store together with others, by a thread, because
        a training would wait for the request.
        """
        record = {"do": kind, "time": int(time.time() * 1000), **values}
        with self._lock:
            self._waiting += json.dumps(record).encode() + b"\n"
        if self.folder.is_local:
            with self._turn:
                self._write()
        elif time.monotonic() - self._written > SECONDS_BETWEEN_PARTS:
            self._written = time.monotonic()
            threading.Thread(target=self.flush, name="journal", daemon=True).start()

    def add_row(self, kind: str, row: Mapping[str, float]) -> None:
        """Record the metrics of a step, "training" or "validation"; the first of a step counts."""
        made = {"time": row["time"]} if "time" in row else {}
        self.add(kind, once=kind, step=int(row["step"]), row=dict(row), **made)

    def flush(self) -> bool:
        """Write what waits, and bring it from the system's memory to the disk; whether all of it is there.

        ``add`` does not do that, because a disk takes milliseconds for it, each time.
        """
        with self._turn:
            self._write()
            if self.folder.is_local and self._name and not self._waiting:
                return self._sync()
            return not self._waiting

    def _sync(self) -> bool:
        try:
            sync(self.folder, self._name)
        except OSError:
            logger.warning("cannot write to %s", self.folder.uri, exc_info=True)
            return False
        return True

    def _write(self) -> None:
        with self._lock:
            waiting = self._waiting
        if not waiting:
            return
        try:
            if not self._name or len(self._part) > PART_BYTES:
                self._name, self._part = self._new_name(), b""
            if self.folder.is_local:
                self._append(waiting)
            else:
                self._written = time.monotonic()
                self.folder.write(self._name, self._part + waiting)
                self._part += waiting
                self._done(len(waiting))
        except (OSError, UserError):  # what is recorded must not end what is done
            logger.warning("cannot write to %s, tried again later", self.folder.uri, exc_info=True)

    def _append(self, waiting: bytes) -> None:
        path = self.folder.local_path / self._name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            while waiting:  # a disk that fills takes a part; the rest follows when there is room
                written = file.write(waiting)
                waiting = waiting[written:]
                self._done(written)

    def _done(self, size: int) -> None:
        """Forget so many bytes of what waits: they are written."""
        with self._lock:
            self._waiting = self._waiting[size:]

    def _new_name(self) -> str:
        """Numbered, so that readers find the files of a restarted process after those of the first one."""
        numbers = [int(name.partition("-")[0]) for name in self.folder.stats() if name[0].isdigit()]
        return f"{max(numbers, default=0) + 1:06d}-{self.source}-{uuid.uuid4().hex[:8]}.jsonl"


def sync(folder: Folder, name: str) -> None:
    """Bring a file of a local folder from the system's memory to the disk, whoever has written it.

    Raises:
        OSError: the disk does not take it.
    """
    with open(folder.local_path / name, "rb") as file:
        os.fsync(file.fileno())


@dataclass(frozen=True)
class Entry:
    """A record and where it stands.

    Attributes:
        file, begin: its file and the byte at which it begins.
        record: itself.
        repeated: an earlier record has the same ``once`` and ``step``.
    """

    file: str
    begin: int
    record: Record
    repeated: bool


class JournalReader:
    """Reads a run's journal from its beginning, in the order in which processes began to write.

    Args:
        run_folder: of the run.

    Attributes:
        positions: file -> byte up to which it is read.
        damaged: places of lines that are no records.
    """

    def __init__(self, run_folder: Folder) -> None:
        self.folder = run_folder.join(JOURNAL_FOLDER)
        self.positions: dict[str, int] = {}
        self.damaged: list[str] = []
        self._seen: set[tuple[str, Any]] = set()

    def read(self) -> Iterator[Entry]:
        """All records since the last call; a line that is not whole yet comes with a later one.

        Raises:
            OSError, UserError: the storage cannot be read.
        """
        for name, stat in sorted(self.folder.stats().items()):
            begin = self.positions.get(name, 0)
            if stat.size <= begin or not name.endswith(".jsonl"):
                continue
            for line in self.folder.read_from(name, begin).split(b"\n")[:-1]:
                self.positions[name] = begin + len(line) + 1
                if record := self._parse(line, f"{name}, byte {begin}"):
                    yield Entry(name, begin, record, self._is_repeated(record))
                begin = self.positions[name]

    def sync(self, names: Collection[str]) -> None:
        """Bring files of the journal to the disk; an object store has what it shows.

        Raises:
            OSError: the disk does not take it.
        """
        for name in names if self.folder.is_local else ():
            sync(self.folder, name)

    def _parse(self, line: bytes, place: str) -> Record | None:
        if not line:
            return None
        try:
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("do"), str):
                return record
        except ValueError:
            pass
        self.damaged.append(place)
        logger.warning("not a record: %s of %s", place, self.folder.uri)
        return None

    def _is_repeated(self, record: Record) -> bool:
        if "once" not in record:
            return False
        key = str(record["once"]), record.get("step")
        known = key in self._seen
        self._seen.add(key)
        return known


def first_rows(reader: JournalReader, kind: str) -> list[dict[str, float]]:
    """What is new of a kind of rows, of each step the first; without odd ones.

    Raises:
        OSError, UserError: as ``JournalReader.read``.
    """
    records = [entry.record for entry in reader.read() if entry.record["do"] == kind and not entry.repeated]
    rows = [record["row"] for record in records if isinstance(record.get("row"), dict)]
    return [row for row in rows if isinstance(row.get("step"), int | float)]
