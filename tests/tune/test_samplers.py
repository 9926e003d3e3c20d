"""Samplers: no point twice, none but those of the space, and the same after a restart."""

from __future__ import annotations

import math

import pytest

from mipnet.config import Config, from_dict
from mipnet.errors import ConfigError
from tune.samplers import Observation, make_sampler, num_points
from tune.search_space import LogRange, Point, SearchSpace, grid_points, named_space, space_from_values

MANY = {"instances": [1, 2, 3], "places": "every", "reduction": [2, 4]}


def score(point: Point) -> float:
    """Best at N = 3 with places 2 and 3; the baseline is poor."""
    return 0.1 * point.instances + 0.1 * (2 in point.places) + 0.1 * (3 in point.places)


def propose_all(
    name: str, space: SearchSpace, config: Config, limit: int, tried: list[Observation] | None = None
):
    """Everything that a sampler proposes, each point scored before the next."""
    sampler = make_sampler(name, space, config, limit)
    tried = list(tried or [])
    while point := sampler(tried):
        tried.append(Observation(point, score(point), cost=1e6 * point.instances))
    return tried


def test_grid_is_everything_in_order(debug: Config) -> None:
    space = named_space("placement", debug)
    assert [t.point for t in propose_all("grid", space, debug, 0)] == grid_points(space, debug)
    assert len(propose_all("grid", space, debug, 3)) == 3


@pytest.mark.parametrize("name", ["grid", "random", "tpe", "nsga2"])
def test_a_finite_space_is_used_up_without_repetition(debug: Config, name: str) -> None:
    space = named_space("placement", debug)
    found = [t.point for t in propose_all(name, space, debug, 100)]
    assert sorted(found, key=repr) == sorted(grid_points(space, debug), key=repr)


@pytest.mark.parametrize("name", ["random", "tpe", "nsga2"])
def test_a_search_cut_off_goes_on_as_it_would_have(debug: Config, name: str) -> None:
    space = space_from_values(MANY, debug, "file")
    whole = propose_all(name, space, debug, 14)
    assert len({t.point for t in whole}) == 14
    for cut in (3, 9):
        assert propose_all(name, space, debug, 14, whole[:cut]) == whole


@pytest.mark.parametrize("name", ["random", "tpe", "nsga2"])
def test_rates_lie_in_their_range_and_the_seed_changes_them(debug: Config, name: str) -> None:
    space = space_from_values({"learning_rate": {"low": 1e-4, "high": 1e-2}}, debug, "file")
    rates = [t.point.learning_rate for t in propose_all(name, space, debug, 10)]
    assert len(set(rates)) == 10
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert min(rates) < 1e-3 < max(rates)  # in both decades
    other = from_dict({"train": {"seed": 1}}, debug)
    assert [t.point.learning_rate for t in propose_all(name, space, other, 10)] != rates


def test_tpe_learns_from_scores_and_passes_over_what_runs_or_failed(debug: Config) -> None:
    space = space_from_values(MANY, debug, "file")
    begun = propose_all("tpe", space, debug, 12)
    turned = [Observation(t.point, 1 - score(t.point), t.cost) for t in begun]
    sampler = make_sampler("tpe", space, debug, 100)
    assert sampler(begun) != sampler(turned)
    open_ended = [
        *begun[:10],
        Observation(begun[10].point, None, 1e6),
        Observation(begun[11].point, math.nan, 1e6),
    ]
    assert sampler(open_ended) not in {t.point for t in begun}


def test_tpe_finds_a_learning_rate(debug: Config) -> None:
    """At random, a rate is 1.67 decades away from the best one on average."""
    space = space_from_values({"learning_rate": {"low": 1e-6, "high": 1.0}}, debug, "file")
    sampler = make_sampler("tpe", space, debug, 30)
    tried: list[Observation] = []
    away: list[float] = []
    while point := sampler(tried):
        away.append(abs(math.log10(point.learning_rate) + 2))
        tried.append(Observation(point, 1 - away[-1] / 6, cost=1.0))
    assert sum(away[15:]) / 15 < 1.1


def test_nsga2_minds_the_cost(debug: Config) -> None:
    """The same scores with other costs select other parents once the first generation is full."""
    space = space_from_values(MANY, debug, "file")
    begun = propose_all("nsga2", space, debug, 10)
    turned = [Observation(t.point, t.score, 1e9 - t.cost) for t in begun]
    ways = [propose_all("nsga2", space, debug, 20, tried)[10:] for tried in (begun, turned)]
    assert [t.point for t in ways[0]] != [t.point for t in ways[1]]


def test_the_number_of_trials(debug: Config) -> None:
    space, ranged = named_space("placement", debug), named_space("full", debug)
    assert isinstance(ranged.learning_rate, LogRange)
    assert num_points("grid", space, debug, 0) == 7
    assert num_points("random", space, debug, 0) == 7
    assert num_points("tpe", ranged, debug, 0) == 20
    assert num_points("tpe", ranged, debug, 50) == 50
    assert num_points("grid", ranged, debug, 0) == 3 + 3 * 7 * 3 * 3
    with pytest.raises(ConfigError, match="'gird' is unknown; did you mean 'grid'"):
        make_sampler("gird", space, debug, 0)
