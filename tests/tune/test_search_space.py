"""Spaces: what is in them, and what is refused in one line."""

from __future__ import annotations

from collections import Counter

import pytest

from mipnet.config import Config, from_dict, preset
from mipnet.config.presets import baseline
from mipnet.errors import ConfigError
from tune.search import build_space
from tune.search_space import (
    LogRange,
    Point,
    discount_nms_pairs,
    grid_points,
    named_space,
    space_from_values,
    space_size,
)


def test_placement_is_every_non_empty_set_of_places_once(debug: Config) -> None:
    found = grid_points(named_space("placement", debug), debug)
    assert [p.places for p in found] == [(1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)]
    assert {p.instances for p in found} == {2}
    paper = preset("coco-hrnet-w32-256x192")
    assert len(set(grid_points(named_space("placement", paper), paper))) == 15


def test_the_baseline_comes_once_and_without_place(debug: Config) -> None:
    found = grid_points(named_space("instances", debug), debug)
    assert [(p.instances, p.places) for p in found] == [(1, ()), (2, (2, 3)), (3, (2, 3)), (4, (2, 3))]


def test_full_counts_the_baseline_once_per_learning_rate(debug: Config) -> None:
    space = named_space("full", debug)
    rate = debug.train.learning_rate
    assert space.learning_rate == LogRange(rate / 4, rate * 4)
    found = Counter(p.instances for p in grid_points(space, debug))
    assert found == {1: 3, 2: 63, 3: 63, 4: 63}  # 7 placements x 3 reductions x 3 rates
    assert {p.learning_rate for p in grid_points(space, debug)} == {rate / 4, rate, rate * 4}
    assert space_size(space, debug) == float("inf")


def test_values_are_taken_once_whatever_their_order(debug: Config) -> None:
    values = {"places": [[3, 2], [2, 3], [1]], "instances": [2, 1, 2], "reduction": 4}
    found = grid_points(space_from_values(values, debug, "mine.yaml"), debug)
    assert [(p.instances, p.places) for p in found] == [(1, ()), (2, (1,)), (2, (2, 3))]


def test_a_file_becomes_a_space(debug: Config, tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "instances: [1, 3]\nplaces: every\nlearning_rate: {low: 1e-4, high: 1.0e-2}\n"
        "discount: [0.7, 0.5]\noks_nms: 0.8\n"
    )
    space, config = build_space(str(path), debug)
    assert space.instances == (1, 3)
    assert len(space.places) == 7
    assert space.learning_rate == LogRange(1e-4, 1e-2)
    assert (config.evaluation.discount, config.evaluation.oks_nms) == (0.5, 0.8)  # what validates
    assert discount_nms_pairs(space, 3) == [(0.5, 0.8), (0.7, 0.8)]
    assert discount_nms_pairs(space, 1) == [(0.5, 0.8)]  # γ^0 = 1 whatever γ
    assert space.to_dict()["learning_rate"] == {"low": 1e-4, "high": 1e-2}


def test_a_point_names_its_run_and_is_read_back(debug: Config) -> None:
    point = Point(3, (1, 3), 2, 1e-05)
    config = point.apply_to(debug, seed=7)
    assert point.name == "n3-p1.3-r2-lr1e-05"
    assert Point(1, (), 4, 5e-3).name == "n1-r4-lr0.005"
    assert Point(1, (), 4, 1e30).name == "n1-r4-lr1e30"
    assert Point.from_config(config) == point
    assert config.train.seed == 7


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"place": [[2]]}, "mine.yaml: place: unknown dimension; did you mean 'places'?"),
        (
            {"places": [2, 3]},
            r"mine.yaml: places: \[2, 3\] does not fit; give lists, e.g. \[\[3\], \[3, 4\]\]",
        ),
        ({"places": "all"}, "mine.yaml: places: 'all' does not fit"),
        ({"places": [[4]]}, r"model.mimb_stages: 4 is not a MIMB stage of hrnet; choose from 1, 2, 3"),
        ({"places": [[2, 2]]}, r"model.mimb_stages: \[2, 2\] names a stage twice"),
        ({"places": [[]]}, "model.mimb_stages: .* is empty"),
        ({"instances": [True]}, "mine.yaml: instances: .* give numbers"),
        ({"instances": ["two"]}, "mine.yaml: instances: .* give a list of numbers"),
        ({"instances": [0]}, "model.instances: 0 is below 1"),
        ({"instances": 1, "places": "every"}, "model.instances: 1 has no place to search"),
        ({"reduction": [64]}, "model.width: 16 is below 64"),
        ({"learning_rate": {"low": 1, "high": 0.1}}, "learning_rate: .* is no range"),
        ({"learning_rate": {"low": 1}}, "mine.yaml: learning_rate: .* give a list of rates"),
        ({"learning_rate": [0]}, "train.learning_rate: 0.0 is not above 0"),
        ({"discount": [1.5]}, "evaluation.discount: 1.5 is above 1"),
        ({"oks_nms": [0]}, "evaluation.oks_nms: 0.0 is not above 0"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(debug: Config, values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space_from_values(values, debug, "mine.yaml")


def test_a_single_instance_configuration_has_no_placement(debug: Config) -> None:
    with pytest.raises(ConfigError, match="has no place to search"):
        named_space("placement", baseline(debug))
    with pytest.raises(ConfigError, match="nothing tells 2 instances apart"):
        named_space("instances", baseline(debug))
    with pytest.raises(ConfigError, match="'placment' is unknown; did you mean 'placement'"):
        named_space("placment", debug)


def test_other_backbones_have_their_own_places() -> None:
    config = from_dict({"model": {"backbone": "simplebaseline"}}, preset("tiny"))
    config = from_dict({"input": {"width": 64, "height": 96}, "model": {"mimb_stages": [3, 4]}}, config)
    assert len(grid_points(named_space("placement", config), config)) == 15
