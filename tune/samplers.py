"""Which point comes next: pure functions of what was tried, so a search cut off goes on as it would have."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mipnet.config import Config
from mipnet.errors import ConfigError, nearest
from tune.spaces import Point, Range, Space, canonical, points, rounded, size

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial as OptunaTrial
    from optuna.trial import TrialState

TRIALS = 20
"""How many points are tried where nobody says it and there is no end of them."""

OPTUNA_TRIES = 20  # proposals that were made before are asked for again, so often
POPULATION = 10  # of NSGA-II: a search has tens of trials, not the thousands that Optuna's 50 is made for


@dataclass(frozen=True)
class Tried:
    """A point that was proposed.

    Attributes:
        point: which.
        score: its occlusion AP, 0 to 1; None while it is not known, nan if its training failed.
        cost: multiply-adds of the network.
    """

    point: Point
    score: float | None
    cost: float


Directions = list[Literal["minimize", "maximize"]]
Sampler = Callable[[Sequence[Tried]], Point | None]
"""The next point after those that were tried, in their order; None when there is none left."""


def make_sampler(name: str, space: Space, config: Config, limit: int) -> Sampler:
    """A sampler by its name.

    Args:
        name: grid, random, tpe or nsga2.
        space: settled.
        config: of which the points are; its seed is the sampler's.
        limit: propose no more points than this; 0 is all of a grid, ``TRIALS`` otherwise.

    Raises:
        ConfigError: there is no such sampler.
    """
    next_point = sampler_named(name)
    most = count(name, space, config, limit)

    def propose(tried: Sequence[Tried]) -> Point | None:
        if len(tried) >= most:
            return None
        return next_point(space, config, tried)

    return propose


def sampler_named(name: str) -> Callable[[Space, Config, Sequence[Tried]], Point | None]:
    """The function of that name.

    Raises:
        ConfigError: there is none.
    """
    samplers = {"grid": grid, "random": random, "tpe": optuna_tpe, "nsga2": optuna_nsga2}
    if name not in samplers:
        raise ConfigError(f"--sampler: {name!r} is unknown", nearest(name, samplers))
    return samplers[name]


def count(name: str, space: Space, config: Config, limit: int) -> int:
    """How many points a sampler will propose."""
    available = len(points(space, config)) if name == "grid" else size(space, config)
    return int(min(available, limit or (available if name == "grid" else TRIALS)))


def grid(space: Space, config: Config, tried: Sequence[Tried]) -> Point | None:
    """Every point in order."""
    known = {t.point for t in tried}
    return next((point for point in points(space, config) if point not in known), None)


def random(space: Space, config: Config, tried: Sequence[Tried]) -> Point | None:
    """Points at random, none twice: each value of a dimension as likely, and of a range each decade."""
    return draw(space, config, {t.point for t in tried}, [config.train.seed, len(tried)])


def draw(space: Space, config: Config, known: set[Point], seed: Sequence[int]) -> Point | None:
    rng = np.random.default_rng(seed)
    if math.isfinite(size(space, config)):
        left = [point for point in points(space, config) if point not in known]
        return left[rng.integers(len(left))] if left else None
    while True:  # a range: there is always another point
        rate = space.learning_rate
        assert isinstance(rate, Range)
        point = Point(
            int(rng.choice(space.instances)),
            space.places[rng.integers(len(space.places))],
            int(rng.choice(space.reduction)),
            rounded(math.exp(rng.uniform(math.log(rate.low), math.log(rate.high))), rate),
        )
        if (point := canonical(point, config)) not in known:
            return point


def optuna_tpe(space: Space, config: Config, tried: Sequence[Tried]) -> Point | None:
    """Optuna's tree-structured Parzen estimator: more of what did well."""
    from optuna.samplers import TPESampler

    return optuna_next(
        space, config, tried, lambda seed: TPESampler(n_startup_trials=8, seed=seed), ["maximize"]
    )


def optuna_nsga2(space: Space, config: Config, tried: Sequence[Tried]) -> Point | None:
    """Optuna's NSGA-II: the front of occlusion AP against multiply-adds."""
    from optuna.samplers import NSGAIISampler

    def sampler(seed: int) -> BaseSampler:
        return NSGAIISampler(population_size=POPULATION, seed=seed)

    return optuna_next(space, config, tried, sampler, ["maximize", "minimize"])


