"""Searches whose trials are on record, without any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mipnet.config import Config, from_dict, preset
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.run_folder import Run
from mipnet.storage import Folder
from tune.search_space import Point
from tune.successive_halving import Trial
from tune.trial_folders import TRIAL_KEY, open_search, open_trial

SEARCH_SPEC = {"space_name": "placement", "space": {}, "sampler": "grid", "halving": None}


@pytest.fixture(scope="session")
def debug() -> Config:
    """The preset as it was when these tests were written: three places, three epochs."""
    evaluation = {"discount": 0.9, "oks_nms": 0.9}
    return from_dict({"train": {"epochs": 3, "seed": 0}, "evaluation": evaluation}, preset("debug"))


@pytest.fixture
def search(debug: Config, tmp_path: Path) -> Run:
    return open_search(Folder.of(tmp_path), "found", debug, SEARCH_SPEC, new=False)


@pytest.fixture
def record(search: Run) -> Callable[..., Run]:
    """Writes a trial that was trained."""

    def write(
        places: tuple[int, ...] = (2,),
        ap: float | None = 0.1,
        loss: float = 0.02,
        *,
        instances: int = 2,
        seed: int = 0,
        number: int = 0,
        epochs: int = 3,
        failed: str = "",
        pairs: Mapping[tuple[float, float], float] | None = None,
        rate: float = 5e-3,
    ) -> Run:
        point = Point(instances, places if instances > 1 else (), 4, rate)
        run = open_trial(search, Trial(point, seed, number, epochs))
        noted: dict[str, Any] = {**run.state[TRIAL_KEY], "failed": failed, "steps_per_epoch": 10.0}
        if ap is not None:
            pairs = pairs or {(0.9, 0.9): ap}
            noted["scores"] = {str(epochs): [max(pairs.values()), loss]}
            noted["losses"] = [[e / 2, loss * (1 + 1 / e)] for e in range(1, 2 * epochs + 1)]
            noted["choices"] = [
                {
                    "discount": g,
                    "oks_nms": t,
                    "occlusion_AP": value,
                    "metrics": {"val/det5/merged/AP": value},
                }
                for (g, t), value in pairs.items()
            ]
        validations = [
            {"step": 10 * e, SELECTION_METRIC: (ap or 0) * e / epochs} for e in range(1, epochs + 1)
        ]
        run.note(**{TRIAL_KEY: noted, "seconds": {"training": 12.0}, "validations": validations})
        return run

    return write
