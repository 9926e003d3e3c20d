from __future__ import annotations

import math
from typing import Any

import pytest

from mipnet.errors import DataError
from mipnet.evaluation.crowdpose import evaluate_crowdpose

SIGMAS = (0.1,)


def data_set(*crowd_indices: float) -> dict[str, Any]:
    """One image and one person of one joint, box 100 x 200, for each crowd index."""
    numbers = range(1, len(crowd_indices) + 1)
    return {
        "images": [{"id": i, "crowdIndex": c} for i, c in zip(numbers, crowd_indices, strict=True)],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": 1,
                "bbox": [0, 0, 100, 200],
                "iscrowd": 0,
                "num_keypoints": 1,
                "keypoints": [50, 50, 2],
            }
            for i in numbers
        ],
        "categories": [{"id": 1, "keypoints": ["a"]}],
    }


def pose(image: int, x: float = 50.0) -> dict[str, Any]:
    return {"image_id": image, "category_id": 1, "keypoints": [x, 50.0, 1.0], "score": 0.9}


def test_area_is_a_fraction_of_the_box() -> None:
    # OKS = exp(-d² / (2 · 0.2² · 0.53 · 20000)) = exp(-400 / 848) = 0.624: 3 of the 10 thresholds
    metrics = evaluate_crowdpose(data_set(0.1), [pose(1, 70.0)], SIGMAS)
    assert (metrics["AP"], metrics["AR"]) == pytest.approx((0.3, 0.3))
    assert (metrics["AP50"], metrics["AP75"]) == pytest.approx((1, 0))
    assert (metrics["AR50"], metrics["AR75"]) == (1, 0)


def test_levels_and_their_borders() -> None:
    # easy: 0.19; medium: 0.2 and 0.79; hard: 0.8 and 1
    annotations = data_set(0.19, 0.2, 0.79, 0.8, 1.0)
    metrics = evaluate_crowdpose(annotations, [pose(1), pose(2), pose(3), pose(4)], SIGMAS)
    assert metrics["AP_easy"] == metrics["AP_medium"] == pytest.approx(1)
    assert metrics["AP_hard"] == round(51 / 101, 4)
    metrics = evaluate_crowdpose(annotations, [pose(2)], SIGMAS)
    assert (metrics["AP_easy"], metrics["AP_medium"], metrics["AP_hard"]) == (0, round(51 / 101, 4), 0)


def test_absent_levels_are_nan_and_empty_results_0() -> None:
    metrics = evaluate_crowdpose(data_set(0.5), [], SIGMAS)
    assert {name: value for name, value in metrics.items() if not math.isnan(value)} == dict.fromkeys(
        ("AP", "AP50", "AP75", "AR", "AR50", "AR75", "AP_medium"), 0.0
    )


def test_not_a_crowdpose_data_set() -> None:
    annotations = data_set(0.5)
    del annotations["images"][0]["crowdIndex"]
    with pytest.raises(DataError, match="image 1 has no crowdIndex"):
        evaluate_crowdpose(annotations, [], SIGMAS)
    with pytest.raises(DataError, match="image 9"):
        evaluate_crowdpose(data_set(0.5), [pose(9)], SIGMAS)


@pytest.mark.parametrize("broken", [None, "crowded", math.nan])
def test_numbers_that_are_none(broken) -> None:
    annotations = data_set(0.5)
    annotations["images"][0]["crowdIndex"] = broken
    with pytest.raises(DataError, match="image 1 has the crowdIndex"):
        evaluate_crowdpose(annotations, [pose(1)], SIGMAS)
    annotations = data_set(0.5)
    annotations["annotations"][0]["bbox"][2] = broken
    with pytest.raises(DataError, match="annotation 1 has the bbox"):
        evaluate_crowdpose(annotations, [pose(1)], SIGMAS)
    with pytest.raises(DataError, match="result 1 has keypoints that are not numbers"):
        evaluate_crowdpose(data_set(0.5), [{**pose(1), "keypoints": [broken, 50, 1]}], SIGMAS)
