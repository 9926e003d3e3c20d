"""Log files of a run: ``logs/driver.log`` and ``logs/worker-RANK.log`` in its folder.

The files get our own loggers from INFO on, all other loggers from WARNING on. The screen stays as it is.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from mipnet.errors import UserError
from mipnet.storage import Folder

logger = logging.getLogger(__name__)

LOGS_FOLDER = "logs"
DRIVER_LOG = f"{LOGS_FOLDER}/driver.log"
LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
OUR_LOGGERS = ("mipnet", "tune")
LIBRARY_LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune", "mlflow")
"""Loggers with levels and screen handlers of their own, of which most do not propagate to the root logger."""


class RunLogHandler(logging.FileHandler):
    """Appends to a log file; a full disk must not print a traceback for every record, or end the command."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(path, encoding="utf-8")
        self.setFormatter(logging.Formatter(LOG_FORMAT))
        self.addFilter(wanted)

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):  # which would take the place of the command's own error
            super().close()


def wanted(record: logging.LogRecord) -> bool:
    """Whether a record belongs in the file."""
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] in OUR_LOGGERS


@contextmanager
def driver_log(run_folder: Folder) -> Iterator[Callable[[], None]]:
    """Log this process to the run's folder for the time of the ``with`` block, after what is there.

    Yields:
        a function that brings the file in an object store up to date; the block's end calls it as well.
        On a file system the log is written in place.
    """
    with contextlib.ExitStack() as stack:
        save: Callable[[], None] = lambda: None  # noqa: E731
        if run_folder.is_local:
            path = run_folder.local_path / DRIVER_LOG
        else:
            path = Path(stack.enter_context(TemporaryDirectory(prefix="mipnet-log-"))) / "driver.log"
            if run_folder.exists(DRIVER_LOG):
                path.write_bytes(run_folder.read(DRIVER_LOG))

            def save() -> None:
                try:
                    run_folder.write(DRIVER_LOG, path.read_bytes())
                except (OSError, UserError):  # the log is not worth the run
                    logger.warning("cannot write %s", run_folder.path(DRIVER_LOG), exc_info=True)

        try:
            handler = RunLogHandler(path)
        except OSError:  # likewise
            logger.warning("cannot write %s", path, exc_info=True)
            yield save
            return
        install(handler)
        try:
            yield save
        except BaseException:
            logger.exception("ended by an exception")
            raise
        finally:
            uninstall(handler)
            save()


def worker_log(run_folder: Folder, rank: int) -> None:
    """Log this process to ``logs/worker-RANK.log`` from now on, if that is on a file system."""
    if not run_folder.is_local:
        return
    try:
        install(RunLogHandler(run_folder.local_path / LOGS_FOLDER / f"worker-{rank}.log"))
    except OSError:
        logger.warning("no log of worker %d in %s", rank, run_folder.uri, exc_info=True)


def install(handler: logging.Handler) -> None:
    """Send our loggers, the root logger and those of libraries to a handler."""
    root = logging.getLogger()
    if not root.handlers and logging.lastResort:
        root.addHandler(logging.lastResort)  # shows libraries' warnings, as Python does without any handler
    root.addHandler(handler)
    for name in OUR_LOGGERS:
        ours = logging.getLogger(name)
        ours.setLevel(logging.INFO)
        ours.propagate = False
        ours.addHandler(handler)
    attach_libraries()


def uninstall(handler: logging.Handler) -> None:
    """Undo ``install`` and close the file."""
    for name in (None, *OUR_LOGGERS, *LIBRARY_LOGGERS):
        logging.getLogger(name).removeHandler(handler)
    for name in OUR_LOGGERS:
        ours = logging.getLogger(name)
        ours.propagate = True
        ours.setLevel(logging.NOTSET)
    if logging.lastResort:
        logging.getLogger().removeHandler(logging.lastResort)
    handler.close()


def attach_libraries() -> None:
    """Send warnings of libraries to the log file, if there is one; their screen handlers show what they did.

    Libraries set up their loggers when they are imported or started, so this is called again after that.
    """
    files = [handler for handler in logging.getLogger().handlers if isinstance(handler, RunLogHandler)]
    for name in LIBRARY_LOGGERS if files else ():
        library = logging.getLogger(name)
        level = library.getEffectiveLevel()
        if level > logging.WARNING:
            for handler in library.handlers:
                if not isinstance(handler, RunLogHandler):
                    # A filter, not the handler's level, because Ray's logger shares the root's handlers.
                    handler.addFilter(partial(shown_before, name, level))
            library.setLevel(logging.WARNING)
        if not library.propagate:
            for file in files:
                library.addHandler(file)  # nothing happens if it is there already


def shown_before(library: str, level: int, record: logging.LogRecord) -> bool:
    """Whether a library's logger passed the record on when its level was still ``level``."""
    return record.levelno >= level or not f"{record.name}.".startswith(f"{library}.")
