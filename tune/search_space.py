"""Search spaces, three of them with a name, and the points in them.

``places`` are the MIMB stages of ``model``. This and the names of the other dimensions are keys
of users' YAML files and of saved searches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import combinations, product
from typing import Any

from mipnet.config import Config, validate
from mipnet.config.validation import format_value
from mipnet.errors import ConfigError, suggest

ALL_PLACEMENTS = "every"
"""The value of ``places`` in a YAML file that stands for all non-empty sets of stages."""


@dataclass(frozen=True)
class LogRange:
    """A log-uniform range of learning rates, both ends included."""

    low: float
    high: float


@dataclass(frozen=True)
class SearchSpace:
    """The dimensions of a search and their values; an empty dimension keeps the configuration's value.

    Attributes:
        instances: N, instances per crop.
        places: sets of MIMB stages.
        reduction: r of the MIMBs' squeeze-and-excitation.
        learning_rate: values, or a range.
        discount, oks_nms: γ and the threshold of OKS-NMS. They need no training: each trained network is
            evaluated with all pairs of them.
    """

    instances: tuple[int, ...] = ()
    places: tuple[tuple[int, ...], ...] = ()
    reduction: tuple[int, ...] = ()
    learning_rate: tuple[float, ...] | LogRange = ()
    discount: tuple[float, ...] = ()
    oks_nms: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The space as run.json holds it: lists instead of tuples."""
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Point:
    """One value of each dimension that needs a training."""

    instances: int
    places: tuple[int, ...]
    reduction: int
    learning_rate: float

    @property
    def name(self) -> str:
        """The name of its runs without the seed: n2-p2.3-r4-lr0.005; n1-r4-lr0.005 for the baseline."""
        places = f"-p{'.'.join(map(str, self.places))}" if self.places else ""
        rate = repr(self.learning_rate).replace("+", "")  # of 1e+30: names of runs must not contain it
        return f"n{self.instances}{places}-r{self.reduction}-lr{rate}"

    @property
    def description(self) -> str:
        """N and places in words, for reports."""
        if not self.places:
            return f"N = {self.instances}"
        return f"N = {self.instances}, place{'s' * (len(self.places) > 1)} {', '.join(map(str, self.places))}"

    def apply_to(self, config: Config, seed: int) -> Config:
        """``config`` with this point's values and a seed.

        Raises:
            ConfigError: there is no such network.
        """
        model = replace(
            config.model, instances=self.instances, mimb_stages=self.places, reduction=self.reduction
        )
        train = replace(config.train, learning_rate=self.learning_rate, seed=seed)
        return validate(replace(config, model=model, train=train))

    @classmethod
    def from_config(cls, config: Config) -> Point:
        """The point at which a configuration lies."""
        model = config.model
        return cls(model.instances, model.mimb_stages, model.reduction, config.train.learning_rate)


def placement_space(config: Config) -> SearchSpace:
    """every non-empty set of places, with the N of the configuration"""
    return SearchSpace(places=all_placements(config))


def instances_space(config: Config) -> SearchSpace:
    """N = 1 (the baseline) to 4, at the places of the configuration"""
    return SearchSpace(instances=(1, 2, 3, 4))


def full_space(config: Config) -> SearchSpace:
    """N = 1 to 4, every set of places, reduction, learning rate (from / 4 to · 4), γ, NMS threshold"""
    rate = config.train.learning_rate
    return SearchSpace(
        instances=(1, 2, 3, 4),
        places=all_placements(config),
        reduction=(1, 2, 4),
        learning_rate=LogRange(round_rate(rate / 4), round_rate(rate * 4)),
        discount=(0.5, 0.7, 0.9, 1.0),
        oks_nms=(0.8, 0.85, 0.9, 0.95),
    )


NAMED_SPACES = {"placement": placement_space, "instances": instances_space, "full": full_space}
"""Their docstrings are shown by --help."""


def named_space(name: str, config: Config) -> SearchSpace:
    """A named space, resolved for a configuration.

    Raises:
        ConfigError: no space has that name, or the configuration's network has no MIMB stage.
    """
    if name not in NAMED_SPACES:
        raise ConfigError(f"--space: {name!r} is unknown", suggest(name, [*NAMED_SPACES, "FILE.yaml"]))
    return resolved_space(NAMED_SPACES[name](config), config)


