"""Which figure ranks checkpoints and networks on each data set, and what it is called."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from mipnet.config.presets import DATASETS
from mipnet.config.schema import DataConfig
from mipnet.evaluation.occlusion import SELECTION_METRIC, occlusion_ap
from mipnet.evaluation.protocols import METRIC_NAMES

GENERATED = DataConfig()


def figures(splits: list[str], sources: list[str], metrics: Any) -> dict[str, float]:
    """All different."""
    names = [
        f"{split}/{source}/{instance_mode}/{metric}"
        for split in splits
        for source in sources
        for instance_mode in ("merged", "lambda0", "lambda1")
        for metric in metrics
    ]
    return {name: (i + 1) / 1000 for i, name in enumerate(names)}


@pytest.mark.parametrize(
    ("data", "splits", "sources", "key", "name"),
    [
        (
            GENERATED, ["easy", "medium", "hard"], ["gt", "det5"], "hard/det5/merged/AP",
            "occlusion AP (AP of hard in det5 boxes)",
        ),
        (
            GENERATED, ["hard", "easy"], ["gt", "det5"], "hard/det5/merged/AP",
            "occlusion AP (AP of hard in det5 boxes)",
        ),
        (
            GENERATED, ["val"], ["det5"], "val/det5/merged/AP", "occlusion AP (AP of val in det5 boxes)",
        ),
        (
            DATASETS["coco"], ["val2017"], ["gt", "det"], "val2017/det/merged/AP_overlap",
            "occlusion AP (AP_overlap of val2017 in det boxes: people with a neighbour above box IoU 0.3)",
        ),
        (
            DATASETS["crowdpose"], ["val", "test"], ["gt"], "test/gt/merged/AP_hard",
            "occlusion AP (AP_hard of test in gt boxes)",
        ),
        (
            DATASETS["ochuman"], ["val", "test"], ["gt"], "test/gt/merged/AP",
            "occlusion AP (AP of test in gt boxes)",
        ),
        (
            replace(DATASETS["coco"], root="mine"), ["hard", "other"], ["gt"], "other/gt/merged/AP_overlap",
            "occlusion AP (AP_overlap of other in gt boxes: people with a neighbour above box IoU 0.3)",
        ),
    ],
)  # fmt: skip
def test_the_figure_and_its_name(
    data: DataConfig, splits: list[str], sources: list[str], key: str, name: str
) -> None:
    others = {"step": 3.0, SELECTION_METRIC: 0.5, "loss/lambda0": 1.0}
    metrics = {**figures(splits, sources, METRIC_NAMES[data.protocol]), **others}
    found = occlusion_ap(data, metrics)
    assert (found.value, found.name) == (metrics[key], name)


def test_where_nobody_is_occluded_it_is_the_ap_and_says_so() -> None:
    found = occlusion_ap(DATASETS["coco"], {"val/gt/merged/AP": 0.7, "val/gt/lambda0/AP": 0.6})
    assert (found.value, found.name) == (0.7, "occlusion AP (AP of val in gt boxes)")


@pytest.mark.parametrize("metrics", [{}, {"val/gt/lambda0/AP": 0.6}, {SELECTION_METRIC: 0.3}])
def test_without_figures_it_is_nan(metrics: dict[str, float]) -> None:
    found = occlusion_ap(DATASETS["coco"], metrics)
    assert math.isnan(found.value)
    assert found.name == "occlusion AP"
