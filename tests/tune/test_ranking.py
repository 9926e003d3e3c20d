"""From trials on record to ranks, fronts and effects."""

from __future__ import annotations

import math

import pytest

from mipnet.run_folder import Run
from tune.ranking import (
    OCCLUSION_AP,
    PRIMARY_LOSS,
    best_pair,
    instance_effects,
    pareto_front,
    place_effects,
    rank_points,
    ranking_metric,
    standard_error,
)
from tune.trial_folders import read_trials


def ranked(search: Run, finished: bool = True):
    return rank_points(read_trials(search), search.config, finished)


def test_ap_ranks_then_loss_then_cost(search: Run, record) -> None:
    record((1,), 0.20, number=0)
    record((2,), 0.30, loss=0.03, number=1)
    record((3,), 0.30, loss=0.02, number=2)
    record((1, 3), 0.10, loss=0.01, number=3)
    record((2, 3), 0.10, loss=0.01, number=4)  # as good as (1, 3), and it runs less of the network twice
    results = ranked(search)
    assert [r.point.places for r in results] == [(3,), (2,), (1,), (2, 3), (1, 3)]
    assert results[3].cost < results[4].cost
    assert ranking_metric(results) is OCCLUSION_AP


def test_an_ap_of_luck_neither_ranks_nor_is_plotted(search: Run, record) -> None:
    record((1,), 0.009, loss=0.03, number=0)
    record((2,), 0.0, loss=0.02, number=1)
    results = ranked(search)
    assert [r.point.places for r in results] == [(2,), (1,)]
    assert ranking_metric(results) is PRIMARY_LOSS
    record((3,), 0.02, loss=0.04, number=2)
    results = ranked(search)
    assert [r.point.places for r in results] == [(3,), (2,), (1,)]
    assert ranking_metric(results) is OCCLUSION_AP


def test_seeds_are_averaged_with_their_standard_error(search: Run, record) -> None:
    for seed, ap in enumerate((0.1, 0.2, 0.3)):
        record((2,), ap, seed=seed, loss=0.01 * seed)
    record((3,), 0.21, seed=0, number=1)
    first, second = ranked(search)
    assert first.point.places == (3,)  # its one seed is above the mean of three
    assert math.isnan(first.error)
    assert second.score is not None
    assert second.score.ap == pytest.approx(0.2)
    assert second.score.loss == pytest.approx(0.01)
    assert second.error == pytest.approx(0.1 / math.sqrt(3))
    assert standard_error([0.5]) != standard_error([0.5])  # nan


def test_what_did_not_come_to_its_end_ranks_below(search: Run, record) -> None:
    record((1,), None, number=0, failed="broken")
    record((2,), 0.9, number=1, epochs=1)
    record((3,), 0.1, number=2)
    record((1, 2), None, number=3)
    assert [r.status for r in ranked(search)] == ["finished", "stopped", "unfinished", "failed"]
    assert [r.status for r in ranked(search, finished=False)] == [
        "finished",
        "unfinished",
        "unfinished",
        "failed",
    ]


def test_a_failed_seed_does_not_spoil_the_others(search: Run, record) -> None:
    record((2,), 0.2, seed=0)
    record((2,), None, seed=1, failed="broken")
    (result,) = ranked(search)
    assert result.status == "finished"
    assert result.score is not None
    assert result.score.ap == pytest.approx(0.2)


def test_of_equal_pairs_the_configurations_own_is_kept(search: Run, record) -> None:
    record((2,), 0.0, pairs={(0.5, 0.8): 0.0, (0.9, 0.9): 0.0, (1.0, 0.9): 0.0})
    (result,) = ranked(search)
    assert (result.discount, result.oks_nms) == (0.9, 0.9)


def test_the_pair_is_chosen_by_its_mean_over_seeds(search: Run, record) -> None:
    record((2,), 0.0, seed=0, pairs={(0.5, 0.9): 0.30, (0.9, 0.9): 0.20})
    record((2,), 0.0, seed=1, pairs={(0.5, 0.9): 0.10, (0.9, 0.9): 0.24})
    (result,) = ranked(search)
    assert (result.discount, result.oks_nms) == (0.9, 0.9)
    assert result.score is not None
    assert result.score.ap == pytest.approx(0.22)
    only_one_has = [
        [{"discount": 0.5, "oks_nms": 0.9, "occlusion_AP": 0.9}],
        [{"discount": g, "oks_nms": 0.9, "occlusion_AP": 0.1} for g in (0.5, 0.7)],
    ]
    assert best_pair(only_one_has) == ((0.5, 0.9), [0.9, 0.1])


def test_the_front_has_what_nothing_cheaper_equals(search: Run, record) -> None:
    record(instances=1, ap=0.10, number=0)  # the cheapest
    record((3,), 0.20, number=1)
    record((2,), 0.20, number=2)  # dearer, and no better
    record((1,), 0.30, number=3)
    record((1, 2), 0.25, number=4)
    record((1,), 0.90, number=5, instances=3, failed="broken")
    record((1, 3), 0.95, number=6, epochs=1)  # not trained to its end
    front = pareto_front(ranked(search))
    assert [(r.point.instances, r.point.places) for r in front] == [(1, ()), (2, (3,)), (2, (1,))]
    assert [r.cost for r in front] == sorted(r.cost for r in front)


def test_where_nobody_is_found_the_loss_ranks(search: Run, record) -> None:
    record((3,), 0.0, loss=0.03, number=0)
    record((2,), 0.0, loss=0.02, number=1)
    record((1,), 0.0, loss=0.04, number=2)
    results = ranked(search)
    assert ranking_metric(results) is PRIMARY_LOSS
    assert [r.point.places for r in results] == [(2,), (3,), (1,)]
    assert [r.point.places for r in pareto_front(results)] == [(3,), (2,)]
    (with_2, _), *_ = [e for e in place_effects(results) if e[0].name == "place 2"]
    assert with_2.mean == pytest.approx(0.02)


def test_effects_are_means_over_what_made_the_choice(search: Run, record) -> None:
    record(instances=1, ap=0.10, number=0)
    record((1,), 0.20, number=1)
    record((2,), 0.30, number=2)
    record((1, 2), 0.50, number=3)
    record((1, 2), 0.40, number=4, instances=3)
    results = ranked(search)
    assert [(e.name, e.count) for e in instance_effects(results)] == [
        ("N = 1", 1),
        ("N = 2", 3),
        ("N = 3", 1),
    ]
    assert instance_effects(results)[1].mean == pytest.approx(100 / 3)
    (with_1, without_1), (with_2, without_2) = place_effects(results)
    assert (with_1.mean, with_1.count) == (pytest.approx(110 / 3), 3)
    assert (without_1.mean, without_1.count) == (pytest.approx(30), 1)  # the baseline has no place to lack
    assert (with_2.mean, without_2.mean) == (pytest.approx(40), pytest.approx(20))
    assert math.isnan(without_2.error)
    assert with_2.error == pytest.approx(standard_error([30, 50, 40]))


def test_one_n_has_no_effect_and_a_place_that_all_have_neither(search: Run, record) -> None:
    record((2,), 0.2, number=0)
    record((1, 2), 0.3, number=1)
    results = ranked(search)
    assert instance_effects(results) == []
    assert [w.name for w, _ in place_effects(results)] == ["place 1"]
    assert rank_points([], search.config) == []
