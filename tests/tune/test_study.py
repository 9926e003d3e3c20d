"""What is left of a search that was cut off, and what its user is told to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

import pytest

from mipnet.config import Config
from mipnet.run_folder import Run
from mipnet.storage import Folder
from mipnet.tracking.journal import Journal, JournalReader
from tune.study import log_progress, pending_evaluations, storage_of, summarise_search
from tune.trial_folders import TRIAL_KEY


def left(search: Run) -> list[str]:
    return [run.name for _, run in pending_evaluations(search)]


def test_a_search_cut_off_in_its_final_tables_makes_the_others(search: Run, record) -> None:
    search.note(over=True)
    best = [record((2,), 0.3, seed=seed) for seed in (0, 1)]
    base = record((), 0.2, instances=1, number=1)
    record((3,), 0.1, number=2)  # neither the best nor the baseline
    record((1,), None, number=3, failed="broken")
    assert left(search) == [best[0].name, best[1].name, base.name]
    best[0].note(**{TRIAL_KEY: {**best[0].state[TRIAL_KEY], "evaluated": [0.9, 0.9]}})
    assert left(search) == [best[1].name, base.name]
    for run in (best[1], base):
        run.note(**{TRIAL_KEY: {**run.state[TRIAL_KEY], "evaluated": [0.9, 0.9]}})
    assert left(search) == []


def test_tables_of_another_pair_are_made_again(search: Run, record) -> None:
    run = record((2,), 0.3, pairs={(0.5, 0.9): 0.3, (0.9, 0.9): 0.2})
    run.note(**{TRIAL_KEY: {**run.state[TRIAL_KEY], "evaluated": [0.9, 0.9]}})
    assert left(search) == [run.name]


class Recorder:
    """Stands in for the tracker: its metrics as the journal keeps them."""

    def __init__(self, search: Run) -> None:
        self.journal = Journal(search.folder, "driver")

    def log_metrics(self, values: Mapping[str, float], step: int, *, once: str = "") -> None:
        self.journal.add("metrics", values=dict(values), step=step, once=once)

    def set_tags(self, values: Mapping[str, str]) -> None: ...

    def log_file(self, name: str) -> None: ...


def test_progress_is_one_point_for_each_ended_training(search: Run, record) -> None:
    """Also of a trial that is trained on to its next rung, and after the last one."""
    tracker = Recorder(search)
    first = record((2,), 0.3)
    second = record((3,), 0.4, number=1, epochs=1)
    log_progress(search, tracker)
    noted = second.state[TRIAL_KEY]
    scores = {**noted["scores"], "3": [0.5, 0.02]}
    second.note(**{TRIAL_KEY: {**noted, "until": 3, "scores": scores, "choices": choices(first, 0.5)}})
    for _ in range(2):
        log_progress(search, tracker)
    search.note(over=True)
    log_progress(search, tracker)
    sent = [e.record for e in JournalReader(search.folder).read() if not e.repeated]
    assert [(r["step"], *r["values"].values()) for r in sent] == [(2, 0.3, 1.0), (3, 0.5, 2.0)]


def choices(run: Run, ap: float) -> list[dict[str, float]]:
    return [{**each, "occlusion_AP": ap} for each in run.state[TRIAL_KEY]["choices"]]


@pytest.mark.parametrize("uri", ["/data/a?b", "s3://bucket/runs?region=eu&scheme=http", "s3://bucket"])
def test_a_search_knows_its_storage(uri: str) -> None:
    storage = Folder(uri)
    assert storage_of(Run("x", storage.join("searches").join("x"), Config())) == storage


def test_the_next_command_finds_the_searchs_data(search: Run, record) -> None:
    assert summarise_search(search).next_commands == []
    record((2,), 0.3)
    storage = search.folder.uri.rpartition("/searches/")[0]
    train, predict = summarise_search(search).next_commands
    assert shlex.split(train)[-2:] == ["--storage", storage]
    assert "n2-p2-r4-lr0.005-s0/model" in predict
    search.note(version=3)
    assert "models:/mipnet@candidate" in summarise_search(search).next_commands[1]
