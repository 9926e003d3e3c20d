"""Names and values of MLflow's points."""

from __future__ import annotations

import math
from typing import Any

import pytest
from mlflow.utils.validation import _validate_metric_name

from mipnet.tracking.points import metric_name, metrics_of, points_of

ODD_NAMES = [
    "results/hard/yolo@0.5 (tta)/merged/AP",
    "a:b",
    "a:3a:b",
    "../x",
    "a/../b",
    "a/./b",
    "a//b",
    "/a",
    "a/",
    "..",
    "a\nb",
    "100%",
    "a|b",
    "é/è",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_mlflow_takes_every_name(name: str) -> None:
    _validate_metric_name(metric_name(name))


def test_names_stay_apart_and_plain_ones_as_they_are() -> None:
    assert len({metric_name(name) for name in ODD_NAMES}) == len(ODD_NAMES)
    assert metric_name("results/hard/yolo@0.5 (tta)/AP") == "results/hard/yolo:40:0.5 :28:tta:29:/AP"
    for plain in ("learning/loss_lambda0", "system/10.0.0.7/gpu_0_power", "a..b/c. d-e", "é"):
        assert metric_name(plain) == plain


def test_a_row_is_one_group_without_step_and_time() -> None:
    row = {"step": 4, "time": 17, "loss": 0.25, "loss/lambda0": 0.5, "hidden": math.nan}
    record: dict[str, Any] = {"do": "training", "time": 17, "step": 4, "row": row}
    assert {"learning/loss", "learning/loss_lambda0", "learning/hidden"} == metrics_of(record).keys()
    assert [(p.key, p.value, p.timestamp, p.step) for p in points_of(record)] == [
        ("learning/loss", 0.25, 17, 4),
        ("learning/loss_lambda0", 0.5, 17, 4),
    ]


@pytest.mark.parametrize("kind", ["tags", "started", "text"])
def test_other_records_have_no_metrics(kind: str) -> None:
    assert metrics_of({"do": kind, "values": {"a": 1}}) == {}
