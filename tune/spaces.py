"""What is searched: typed spaces, three of them named, and the points in them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import combinations, product
from typing import Any

from mipnet.config import Config, validate
from mipnet.config.checks import shown
from mipnet.errors import ConfigError, nearest

EVERY = "every"


@dataclass(frozen=True)
class Range:
    """Every rate from ``low`` to ``high``, as likely in each decade."""

    low: float
    high: float


@dataclass(frozen=True)
class Space:
    """The dimensions of a search and their values; an empty one keeps what the configuration says.

    ``discount`` (γ) and ``oks_nms`` cost no training: each trained network is evaluated with all of them.
    """

    instances: tuple[int, ...] = ()
    places: tuple[tuple[int, ...], ...] = ()
    reduction: tuple[int, ...] = ()
    learning_rate: tuple[float, ...] | Range = ()
    discount: tuple[float, ...] = ()
    oks_nms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Point:
    """One configuration of all that has to be trained."""

    instances: int
    places: tuple[int, ...]
    reduction: int
    learning_rate: float

    @property
    def name(self) -> str:
        """Names a run: n2-p2.3-r4-lr0.005; the baseline, which has no place, is n1-r4-lr0.005."""
        places = f"-p{'.'.join(map(str, self.places))}" if self.places else ""
        rate = repr(self.learning_rate).replace("+", "")  # of 1e+30: no name of a run may have it
        return f"n{self.instances}{places}-r{self.reduction}-lr{rate}"

    @property
    def words(self) -> str:
        """For people, without what is seldom searched."""
        if not self.places:
            return f"N = {self.instances}"
        return f"N = {self.instances}, place{'s' * (len(self.places) > 1)} {', '.join(map(str, self.places))}"

    def applied(self, config: Config, seed: int) -> Config:
        """``config`` at this point.

        Raises:
            ConfigError: such a network cannot be.
        """
        model = replace(config.model, instances=self.instances, places=self.places, reduction=self.reduction)
        train = replace(config.train, learning_rate=self.learning_rate, seed=seed)
        return validate(replace(config, model=model, train=train))

    @classmethod
    def of(cls, config: Config) -> Point:
        model = config.model
        return cls(model.instances, model.places, model.reduction, config.train.learning_rate)


def placement(config: Config) -> Space:
    """every non-empty set of places, with the N of the configuration"""
    return Space(places=every_placement(config))


def instances(config: Config) -> Space:
    """N = 1 (the baseline) to 4, at the places of the configuration"""
    return Space(instances=(1, 2, 3, 4))


def full(config: Config) -> Space:
    """N = 1 to 4, every set of places, reduction, learning rate (from / 4 to · 4), γ, NMS threshold"""
    rate = config.train.learning_rate
    return Space(
        instances=(1, 2, 3, 4),
        places=every_placement(config),
        reduction=(1, 2, 4),
        learning_rate=Range(rounded(rate / 4), rounded(rate * 4)),
        discount=(0.5, 0.7, 0.9, 1.0),
        oks_nms=(0.8, 0.85, 0.9, 0.95),
    )


NAMED = {"placement": placement, "instances": instances, "full": full}


def named(name: str, config: Config) -> Space:
    """A named space with every dimension filled in for a configuration.

    Raises:
        ConfigError: no space has that name, or the configuration has no place for it.
    """
    if name not in NAMED:
        raise ConfigError(f"--space: {name!r} is unknown", nearest(name, [*NAMED, "FILE.yaml"]))
    return settled(NAMED[name](config), config)


def from_values(values: Mapping[str, Any], config: Config, source: str) -> Space:
    """The space that a file describes, with every dimension filled in.

    Args:
        values: dimension -> list of values; places may be ``every``, learning_rate {low: …, high: …}.
        config: what the other dimensions keep.
        source: names the file in messages.

    Raises:
        ConfigError: unknown dimension, wrong type, or a value that cannot work.
    """
    from pydantic import TypeAdapter, ValidationError

    known = [field.name for field in fields(Space)]
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{source}: {name}: unknown dimension", nearest(str(name), known))
        given[name] = value if isinstance(value, (list, dict)) else [value]
        if name == "places" and value == EVERY:
            given[name] = every_placement(config)
        flat = given[name] if isinstance(given[name], list) else ()
        if any(isinstance(item, bool) for item in flat):
            raise ConfigError(f"{source}: {name}: {shown(value)} does not fit", "give numbers")
    try:
        space = TypeAdapter(Space).validate_python(given)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        mend = {
            "places": f"give lists, e.g. [[3], [3, 4]], or {EVERY}",
            "learning_rate": "give a list of rates, or {low: …, high: …}",
        }.get(name, "give a list of numbers")
        raise ConfigError(f"{source}: {name}: {shown(values[name])} does not fit", mend) from None
    return settled(space, config)


def settled(space: Space, config: Config) -> Space:
    """``space`` with every dimension filled in, sorted, each value once, and all of them possible.

    Raises:
        ConfigError: a value cannot work.
    """
    model, rate = config.model, space.learning_rate
    if isinstance(rate, Range) and not 0 < rate.low < rate.high < math.inf:
        raise ConfigError(f"learning_rate: {rate.low} … {rate.high} is no range", "give 0 < low < high")
    filled = Space(
        instances=unique(space.instances or (model.instances,)),
        places=unique(tuple(sorted(places)) for places in space.places or (model.places,)),
        reduction=unique(space.reduction or (model.reduction,)),
        learning_rate=rate if isinstance(rate, Range) else unique(rate or (config.train.learning_rate,)),
        discount=unique(space.discount or (config.evaluation.discount,)),
        oks_nms=unique(space.oks_nms or (config.evaluation.oks_nms,)),
    )
    if filled.instances == (1,) and space.places:
        raise ConfigError(
            "model.instances: 1 has no place to search",
            "set --model.instances 2, or take the space instances",
        )
    for point in points(filled, config):
        point.applied(config, config.train.seed)
    for discount, oks_nms in product(filled.discount, filled.oks_nms):
        validate(replace(config, evaluation=replace(config.evaluation, discount=discount, oks_nms=oks_nms)))
    return filled


def every_placement(config: Config) -> tuple[tuple[int, ...], ...]:
    """All non-empty sets of the backbone's places, the small ones first."""
    possible = config.model.possible_places
    return tuple(places for n in range(1, len(possible) + 1) for places in combinations(possible, n))


