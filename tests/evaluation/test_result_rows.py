"""The tables as text."""

from __future__ import annotations

from mipnet.config.presets import DATASETS
from mipnet.config.schema import DataConfig
from mipnet.evaluation.protocols import METRIC_NAMES
from mipnet.evaluation.result_rows import ResultRow, flat_metrics, results_table

NAN = float("nan")


def row(data: DataConfig, split: str, source: str, instance_mode: str, *values: float) -> ResultRow:
    return ResultRow(
        split, source, instance_mode, dict(zip(METRIC_NAMES[data.protocol], values, strict=True)), []
    )


def test_crowdposes_columns_and_its_occlusion_ap() -> None:
    data = DATASETS["crowdpose"]
    result_rows = [
        row(data, "val", "gt", "merged", 0.7, 0.9, 0.8, 0.75, 0.8, 0.7, 0.61),
        row(data, "val", "gt", "lambda0", 0.6, 0.9, 0.8, 0.75, 0.8, NAN, 0.5),
    ]
    lines = results_table(data, result_rows, {"val": 0.97}).splitlines()
    assert lines[0].split() == ["split", "boxes", "instances", *METRIC_NAMES["crowdpose"]]
    assert set(lines[1]) == {"-"}
    assert lines[2].split() == ["val", "gt", "merged", "70.0", "90.0", "80.0", "75.0", "80.0", "70.0", "61.0"]
    assert lines[3].split()[-2:] == ["-", "50.0"]
    assert lines[4].split() == ["val", "gt", "ceiling", "97.0"]
    assert lines[5:] == ["", "occlusion AP (AP_hard of val in gt boxes): 61.0"]
    assert "val/gt/lambda0/AP_medium" not in flat_metrics(result_rows)


def test_cocos_columns_and_the_hard_split_of_generated_data() -> None:
    data = DataConfig()
    result_rows = [
        row(data, split, "det5", "merged", ap, 0.9, 0.8, NAN, 0.8, 0.7, 0.6, 0.55)
        for split, ap in (("easy", 0.8), ("hard", 0.4))
    ]
    lines = results_table(data, result_rows).splitlines()
    assert lines[0].split()[3:] == list(METRIC_NAMES["coco"])
    assert lines[-1] == "occlusion AP (AP of hard in det5 boxes): 40.0"
