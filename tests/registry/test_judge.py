"""Who may become champion, from numbers alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mipnet.config.presets import DATASETS
from mipnet.config.schema import DataConfig
from mipnet.registry.judge import comparison_table, easy_ap, judge, people_behind, seed_noise

GENERATED = DataConfig(evaluate=("easy", "hard"), boxes=("gt", "det5"))


def metrics(hard: float, easy: float) -> dict[str, float]:
    """Of merged poses; the other lines are there to be passed over."""
    return {
        "easy/gt/merged/AP": easy,
        "easy/gt/lambda0/AP": 0.99,
        "easy/det5/merged/AP": 0.5,
        "hard/gt/merged/AP": 0.9,
        "hard/det5/merged/AP": hard,
        "hard/det5/merged/AP50": 0.7,
    }


def people(count: int) -> dict[str, dict]:
    listed = {"annotations": [{"image_id": i, "num_keypoints": 17} for i in range(count)]}
    return {"easy": listed, "hard": listed}


@pytest.mark.parametrize(
    ("hard", "easy", "reason"),
    [
        (0.40, 0.80, ""),
        (0.30, 0.70, ""),  # no change at all
        (0.2901, 0.6901, ""),
        (0.2899, 0.90, "occlusion AP falls by 1.01 (tolerance 1.00)"),
        (0.50, 0.6899, "easy AP falls by 1.01 (tolerance 1.00)"),
        (0.20, 0.60, "occlusion AP falls by 10.00 (tolerance 1.00) and easy AP falls by 10.00"),
    ],
)
def test_either_figure_may_fall_by_the_noise_and_no_more(hard: float, easy: float, reason: str) -> None:
    found = judge(GENERATED, metrics(hard, easy), metrics(0.30, 0.70), people(900))
    assert bool(found.reason) is bool(reason)
    assert found.reason.startswith(reason)


def test_a_given_tolerance_holds_for_any_number_of_people() -> None:
    for tolerance, accepted in ((0.0, False), (4.9, False), (5.1, True)):
        found = judge(GENERATED, metrics(0.25, 0.70), metrics(0.30, 0.70), people(3), tolerance)
        assert (not found.reason) is accepted
    assert "30.0 -> 25.0 (-5.00, may fall by 5.10)" in found.lines[0]


def test_the_first_champion_needs_only_a_complete_evaluation() -> None:
    assert judge(GENERATED, metrics(0.0, 0.0), None, people(5)).reason == ""
    incomplete = {k: v for k, v in metrics(0.3, 0.7).items() if not k.startswith("easy/gt")}
    found = judge(GENERATED, incomplete, None, people(5))
    assert found.reason == "the evaluation is not complete: it lacks easy in gt boxes"
    nothing = judge(GENERATED, {}, None, people(5))
    assert "occlusion AP, easy AP" in nothing.reason


def test_a_champion_without_the_figure_cannot_be_compared_with() -> None:
    found = judge(GENERATED, metrics(0.3, 0.7), {"easy/gt/merged/AP": 0.7}, people(5))
    assert found.reason == "the evaluation is not complete: it lacks the champion's occlusion AP"


def test_noise_shrinks_with_the_people_down_to_that_of_the_networks() -> None:
    assert seed_noise(900) == 1.0
    assert seed_noise(225) == 2.0
    assert seed_noise(11_004) == pytest.approx(0.286, abs=1e-3)  # COCO's val2017
    assert seed_noise(10**9) == 0.25
    assert math.isfinite(seed_noise(0))


def test_what_is_easy_depends_on_the_data_set() -> None:
    assert easy_ap(GENERATED, metrics(0.3, 0.7)) == ("easy", "gt", "AP")
    assert easy_ap(GENERATED, {"hard/gt/merged/AP": 0.1}) == ("", "", "AP")
    crowds = {"val/gt/merged/AP_easy": 0.1, "test/gt/merged/AP_easy": 0.8, "test/det/merged/AP_easy": 0.6}
    assert easy_ap(DATASETS["crowdpose"], crowds) == ("test", "gt", "AP_easy")
    coco = {"val2017/det/merged/AP": 0.75, "val2017/det/merged/AP_overlap": 0.6}
    assert easy_ap(DATASETS["coco"], coco) == ("val2017", "det", "AP")


def test_nobody_in_ochuman_is_easy() -> None:
    data = replace(DATASETS["ochuman"], evaluate=("val",), boxes=("gt",))
    found = judge(data, {"val/gt/merged/AP": 0.4}, None, {"val": people(3)["hard"]})
    assert [(figure.kind, figure.candidate) for figure in found.figures] == [("occlusion AP", 40.0)]
    assert found.lines == ["occlusion AP (AP of val in gt boxes): 40.0"]


def test_the_people_behind_a_figure() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    listed = [
        {"image_id": 1, "num_keypoints": 3, "bbox": box},
        {"image_id": 1, "num_keypoints": 0, "bbox": box},
        {"image_id": 1, "num_keypoints": 9, "bbox": [50.0, 0.0, 10.0, 10.0]},
        {"image_id": 2, "num_keypoints": 9, "bbox": box, "iscrowd": 1},
        {"image_id": 2, "num_keypoints": 4, "bbox": box},
    ]
    images = [{"id": 1, "crowdIndex": 0.1}, {"id": 2, "crowdIndex": 0.9}]
    content = {"annotations": listed, "images": images}
    assert people_behind("AP", content) == 3
    assert people_behind("AP_overlap", content) == 1
    assert people_behind("AP_easy", content) == 2
    assert people_behind("AP_hard", content) == 1


def test_the_table_has_both_and_their_difference() -> None:
    second = {**metrics(0.25, 0.71), "hard/gt/merged/AP": 0.9 - 1e-6}
    table = comparison_table(GENERATED, ["1 champion", "2"], [metrics(0.3, 0.7), second])
    lines = [line.split() for line in table.splitlines()]
    assert ["hard", "det5", "1", "champion", "30.0", "70.0", *"------"] in lines
    assert ["hard", "det5", "difference", "-5.0", "+0.0", *"------"] in lines
    assert ["easy", "gt", "difference", "+1.0", *"-------"] in lines
    assert ["hard", "gt", "difference", "+0.0", *"-------"] in lines


def test_comparison_table_reads_metrics_of_older_versions() -> None:
    old, new = {"val/gt/merged/R50": 0.5}, {"val/gt/merged/AR50": 0.6}
    header, _, *lines = comparison_table(DATASETS["coco"], ["1", "2"], [old, new]).splitlines()
    shown = [line.split()[header.split().index("AR50")] for line in lines]
    assert shown == ["50.0", "60.0", "+10.0"]
