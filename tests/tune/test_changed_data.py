"""A search goes on with the data that it began with, and no others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mipnet.config import preset
from mipnet.config.schema import ResourcesConfig
from mipnet.data.fingerprints import take_fingerprints, to_table
from mipnet.errors import UserError
from mipnet.experiment.datasets import dataset_location
from mipnet.run_folder import DATA_RECORD, Run
from mipnet.storage import Folder
from mipnet.synthetic.generate import MANIFEST
from tune.options import SearchOptions
from tune.search_space import named_space
from tune.study import run_search, storage_of
from tune.trainable import TrialContext, train_to_rung
from tune.trial_folders import FINISHED_KEY

LABELS = "annotations/person_keypoints_train.json"


@pytest.fixture
def data(search: Run) -> Folder:
    """The benchmark's folder with labels that have changed since the search began."""
    folder, _ = dataset_location(search.config, storage_of(search))
    folder.write(MANIFEST, "{}")
    folder.write(LABELS, json.dumps([1, 2]))
    search.folder.write(DATA_RECORD, to_table(take_fingerprints({LABELS: folder.path(LABELS)}, {LABELS})))
    folder.write(LABELS, json.dumps([1, 3]))
    return folder


@pytest.mark.parametrize("finished", [False, True])
def test_a_search_is_not_continued_with_other_data(
    search: Run, data: Folder, record: Callable[..., Run], finished: bool
) -> None:
    record()
    search.note(**{FINISHED_KEY: finished})
    space = named_space("placement", search.config)
    with pytest.raises(
        UserError, match=f"search found began with other data: 1 of 1 files .*{LABELS}"
    ) as caught:
        run_search(search, SearchOptions(), space, [], lambda: None)
    assert caught.value.exit_code == 1


def test_a_trial_that_starts_after_a_change_fails(
    search: Run, data: Folder, record: Callable[..., Run], tmp_path: Path
) -> None:
    run = record()
    tracker: Any = None
    context = TrialContext(
        storage=Folder.of(tmp_path),
        trials_folder=search.folder.join("runs"),
        data=data,
        space=named_space("placement", search.config),
        resources=replace(ResourcesConfig(), gpu=False),
        tracking_uri="",
        tags={},
        argv=[],
        verbose=False,
    )
    with pytest.raises(UserError, match="the search began with other data"):
        train_to_rung(run, context, tracker, preset("debug").train.epochs)
