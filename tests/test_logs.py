"""The log files of a run."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from mipnet import logs
from mipnet.console import say
from mipnet.logs import RunLogHandler, attach_libraries, driver_log, worker_log
from mipnet.storage import Folder


def lines_of(folder: Path, name: str = "driver.log") -> list[str]:
    """Level, logger and message of each line."""
    return [line.split(" ", 2)[2] for line in (folder / "logs" / name).read_text().splitlines()]


def test_driver_log_has_what_is_said_and_warnings_of_all(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with driver_log(Folder.of(tmp_path)):
        say("hello")
        logging.getLogger("mipnet.data").info("read twice")
        logging.getLogger("mipnet.data").warning("slow")
        logging.getLogger("somebody").info("never mind")
        logging.getLogger("somebody").warning("beware")
    logging.getLogger("mipnet.data").warning("not in a run")
    assert lines_of(tmp_path) == [
        "INFO    mipnet.console: hello",
        "INFO    mipnet.data: read twice",
        "WARNING mipnet.data: slow",
        "WARNING somebody: beware",
    ]
    said = capfd.readouterr()
    assert said.out == "hello\n"
    assert "slow" not in said.err


def test_driver_log_is_continued_and_keeps_what_ended_it(tmp_path: Path) -> None:
    with driver_log(Folder.of(tmp_path)):
        say("first")
    with pytest.raises(ValueError, match="broken"), driver_log(Folder.of(tmp_path)):
        raise ValueError("broken")
    text = (tmp_path / "logs" / "driver.log").read_text()
    assert "first" in text
    assert "ValueError: broken" in text


def test_driver_log_of_an_object_store_is_written_when_saved_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folder, "is_local", property(lambda folder: False))
    monkeypatch.setattr(Folder, "exists", lambda folder, name: (tmp_path / name).exists())
    monkeypatch.setattr(Folder, "read", lambda folder, name: (tmp_path / name).read_bytes())

    def write(folder: Folder, name: str, content: bytes) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)

    monkeypatch.setattr(Folder, "write", write)
    for _ in range(2):
        with driver_log(Folder("s3://bucket/run")) as save:
            say("one")
            save()
            saved = lines_of(tmp_path)
            say("two")
    assert saved == ["INFO    mipnet.console: " + word for word in ("one", "two", "one")]
    assert len(lines_of(tmp_path)) == 4


def test_driver_log_that_cannot_be_written_does_not_end_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    with driver_log(Folder.of(tmp_path)):
        say("still here")
    assert capfd.readouterr().out == "still here\n"


def test_attach_libraries_keeps_their_screen_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    library = logging.getLogger("mlflow")
    kept = library.handlers, library.level, library.propagate
    shared = logging.StreamHandler()  # as Ray's logger has those of the root
    library.handlers, library.propagate = [shared], False
    library.setLevel(logging.ERROR)
    try:
        with driver_log(Folder.of(tmp_path)):
            attach_libraries()
            library.warning("only in the file")
            library.error("on the screen, too")
        shared.handle(
            logging.makeLogRecord({"name": "mlflows.own", "levelno": logging.INFO, "msg": "as before"})
        )
    finally:
        library.handlers, library.level, library.propagate = kept
    assert lines_of(tmp_path) == ["WARNING mlflow: only in the file", "ERROR   mlflow: on the screen, too"]
    assert capfd.readouterr().err == "on the screen, too\nas before\n"


def test_worker_log_has_the_rank_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[logging.Handler] = []
    install = logs.install
    monkeypatch.setattr(logs, "install", lambda handler: (installed.append(handler), install(handler)))
    worker_log(Folder.of(tmp_path), 3)
    logging.getLogger("mipnet.training").info("started")
    logs.uninstall(installed[0])
    assert lines_of(tmp_path, "worker-3.log") == ["INFO    mipnet.training: started"]
    worker_log(Folder("s3://bucket/run"), 0)
    assert len(installed) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is full")
def test_a_log_that_cannot_be_written_hides_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    handler = RunLogHandler(Path("/dev/full"))
    handler.emit(logging.makeLogRecord({"name": "mipnet", "levelno": logging.INFO, "msg": "something"}))
    handler.close()
    assert capfd.readouterr().err == ""