def space_from_values(values: Mapping[str, Any], config: Config, source: str) -> SearchSpace:
    """The space that a YAML file describes, resolved.

    Args:
        values: dimension -> value or list of values; places may be ``every``, learning_rate
            {low: …, high: …}.
        config: has the values of the other dimensions.
        source: the file's name, for messages.

    Raises:
        ConfigError: unknown dimension, wrong type, or a value that is not possible.
    """
    from pydantic import TypeAdapter, ValidationError

    known = [field.name for field in fields(SearchSpace)]
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{source}: {name}: unknown dimension", suggest(str(name), known))
        given[name] = value if isinstance(value, (list, dict)) else [value]
        if name == "places" and value == ALL_PLACEMENTS:
            given[name] = all_placements(config)
        flat = given[name] if isinstance(given[name], list) else ()
        if any(isinstance(item, bool) for item in flat):
            raise ConfigError(f"{source}: {name}: {format_value(value)} does not fit", "give numbers")
    try:
        space = TypeAdapter(SearchSpace).validate_python(given)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        hint = {
            "places": f"give lists, e.g. [[3], [3, 4]], or {ALL_PLACEMENTS}",
            "learning_rate": "give a list of rates, or {low: …, high: …}",
        }.get(name, "give a list of numbers")
        raise ConfigError(f"{source}: {name}: {format_value(values[name])} does not fit", hint) from None
    return resolved_space(space, config)


def resolved_space(space: SearchSpace, config: Config) -> SearchSpace:
    """``space`` with all dimensions filled in from ``config`` and validated; values are sorted and unique.

    Raises:
        ConfigError: a value is not possible.
    """
    model, rate = config.model, space.learning_rate
    if isinstance(rate, LogRange) and not 0 < rate.low < rate.high < math.inf:
        raise ConfigError(f"learning_rate: {rate.low} … {rate.high} is no range", "give 0 < low < high")
    filled = SearchSpace(
        instances=unique(space.instances or (model.instances,)),
        places=unique(tuple(sorted(places)) for places in space.places or (model.mimb_stages,)),
        reduction=unique(space.reduction or (model.reduction,)),
        learning_rate=rate if isinstance(rate, LogRange) else unique(rate or (config.train.learning_rate,)),
        discount=unique(space.discount or (config.evaluation.discount,)),
        oks_nms=unique(space.oks_nms or (config.evaluation.oks_nms,)),
    )
    if filled.instances == (1,) and space.places:
        hint = "set --model.instances 2, or take the space instances"
        raise ConfigError("model.instances: 1 has no place to search", hint)
    for point in grid_points(filled, config):
        point.apply_to(config, config.train.seed)
    for discount, oks_nms in product(filled.discount, filled.oks_nms):
        validate(with_pair(config, discount, oks_nms))
    return filled


def all_placements(config: Config) -> tuple[tuple[int, ...], ...]:
    """All non-empty sets of the backbone's possible MIMB stages, small sets first."""
    possible = config.model.possible_mimb_stages
    return tuple(places for n in range(1, len(possible) + 1) for places in combinations(possible, n))


def unique(values: Any) -> tuple[Any, ...]:
    """Each value once, sorted; tuples by length first."""
    return tuple(sorted(set(values), key=lambda v: (len(v), v) if isinstance(v, tuple) else v))


def grid_points(space: SearchSpace, config: Config) -> list[Point]:
    """The grid of a resolved space; a range contributes its ends and its geometric mean.

    N = 1 has no MIMB, so places and reduction make no difference: there is one such point per learning rate.
    """
    rates = space.learning_rate
    if isinstance(rates, LogRange):
        rates = (rates.low, round_rate(math.sqrt(rates.low * rates.high), rates), rates.high)
    grid = product(space.instances, space.places, space.reduction, rates)
    return list(dict.fromkeys(canonical(Point(*values), config) for values in grid))


def canonical(point: Point, config: Config) -> Point:
    """The representative of all points that train the same network."""
    if point.instances == 1:
        return replace(point, places=(), reduction=config.model.reduction)
    return point


def round_rate(rate: float, within: LogRange | None = None) -> float:
    """Round to three significant digits (more only make names longer) and clip to ``within``."""
    rate = float(f"{rate:.3g}")
    return min(max(rate, within.low), within.high) if within else rate


def space_size(space: SearchSpace, config: Config) -> float:
    """Number of points; inf if learning_rate is a range."""
    return math.inf if isinstance(space.learning_rate, LogRange) else len(grid_points(space, config))


def discount_nms_pairs(space: SearchSpace, instances: int) -> list[tuple[float, float]]:
    """Pairs (γ, NMS threshold) to evaluate a network with; γ makes no difference for N = 1."""
    return list(product(space.discount if instances > 1 else space.discount[:1], space.oks_nms))


def with_pair(config: Config, discount: float, oks_nms: float) -> Config:
    """``config`` with another γ and NMS threshold."""
    return replace(config, evaluation=replace(config.evaluation, discount=discount, oks_nms=oks_nms))
