"""Samplers: the next point as a pure function of the points so far and their scores.

So a search that was killed continues exactly as it would have. Ray Tune's OptunaSearch is not used because
its study lives in its process, or in snapshots of it.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mipnet.config import Config
from mipnet.errors import ConfigError, suggest
from tune.search_space import LogRange, Point, SearchSpace, canonical, grid_points, round_rate, space_size

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial as OptunaTrial
    from optuna.trial import TrialState

logger = logging.getLogger(__name__)

DEFAULT_TRIALS = 20
"""Number of points without --trials, but for the sampler grid, which tries all points."""

MAX_OPTUNA_PROPOSALS = 20
"""Optuna may propose a point again; after so many proposals a point is drawn at random."""
NSGA2_POPULATION = 10
"""Optuna's default of 50 is made for thousands of trials; a search has tens."""

Directions = list[Literal["minimize", "maximize"]]


@dataclass(frozen=True)
class Observation:
    """What is known of a point that was proposed.

    Attributes:
        point: the point.
        score: occlusion AP, 0 to 1; None while it is not known, nan if all its trainings failed.
        cost: multiply-adds of its network, for one crop.
    """

    point: Point
    score: float | None
    cost: float


Sampler = Callable[[Sequence[Observation]], Point | None]
"""Returns the point after those observed, which are in the order of their proposals, or None at the end."""


def make_sampler(name: str, space: SearchSpace, config: Config, limit: int) -> Sampler:
    """A sampler that stops after ``limit`` points.

    Args:
        name: grid, random, tpe or nsga2.
        space: resolved.
        config: of all trials; ``config.train.seed`` is also the sampler's seed.
        limit: number of points; 0: all of a grid, ``DEFAULT_TRIALS`` of other samplers.

    Raises:
        ConfigError: there is no such sampler.
    """
    next_point = find_sampler(name)
    total = num_points(name, space, config, limit)
    return lambda observed: next_point(space, config, observed) if len(observed) < total else None


def find_sampler(name: str) -> Callable[[SearchSpace, Config, Sequence[Observation]], Point | None]:
    """The sampler's function, by its name on the command line.

    Raises:
        ConfigError: there is none.
    """
    samplers = {"grid": next_in_grid, "random": next_at_random, "tpe": next_tpe, "nsga2": next_nsga2}
    if name not in samplers:
        raise ConfigError(f"--sampler: {name!r} is unknown", suggest(name, samplers))
    return samplers[name]


def num_points(name: str, space: SearchSpace, config: Config, limit: int) -> int:
    """How many points a sampler proposes in all, at most; ``limit`` as for ``make_sampler``."""
    available = len(grid_points(space, config)) if name == "grid" else space_size(space, config)
    return int(min(available, limit or (available if name == "grid" else DEFAULT_TRIALS)))


def next_in_grid(space: SearchSpace, config: Config, observed: Sequence[Observation]) -> Point | None:
    """All points of the grid, in order."""
    known = {o.point for o in observed}
    return next((point for point in grid_points(space, config) if point not in known), None)


def next_at_random(space: SearchSpace, config: Config, observed: Sequence[Observation]) -> Point | None:
    """A random unseen point: uniform over all points or, with a range, over values and log learning rate."""
    return draw_unseen(space, config, {o.point for o in observed}, [config.train.seed, len(observed)])


def draw_unseen(space: SearchSpace, config: Config, known: set[Point], seed: Sequence[int]) -> Point | None:
    """A random point that is not among ``known``; None if there is none left."""
    rng = np.random.default_rng(seed)
    if math.isfinite(space_size(space, config)):
        left = [point for point in grid_points(space, config) if point not in known]
        return left[rng.integers(len(left))] if left else None
    while True:  # a range never runs out of points
        rate = space.learning_rate
        assert isinstance(rate, LogRange)
        point = Point(
            int(rng.choice(space.instances)),
            space.places[rng.integers(len(space.places))],
            int(rng.choice(space.reduction)),
            round_rate(math.exp(rng.uniform(math.log(rate.low), math.log(rate.high))), rate),
        )
        if (point := canonical(point, config)) not in known:
            return point


def next_tpe(space: SearchSpace, config: Config, observed: Sequence[Observation]) -> Point | None:
    """Optuna's tree-structured Parzen estimator (TPE), which maximises the occlusion AP."""
    from optuna.samplers import TPESampler

    return ask_optuna(space, config, observed, partial(TPESampler, n_startup_trials=8), ["maximize"])


def next_nsga2(space: SearchSpace, config: Config, observed: Sequence[Observation]) -> Point | None:
    """Optuna's NSGA-II: the Pareto front of occlusion AP against multiply-adds."""
    from optuna.samplers import NSGAIISampler

    sampler = partial(NSGAIISampler, population_size=NSGA2_POPULATION)
    return ask_optuna(space, config, observed, sampler, ["maximize", "minimize"])