def optuna_next(
    space: Space,
    config: Config,
    tried: Sequence[Tried],
    sampler: Callable[[int], BaseSampler],
    directions: Directions,
) -> Point | None:
    """What a sampler of Optuna's proposes after a history that is told to it anew.

    Nothing of Optuna's has to be kept this way, and one search cannot differ from the same one cut off. A
    proposal that was made before is answered with what came of it: told nothing, TPE repeats it for ever.
    """
    known = {t.point: t for t in tried}
    study = make_study(space, config, tried, sampler(1_000_003 * config.train.seed + len(tried)), directions)
    for _ in range(OPTUNA_TRIES):
        with quiet():
            proposal = study.ask()
            point = suggested(proposal, space, config)
            if point not in known:
                return point
            state, values = outcome(known[point], directions)
            if state.is_finished():
                study.tell(proposal, values, state)
    return draw(space, config, set(known), [config.train.seed, len(tried)])


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's talk and its warnings of what is experimental."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def outcome(tried: Tried, directions: Directions) -> tuple[TrialState, list[float] | None]:
    """What came of a point, in Optuna's terms."""
    from optuna.trial import TrialState

    if tried.score is None:
        return TrialState.RUNNING, None
    if math.isnan(tried.score):
        return TrialState.FAIL, None
    return TrialState.COMPLETE, [tried.score, tried.cost][: len(directions)]


def make_study(
    space: Space, config: Config, tried: Sequence[Tried], sampler: BaseSampler, directions: Directions
) -> Study:
    """A study that knows what was tried."""
    import optuna

    with quiet():
        study = optuna.create_study(directions=directions, sampler=sampler)
        every = distributions_of(space)
        for number, t in enumerate(tried):
            state, values = outcome(t, directions)
            params = parameters(t.point, space, complete=len(directions) > 1)
            distributions = {name: found for name, found in every.items() if name in params}
            generation = {"NSGAIISampler:generation": number // POPULATION}  # as the sampler itself notes it
            study.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    values=values,
                    params=params,
                    distributions=distributions,
                    system_attrs=generation,
                )
            )
    return study


def distributions_of(space: Space) -> dict[str, Any]:
    """Optuna's idea of the dimensions; a set of places is one choice."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    rate = space.learning_rate
    return {
        "instances": CategoricalDistribution(space.instances),
        "places": CategoricalDistribution([label(places) for places in space.places]),
        "reduction": CategoricalDistribution(space.reduction),
        "learning_rate": FloatDistribution(rate.low, rate.high, log=True)
        if isinstance(rate, Range)
        else CategoricalDistribution(rate),
    }


def label(places: tuple[int, ...]) -> str:
    return "+".join(map(str, places))


def parameters(point: Point, space: Space, complete: bool) -> dict[str, Any]:
    """A point in Optuna's terms.

    Args:
        point: whose places and reduction say nothing if N = 1.
        space: of the point.
        complete: give it some all the same: NSGA-II crosses only what every trial has, TPE had better not
            learn from them.
    """
    values: dict[str, Any] = {"instances": point.instances, "learning_rate": point.learning_rate}
    if point.instances > 1:
        return values | {"places": label(point.places), "reduction": point.reduction}
    if complete:
        return values | {"places": label(space.places[0]), "reduction": space.reduction[0]}
    return values


def suggested(proposal: OptunaTrial, space: Space, config: Config) -> Point:
    """The point of a proposal."""
    if isinstance(space.learning_rate, Range):
        low, high = space.learning_rate.low, space.learning_rate.high
        rate = rounded(proposal.suggest_float("learning_rate", low, high, log=True), space.learning_rate)
    else:
        rate = proposal.suggest_categorical("learning_rate", space.learning_rate)
    places = {label(places): places for places in space.places}
    chosen = proposal.suggest_categorical("places", list(places))
    n = proposal.suggest_categorical("instances", space.instances)
    r = proposal.suggest_categorical("reduction", space.reduction)
    return canonical(Point(n, places[chosen], r, rate), config)
