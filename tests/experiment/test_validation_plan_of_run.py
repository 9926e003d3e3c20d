"""How often a run validates is decided at its first start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import ray

from mipnet.config import Config
from mipnet.experiment.training_phase import VALIDATION_KEY, validation_plan
from mipnet.run_folder import load_run, open_run
from mipnet.storage import Folder


def test_a_continued_run_validates_the_same_checkpoints(
    small_config: Config,
    small_coco: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Though it goes on elsewhere: with a GPU left over, and with another estimate."""
    total, free = dict[str, float](), dict[str, float]()
    monkeypatch.setattr(ray, "cluster_resources", lambda: total)
    monkeypatch.setattr(ray, "available_resources", lambda: free)
    run = open_run(Folder.of(tmp_path), small_config, "mine")
    first = validation_plan(run, small_coco, 95)
    assert (first.where, first.every) == ("inline", 1)
    assert load_run(run.folder).state[VALIDATION_KEY] == 1
    assert capsys.readouterr().out.startswith("validation: 30 boxes at every checkpoint, by the training")
    run.note(**{VALIDATION_KEY: 3})
    total["GPU"] = 2.0
    again = load_run(run.folder)
    again.config = replace(small_config, resources=replace(small_config.resources, gpu=True))
    for free["GPU"], where in ((1.0, "inline"), (2.0, "beside")):  # another job holds one of them, or not
        plan = validation_plan(again, small_coco, 95)
        assert (plan.where, plan.every) == (where, 3)
    assert load_run(run.folder).state[VALIDATION_KEY] == 3
