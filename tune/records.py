"""A search in the storage. The folders of its trials are the truth; everything else is made from them.

STORAGE/searches/NAME/config.yaml   what all trials share
STORAGE/searches/NAME/run.json      what was asked for, the parent's MLflow run
STORAGE/searches/NAME/runs/TRIAL/   one run of ``mipnet train`` each; its run.json has the trial's scores
STORAGE/searches/NAME/search.json, report.html, report.md, best.yaml
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from mipnet.config import Config, digest, to_yaml
from mipnet.errors import UserError
from mipnet.run_folder import Run, load_run, open_run
from mipnet.storage import Folder
from tune.rungs import Score, Trial
from tune.spaces import Point

TRIAL = "trial"
"""In a trial's run.json: number, until, scores, choices, losses, failed."""

CURVE_POINTS = 100


def search_name(config: Config, space: str, asked: Mapping[str, Any]) -> str:
    """Preset, space and digest: the same search is the same folder. More trials and seeds extend it."""
    content = json.dumps([digest(config), asked], sort_keys=True)
    return f"{config.preset}-{space}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def open_search(storage: Folder, name: str, config: Config, asked: Mapping[str, Any], new: bool) -> Run:
    """The search of that name to go on with, or a fresh one.

    Args:
        storage: root of all searches.
        name: of the search.
        config: what all trials share.
        asked: what makes it this search and no other: space, sampler, halving.
        new: take the next free name instead of going on.

    Raises:
        UserError: there is another search of this name, or it cannot be one.
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
        search.note(asked=dict(asked))
        return search
    search = load_run(folder)
    if search.state.get("asked") != json.loads(json.dumps(asked)) or digest(search.config) != digest(config):
        raise UserError(f"search {name} exists with other settings", "give another --name, or --new")
    search.config = config  # resources and tracking may differ from the first start's
    return search


def open_trial(search: Run, trial: Trial) -> Run:
    """The folder of a trial, made before it starts."""
    run = open_run(search.folder, trial.point.applied(search.config, trial.seed), trial.name)
    noted = run.state.get(TRIAL, {})
    run.note(**{TRIAL: {**noted, "number": trial.number, "until": trial.until}})
    return run


def read_trials(search: Run, retry: bool = False) -> list[tuple[Trial, Run]]:
    """All trials that were ever started, in the order of their points.

    Args:
        search: whose.
        retry: forget that trials failed.
    """
    found = []
    for name in search.folder.names("runs"):
        run = load_run(search.folder.join(f"runs/{name}"))
        if retry and run.state.get(TRIAL, {}).get("failed"):
            run.note(**{TRIAL: {**run.state[TRIAL], "failed": ""}})
        if TRIAL in run.state:  # else it was cut off while its folder was made, and comes again
            found.append((trial_of(run), run))
    return sorted(found, key=lambda item: (item[0].number, item[0].seed))


def trial_of(run: Run) -> Trial:
    noted = run.state[TRIAL]
    scores = {int(epochs): Score(*score) for epochs, score in noted.get("scores", {}).items()}
    point, seed = Point.of(run.config), run.config.train.seed
    return Trial(point, seed, noted["number"], noted["until"], scores, noted.get("failed", ""))


def note_scores(
    run: Run,
    epochs: int,
    steps: int,
    history: Sequence[Mapping[str, float]],
    choices: Sequence[Mapping[str, Any]],
) -> None:
    """Keep what a trial scored after so many epochs.

    Args:
        run: the trial's.
        epochs, steps: trained.
        history: logged rows of all of its steps.
        choices: discount, oks_nms, occlusion_AP, metrics for each pair that was tried; the best one counts.
    """
    noted, per_epoch = run.state[TRIAL], steps / epochs
    best = max(choice["occlusion_AP"] for choice in choices)
    scores = {**noted.get("scores", {}), str(epochs): [best, last_epoch_loss(history, per_epoch)]}
    curve = [
        (round(row["step"] / per_epoch, 3), row["loss/lambda0"])
        for row in history
        if math.isfinite(row.get("loss/lambda0", math.nan))
    ]
    thinned = curve[:: max(len(curve) // CURVE_POINTS, 1)]
    told = {"scores": scores, "choices": list(choices), "steps_per_epoch": per_epoch, "losses": thinned}
    run.note(**{TRIAL: {**noted, **told}})


def note_failure(run: Run, why: str) -> None:
    run.note(**{TRIAL: {**run.state[TRIAL], "failed": " ".join(why.split()) or "no word of why"}})


def last_epoch_loss(history: Sequence[Mapping[str, float]], steps_per_epoch: float) -> float:
    """Mean loss of λ = 0 over the rows of the last epoch; inf without any."""
    since = history[-1]["step"] - steps_per_epoch if history else 0
    losses = [row.get("loss/lambda0", math.nan) for row in history if row["step"] > since]
    finite = [loss for loss in losses if math.isfinite(loss)]
    return sum(finite) / len(finite) if finite else math.inf


@lru_cache(maxsize=4096)
def network_costs(config: Config) -> tuple[int, int]:
    """(multiply-adds of one crop for all λ, parameters) of a configuration's network."""
    import torch

    from mipnet.models.costs import count_parameters, multiply_adds
    from mipnet.training.checkpoint import model_from_config

    with torch.device("meta"):
        model = model_from_config(config)
    size = config.input.height, config.input.width
    return multiply_adds(model, size).total, count_parameters(model)
