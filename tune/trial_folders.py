"""Folders of a search and its trials. The trials' folders are its state; all else is made from them.

STORAGE/searches/NAME/config.yaml   what all trials share
STORAGE/searches/NAME/run.json      space, sampler, halving; MLflow run of the search; whether it is finished
STORAGE/searches/NAME/runs/TRIAL/   a run of ``mipnet train`` each; its run.json also has the trial's scores
STORAGE/searches/NAME/search.json, report.html, report.md, best.yaml
STORAGE/searches/NAME/logs/driver.log
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from mipnet.config import Config, digest, to_yaml
from mipnet.errors import UserError
from mipnet.run_folder import Run, load_run, open_run
from mipnet.storage import Folder
from tune.search_space import Point
from tune.successive_halving import Score, Trial

# Keys of run.json. Searches of commit 3205fb3 and later have them, so they must not change.
SPEC_KEY = "asked"
"""Of a search: space_name, space, sampler, halving."""
FINISHED_KEY = "over"
"""Of a search: no trial is left to train."""
TRIAL_KEY = "trial"
"""Of a trial: number, until (target epochs), scores, choices, losses, steps_per_epoch, failed, evaluated."""

MAX_CURVE_POINTS = 100
"""A trial's loss curve is thinned to about so many points."""

TrialRun = tuple[Trial, Run]
"""A trial and its run."""

logger = logging.getLogger(__name__)


def search_name(config: Config, space: str, search_spec: Mapping[str, Any]) -> str:
    """Preset, space and a digest of the settings, so that the same command finds its search again.

    The number of points and seeds is not part of it, so that more of them extend a search.
    """
    content = json.dumps([digest(config), search_spec], sort_keys=True)
    return f"{config.preset}-{space}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def open_search(storage: Folder, name: str, config: Config, search_spec: Mapping[str, Any], new: bool) -> Run:
    """Open the search of that name, or create it.

    Args:
        storage: root of all searches.
        name: of the search.
        config: of all trials.
        search_spec: space, sampler and halving, which identify the search beside its configuration.
        new: create it under the next free name.

    Raises:
        UserError: the search of this name has other settings, or cannot be read.
    """
    searches = storage.join("searches")
    taken = set(searches.names())
    base, number = name, 2
    while new and name in taken:
        name, number = f"{base}-{number}", number + 1
    folder = searches.join(name)
    if not folder.exists("config.yaml"):
        folder.write("config.yaml", to_yaml(config))
        search = Run(name, folder, config)
        search.note(**{SPEC_KEY: dict(search_spec)})
        return search
    search = load_run(folder)
    same_spec = search.state.get(SPEC_KEY) == json.loads(json.dumps(search_spec))
    if not same_spec or digest(search.config) != digest(config):
        raise UserError(f"search {name} exists with other settings", "give another --name, or --new")
    search.config = config  # resources and tracking may differ from the first start's
    return search


def open_trial(search: Run, trial: Trial) -> Run:
    """The trial's run; created if it does not exist."""
    run = open_run(search.folder, trial.point.apply_to(search.config, trial.seed), trial.name)
    note_trial(run, number=trial.number, until=trial.target_epochs)
    return run


def note_trial(run: Run, **values: Any) -> None:
    """Keep values under ``TRIAL_KEY`` of a trial's run.json; its other ones stay."""
    run.note(**{TRIAL_KEY: {**run.state.get(TRIAL_KEY, {}), **values}})


def read_trials(search: Run, retry: bool = False) -> list[TrialRun]:
    """All trials that were ever started, in the order of their points' proposals.

    Args:
        search: the search.
        retry: reset failed trials, so that they are trained again.
    """
    found = []
    for name in search.folder.names("runs"):
        run = load_run(search.folder.join(f"runs/{name}"))
        if retry and run.state.get(TRIAL_KEY, {}).get("failed"):
            logger.info("trial %s failed (%s) and is tried again", name, run.state[TRIAL_KEY]["failed"])
            note_trial(run, failed="")
        if TRIAL_KEY in run.state:  # else the search was killed while it created the folder
            found.append((trial_from_run(run), run))
    return sorted(found, key=lambda item: (item[0].number, item[0].seed))


def trial_from_run(run: Run) -> Trial:
    """The trial as its run.json and config.yaml describe it."""
    noted = run.state[TRIAL_KEY]
    scores = {int(epochs): Score(*score) for epochs, score in noted.get("scores", {}).items()}
    point, seed = Point.from_config(run.config), run.config.train.seed
    return Trial(point, seed, noted["number"], noted["until"], scores, noted.get("failed", ""))


def note_scores(
    run: Run, epochs: int, steps: int, history: Sequence[Mapping[str, float]], choices: list[dict[str, Any]]
) -> None:
    """Keep the scores of a trial after so many epochs in its run.json.

    Args:
        run: the trial's.
        epochs, steps: trained in all.
        history: logged rows of all of its steps.
        choices: for each pair of γ and NMS threshold: discount, oks_nms, occlusion_AP (0 to 1) and metrics;
            the largest occlusion_AP is the trial's score.
    """
    per_epoch = steps / epochs
    best = max(choice["occlusion_AP"] for choice in choices)
    score = [best, last_epoch_primary_loss(history, per_epoch)]
    scores = {**run.state[TRIAL_KEY].get("scores", {}), str(epochs): score}
    finite = [row for row in history if math.isfinite(row.get("loss/lambda0", math.nan))]
    curve = [(round(row["step"] / per_epoch, 3), row["loss/lambda0"]) for row in finite]
    thinned = curve[:: max(len(curve) // MAX_CURVE_POINTS, 1)]
    note_trial(run, scores=scores, choices=choices, steps_per_epoch=per_epoch, losses=thinned)


def note_failure(run: Run, why: str) -> None:
    """Keep the reason of a trial's failure, on one line, in its run.json."""
    note_trial(run, failed=" ".join(why.split()) or "no word of why")


def last_epoch_primary_loss(history: Sequence[Mapping[str, float]], steps_per_epoch: float) -> float:
    """Mean loss of λ = 0 over the finite rows of the last epoch; inf without any."""
    since = history[-1]["step"] - steps_per_epoch if history else 0
    losses = [row.get("loss/lambda0", math.nan) for row in history if row["step"] > since]
    finite = [loss for loss in losses if math.isfinite(loss)]
    return sum(finite) / len(finite) if finite else math.inf


@lru_cache(maxsize=4096)
def network_costs(config: Config) -> tuple[int, int]:
    """(multiply-adds of one crop for all λ, number of parameters) of a configuration's network."""
    import torch

    from mipnet.models.costs import count_parameters, multiply_adds
    from mipnet.training.checkpoint import model_from_config

    with torch.device("meta"):
        model = model_from_config(config)
    size = config.input.height, config.input.width
    return multiply_adds(model, size).total, count_parameters(model)