def unique(values: Any) -> tuple[Any, ...]:
    return tuple(sorted(set(values), key=lambda v: (len(v), v) if isinstance(v, tuple) else v))


def points(space: Space, config: Config) -> list[Point]:
    """The grid of a settled space; a range gives its ends and its middle.

    N = 1 has no MIMB: neither place nor reduction make a difference, so there is one of it per learning rate.
    """
    rates = space.learning_rate
    if isinstance(rates, Range):
        rates = (rates.low, rounded(math.sqrt(rates.low * rates.high), rates), rates.high)
    grid = product(space.instances, space.places, space.reduction, rates)
    return list(dict.fromkeys(canonical(Point(*values), config) for values in grid))


def canonical(point: Point, config: Config) -> Point:
    """The point that stands for all which train the same network."""
    if point.instances == 1:
        return replace(point, places=(), reduction=config.model.reduction)
    return point


def rounded(rate: float, within: Range | None = None) -> float:
    """Three digits: more make no difference to a training and long names."""
    rate = float(f"{rate:.3g}")
    return min(max(rate, within.low), within.high) if within else rate


def size(space: Space, config: Config) -> float:
    """How many points there are; inf with a range."""
    return math.inf if isinstance(space.learning_rate, Range) else len(points(space, config))


def pairs(space: Space, instances: int) -> list[tuple[float, float]]:
    """(γ, NMS threshold) to evaluate a network with; with one instance γ makes no difference."""
    return list(product(space.discount if instances > 1 else space.discount[:1], space.oks_nms))


def to_values(space: Space) -> dict[str, Any]:
    """As a file holds it."""
    import json

    return json.loads(json.dumps(asdict(space)))
