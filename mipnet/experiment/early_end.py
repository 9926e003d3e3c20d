"""Runs whose training ended early (``train.patience``, ``train.max_hours``): what is said; how they go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mipnet.run_folder import Run

EARLIER_VERSIONS = "earlier_versions"
"""In run.json: versions of the registered model from before the run trained on."""


def early_end(run: Run) -> Mapping[str, Any]:
    """``EarlyEnd`` of a trained run as run.json has it; empty if all of its steps are made."""
    trained = run.state.get("trained") or {}
    return trained.get("ended") or {}


def trains_on(run: Run) -> bool:
    """Whether the same command trains a finished run on.

    After its time was up it does; after patience was exhausted only with more of it: else it would end at
    once.
    """
    ended, patience = early_end(run), run.config.train.patience
    return run.finished and bool(ended) and (not ended["patience"] or not 0 < patience <= ended["patience"])


def reopen(run: Run) -> None:
    """Make a finished run an unfinished one, which goes on from its last checkpoint.

    Its next model will be another version.
    """
    earlier = run.state.get(EARLIER_VERSIONS, [])
    if "version" in run.state:
        earlier = [*earlier, run.state["version"]]
    done = ("trained", "evaluated", "finished", "owed", "version")
    run.note(done, ended=early_end(run)["why"], **{EARLIER_VERSIONS: earlier})


def finished_line(run: Run) -> str:
    """What is said of a finished run that does not train on."""
    if not (ended := early_end(run)):
        return f"run {run.name} is finished; --new starts another"
    return (
        f"run {run.name} is finished: {ended['why']}; "
        f"--train.patience {ended['patience'] + 1} or more, or 0, trains on, --new starts another"
    )


def early_end_lines(run: Run) -> list[str]:
    """The line of summary.txt."""
    ended = early_end(run)
    return [f"ended early: {ended['why']}"] if ended else []