def ask_optuna(
    space: SearchSpace,
    config: Config,
    observed: Sequence[Observation],
    sampler: Callable[..., BaseSampler],
    directions: Directions,
) -> Point | None:
    """The next point of an Optuna sampler, asked in a new study that contains all observations.

    A proposal that was observed before is told to the study with its known result; otherwise TPE would
    repeat it forever.

    Args:
        space, config: as for ``make_sampler``.
        observed: points so far, in the order of their proposals.
        sampler: makes the Optuna sampler; its argument ``seed`` is still free.
        directions: of occlusion AP and, if there are two, of multiply-adds.
    """
    known = {o.point: o for o in observed}
    seed = 1_000_003 * config.train.seed + len(observed)
    study = make_study(space, observed, sampler(seed=seed), directions)
    for _ in range(MAX_OPTUNA_PROPOSALS):
        with silenced_optuna():
            proposal = study.ask()
            point = point_from_optuna(proposal, space, config)
            if point not in known:
                return point
            state, values = optuna_outcome(known[point], directions)
            if state.is_finished():
                study.tell(proposal, values, state)
    logger.info("Optuna proposed %d known points; drawing one at random", MAX_OPTUNA_PROPOSALS)
    return draw_unseen(space, config, set(known), [config.train.seed, len(observed)])


@contextmanager
def silenced_optuna() -> Iterator[None]:
    """Suppress Optuna's messages and its warnings of experimental features."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        yield


def optuna_outcome(observation: Observation, directions: Directions) -> tuple[TrialState, list[float] | None]:
    """An observation as Optuna's (state, values)."""
    from optuna.trial import TrialState

    if observation.score is None:
        return TrialState.RUNNING, None
    if math.isnan(observation.score):
        return TrialState.FAIL, None
    return TrialState.COMPLETE, [observation.score, observation.cost][: len(directions)]


def make_study(
    space: SearchSpace, observed: Sequence[Observation], sampler: BaseSampler, directions: Directions
) -> Study:
    """An in-memory study with all observations as its trials."""
    import optuna

    with silenced_optuna():
        study = optuna.create_study(directions=directions, sampler=sampler)
        all_distributions = optuna_distributions(space)
        for number, observation in enumerate(observed):
            state, values = optuna_outcome(observation, directions)
            params = optuna_params(observation.point, space, complete=len(directions) > 1)
            distributions = {k: v for k, v in all_distributions.items() if k in params}
            # As NSGAIISampler itself notes the generation of a trial.
            attrs = {"NSGAIISampler:generation": number // NSGA2_POPULATION}
            known: dict[str, Any] = {"params": params, "distributions": distributions, "system_attrs": attrs}
            study.add_trial(optuna.trial.create_trial(state=state, values=values, **known))
    return study


def optuna_distributions(space: SearchSpace) -> dict[str, Any]:
    """The dimensions as Optuna's distributions; a set of places is one categorical value."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    rate = space.learning_rate
    return {
        "instances": CategoricalDistribution(space.instances),
        "places": CategoricalDistribution([places_label(places) for places in space.places]),
        "reduction": CategoricalDistribution(space.reduction),
        "learning_rate": FloatDistribution(rate.low, rate.high, log=True)
        if isinstance(rate, LogRange)
        else CategoricalDistribution(rate),
    }


def places_label(places: tuple[int, ...]) -> str:
    return "+".join(map(str, places))


def optuna_params(point: Point, space: SearchSpace, complete: bool) -> dict[str, Any]:
    """A point as Optuna's parameters.

    Args:
        point: its places and reduction have no meaning if N = 1.
        space: of the point.
        complete: set places and reduction for N = 1 too. NSGA-II needs it, because it crosses only parameters
            that every trial has; TPE must not learn from values without meaning.
    """
    values: dict[str, Any] = {"instances": point.instances, "learning_rate": point.learning_rate}
    if point.instances > 1:
        return values | {"places": places_label(point.places), "reduction": point.reduction}
    if complete:
        return values | {"places": places_label(space.places[0]), "reduction": space.reduction[0]}
    return values


def point_from_optuna(proposal: OptunaTrial, space: SearchSpace, config: Config) -> Point:
    """The point that an Optuna trial proposes."""
    if isinstance(space.learning_rate, LogRange):
        low, high = space.learning_rate.low, space.learning_rate.high
        rate = round_rate(proposal.suggest_float("learning_rate", low, high, log=True), space.learning_rate)
    else:
        rate = proposal.suggest_categorical("learning_rate", space.learning_rate)
    places = {places_label(places): places for places in space.places}
    chosen = proposal.suggest_categorical("places", list(places))
    n = proposal.suggest_categorical("instances", space.instances)
    r = proposal.suggest_categorical("reduction", space.reduction)
    return canonical(Point(n, places[chosen], r, rate), config)
