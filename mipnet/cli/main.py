"""The command line. Heavy packages are imported by the verbs that need them."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from mipnet import __version__
from mipnet.errors import ConfigError, as_user_error, suggest

COMMANDS = {
    "train": "train a network, evaluate it and register it; the same command continues",
    "evaluate": "tables of a trained model on any split and box source",
    "predict": "poses of people in images, with overlays",
    "ui": "MLflow's pages over the runs and models of a storage",
    "registry list": "versions of the registered model, and its champions",
    "registry show": "one version, and the run, data, commit and search that it comes from",
    "registry compare": "two versions on the same data, with their differences",
    "registry promote": "make a version champion, unless it is worse than the present one",
    "registry rollback": "make the champion before the present one champion again",
    "data generate": "render the generated crowd benchmark",
    "data check": "what a data set holds, what is wrong with it, what the network will see",
    "data import": "a YOLO-pose data set as COCO's JSON, skeleton and settings",
    "data pack": "a data set's images in few large files",
    "models import": "published weights as a model folder",
    "models export": "a model's weights under the reference code's names",
    "models summary": "parameters and multiply-adds of any network",
    "bench stream": "how fast training samples are made, beside the plain way",
    "bench step": "time a training step beside one that computes the whole network for each λ",
    "bench inference": "time crops to heatmaps beside the plain way",
    "bench scaling": "samples/s of a training on 1, 2, 4, … workers of this cluster or machine",
}
"""Each verb is the module of that name in ``mipnet.cli``, e.g. ``data_check``."""


def usage() -> str:
    from mipnet.config.presets import describe

    return (
        f"mipnet {__version__}: multi-instance pose estimation on Ray\n\n{_verbs(COMMANDS)}\n\n"
        f"presets (--preset NAME; --baseline for the single-instance network)\n{describe()}\n\n"
        "mipnet COMMAND --help tells its flags."
    )


def _verbs(commands: Mapping[str, str]) -> str:
    return "\n".join(f"  mipnet {name:<17} {help}" for name, help in commands.items())


def run(argv: Sequence[str]) -> int:
    """Run one command.

    Raises:
        UserError: what the user can fix.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    group = {name: help for name, help in COMMANDS.items() if name.startswith(argv[0] + " ")}
    if group and (len(argv) == 1 or argv[1] in ("-h", "--help")):
        print(_verbs(group))
        return 0
    for name in COMMANDS:
        words = name.split()
        if list(argv[: len(words)]) == words:
            from mipnet.cli.shared_options import read_flags

            verb, call = read_flags(name, argv[len(words) :])
            status: int = verb.run(call.options, call)
            return status
    typed = " ".join(argv[:2] if group else argv[:1])
    raise ConfigError(f"unknown command {typed!r}", suggest(typed, COMMANDS))


def entry(*words: str) -> NoReturn:
    """This process as ``mipnet WORDS ARGUMENTS``."""
    run_process(lambda: main([*words, *sys.argv[1:]]))


def run_process(command: Callable[[], int]) -> NoReturn:
    """Run a command and end the process with its status, without the destructors of C++ if Ray was used.

    Threads of Ray may still use what these destroy: now and then a process whose work was done and said ended
    with SIGABRT (mutex.cc: "Mutex corrupt").
    """
    status = 1  # of a traceback

    def leave() -> None:
        if "ray" not in sys.modules:
            return
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # closed by its reader, or by us
                stream.flush()
        os._exit(status)

    atexit.register(leave)  # the first one that is registered is the last to be called
    status = command()
    sys.exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """A command line; its exit status."""
    return exit_status("mipnet", run, sys.argv[1:] if argv is None else argv)


def exit_status(
    program: str,
    command: Callable[[Sequence[str]], int],
    argv: Sequence[str],
    interrupted: str = "interrupted; the same command goes on where it was",
) -> int:
    """Run a command line: its exit status, with a user's errors and ``interrupted`` as one line on stderr."""
    try:
        return command(argv)
    except KeyboardInterrupt:
        from mipnet.host import interruption_status

        print(f"{program}: {interrupted}", file=sys.stderr)
        return interruption_status()
    except BrokenPipeError:  # the reader of our output, e.g. head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        known = as_user_error(error)
        if known is None:
            raise
        print(f"{program}: {known}", file=sys.stderr)
        return known.exit_code


if __name__ == "__main__":
    entry()
