"""AP of the people who overlap others, by hand."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mipnet.errors import DataError
from mipnet.evaluation.coco import evaluate_keypoints, keypoint_results
from mipnet.evaluation.overlap import overlapped_ap, overlapped_people

SIGMAS = (0.1,)
HALF = 51 / 101  # one of two people found, without a false alarm: precision 1 up to recall 0.5


def person(image: int, x: float, **changes: Any) -> dict[str, Any]:
    """A box of 10 x 10 at x with one joint in its middle; area 10,000, so OKS = exp(-d² / 800)."""
    return {
        "image_id": image,
        "category_id": 1,
        "bbox": [x, 0, 10, 10],
        "area": 10_000,
        "iscrowd": 0,
        "num_keypoints": 1,
        "keypoints": [x + 5, 5, 2],
        **changes,
    }


def data_set(*people: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [{"id": i} for i in (1, 2)],
        "annotations": [{"id": i, **p} for i, p in enumerate(people)],
        "categories": [{"id": 1, "keypoints": ["a"]}],
    }


def poses(*found: tuple[int, float, float]) -> list[dict[str, Any]]:
    """(image, x of the box, score)"""
    keypoints = np.array([[[x + 5, 5, 1]] for _, x, _ in found])
    return keypoint_results([image for image, _, _ in found], keypoints, np.array([s for _, _, s in found]))


A, B = person(1, 0), person(1, 4)  # IoU 6 / 14
ALONE, ELSEWHERE = person(1, 200), person(2, 0)
OFF = 20.0  # px: OKS exp(-400 / 800) = 0.61, enough for the thresholds 0.5, 0.55 and 0.6


@pytest.mark.parametrize(
    ("people", "chosen"),
    [
        ([A, B, ALONE, ELSEWHERE], {0, 1}),
        ([A, person(1, 5)], {0, 1}),  # IoU 5 / 15
        ([A, person(1, 6)], set()),  # 4 / 16
        ([A, {**B, "iscrowd": 1}], set()),
        ([A, {**B, "num_keypoints": 0, "keypoints": [0, 0, 0]}], {0}),  # counts as a neighbour
        ([A, {**B, "image_id": 2}], set()),
        ([ALONE], set()),
        ([], set()),
    ],
)
def test_who_overlaps(people: list[dict[str, Any]], chosen: set[int]) -> None:
    assert overlapped_people(people) == chosen


def test_only_the_overlapped_count() -> None:
    people = data_set(A, B, ALONE, ELSEWHERE)
    assert overlapped_ap(people, poses((1, 0, 0.9), (1, 4, 0.8)), SIGMAS) == pytest.approx(1)
    assert overlapped_ap(people, poses((1, 0, 0.9)), SIGMAS) == pytest.approx(HALF)
    assert overlapped_ap(people, poses((1, 200, 0.9), (2, 0, 0.9)), SIGMAS) == 0
    assert overlapped_ap(people, [], SIGMAS) == 0


def test_poses_of_the_others_are_neither_hits_nor_false_alarms() -> None:
    people = data_set(A, B, ALONE, ELSEWHERE)
    best_scored = [(1, 200, 0.99), (1, 200, 0.98), (2, 0, 0.97), (2, 300, 0.97)]
    found = poses(*best_scored, (1, 0, 0.5))
    assert overlapped_ap(people, found, SIGMAS) == pytest.approx(HALF)


def test_an_imprecise_pose_of_the_others_is_no_false_alarm_either() -> None:
    """At OKS 0.95 it matches nobody; COCOeval alone would count it there."""
    people = data_set(A, B, ALONE)
    assert overlapped_ap(people, poses((1, 200 + OFF, 0.9), (1, 0, 0.5)), SIGMAS) == pytest.approx(HALF)


def test_a_pose_of_nobody_is_a_false_alarm() -> None:
    people = data_set(A, B, ALONE)
    found = poses((1, 100, 0.9), (1, 0, 0.8), (1, 4, 0.7))
    # precision 1/2, then 2/3: made monotonous, 2/3 at all recalls
    assert overlapped_ap(people, found, SIGMAS) == pytest.approx(2 / 3)
    assert overlapped_ap(people, poses((1, -60, 0.9), (1, 0, 0.8)), SIGMAS) == pytest.approx(HALF / 2)


def test_precision_of_the_overlapped_counts_as_in_coco() -> None:
    people = data_set(A, B)
    found = poses((1, -OFF, 0.9), (1, 4, 0.8))
    # A is found at 3 thresholds of 10; at the others its pose is a false alarm ahead of B's
    expected = (3 * 1 + 7 * HALF / 2) / 10
    assert overlapped_ap(people, found, SIGMAS) == pytest.approx(expected)
    assert evaluate_keypoints(people, found, SIGMAS)["AP"] == pytest.approx(expected)


def test_where_all_overlap_it_is_cocos_ap_and_where_nobody_does_nan() -> None:
    rng = np.random.default_rng(2)
    people = data_set(*(person(image, 3.0 * i) for image in (1, 2) for i in range(5)))
    found = poses(*((image, 3.0 * i + rng.normal(0, 20), rng.random()) for image in (1, 2) for i in range(6)))
    whole = evaluate_keypoints(people, found, SIGMAS)["AP"]
    assert 0.05 < whole < 0.95
    assert overlapped_ap(people, found, SIGMAS) == pytest.approx(whole)
    assert math.isnan(overlapped_ap(data_set(A, ALONE, ELSEWHERE), found, SIGMAS))
    assert math.isnan(overlapped_ap(data_set(), [], SIGMAS))


def test_only_people_are_neighbours() -> None:
    people = data_set(A, {"image_id": 1, "category_id": 2, "bbox": [0, 0, 10, 10]})
    people["categories"].append({"id": 2, "name": "kite"})
    assert math.isnan(overlapped_ap(people, poses((1, 0, 0.9)), SIGMAS))
    people["annotations"].append({"id": 7, **B})
    assert overlapped_ap(people, poses((1, 0, 0.9), (1, 4, 0.8)), SIGMAS) == pytest.approx(1)


def test_people_without_a_box_are_told() -> None:
    boxless = {key: value for key, value in B.items() if key != "bbox"}
    with pytest.raises(DataError, match="annotation 1 has no bbox"):
        overlapped_ap(data_set(A, boxless), [], SIGMAS)


def test_arguments_stay_as_they_were() -> None:
    people, found = data_set(A, B, ALONE), poses((1, 0, 0.9))
    before = copy.deepcopy((people, found))
    overlapped_ap(people, found, SIGMAS)
    assert (people, found) == before


@pytest.mark.shared
def test_coco_mini(shared: Path) -> None:
    """Shifting only the isolated changes nothing; shifting only the overlapped changes everything."""
    import json

    from mipnet.skeletons import COCO17

    data = json.loads((shared / "data/coco-mini/annotations/person_keypoints_train2017.json").read_text())
    people = data["annotations"]
    chosen = overlapped_people(people)
    assert 5 < len(chosen) < sum(p["num_keypoints"] > 0 for p in people) / 2

    def shifted(those: bool) -> list[dict[str, Any]]:
        labelled = [i for i, p in enumerate(people) if p["num_keypoints"]]
        joints = np.array([people[i]["keypoints"] for i in labelled], np.float64).reshape(-1, 17, 3)
        # so little that every pose stays that person's, so much that none is precise
        sizes = np.sqrt([people[i]["area"] for i in labelled])
        moved = np.array([(i in chosen) == those for i in labelled])
        joints[..., 0] += (0.06 * sizes * moved)[:, None]
        return keypoint_results([people[i]["image_id"] for i in labelled], joints, np.ones(len(labelled)))

    assert overlapped_ap(data, shifted(False), COCO17.sigmas) == pytest.approx(1)
    assert evaluate_keypoints(data, shifted(False), COCO17.sigmas)["AP"] < 0.9
    assert overlapped_ap(data, shifted(True), COCO17.sigmas) < 0.7
