from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mipnet.errors import DataError
from mipnet.evaluation.coco import evaluate_keypoints, keypoint_results

SIGMAS = (0.05, 0.1)
METRICS = {"AP", "AP50", "AP75", "APM", "APL", "AR", "AR50"}


def person(number: int, image: int, x: float, area: float = 10_000.0, **changes: Any) -> dict[str, Any]:
    """Two joints 10 px apart; area 10,000 is large, 2,000 medium."""
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [x, 0, 10, 10],
        "area": area,
        "iscrowd": 0,
        "num_keypoints": 2,
        "keypoints": [x, 0, 2, x + 10, 0, 2],
        **changes,
    }


def data_set(*people: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "width": 999, "height": 99}, {"id": 2, "width": 999, "height": 99}],
        "annotations": list(people),
        "categories": [{"id": 1, "name": "person", "keypoints": ["a", "b"]}],
    }


def results(*poses: tuple[int, float, float]) -> list[dict[str, Any]]:
    """(image, x, score) -> the result whose joints are at x and x + 10."""
    keypoints = np.array([[[x, 0, 1], [x + 10, 0, 1]] for _, x, _ in poses], dtype=float)
    return keypoint_results([image for image, _, _ in poses], keypoints, np.array([s for _, _, s in poses]))


def test_results_are_plain_json() -> None:
    made = keypoint_results(np.array([5]), np.ones((1, 2, 3), np.float32), np.array([0.5], np.float32), 3)
    expected = {"image_id": 5, "category_id": 3, "keypoints": [1.0] * 6, "score": 0.5}
    assert json.loads(json.dumps(made)) == [expected]


def test_perfect_results_and_sizes_that_are_absent() -> None:
    metrics = evaluate_keypoints(
        data_set(person(1, 1, 0), person(2, 2, 50)), results((1, 0, 0.9), (2, 50, 0.1)), SIGMAS
    )
    assert set(metrics) == METRICS
    assert math.isnan(metrics.pop("APM"))
    assert metrics == pytest.approx(dict.fromkeys(METRICS - {"APM"}, 1.0))


def test_one_of_two_found_by_hand() -> None:
    # 2 people, 1 found: precision 1 up to recall 0.5, i.e. at 51 of the 101 recall points
    annotations = data_set(person(1, 1, 0), person(2, 2, 50, area=2_000))
    metrics = evaluate_keypoints(annotations, results((1, 0, 0.9)), SIGMAS)
    assert metrics["AP"] == metrics["AP50"] == metrics["AP75"] == pytest.approx(51 / 101)
    assert (metrics["APM"], metrics["APL"]) == pytest.approx((0, 1))
    assert metrics["AR"] == metrics["AR50"] == 0.5


def test_oks_thresholds_by_hand() -> None:
    # both joints off by d: mean over joints of exp(-d² / (2 · (2 sigma)² · 10000)) with sigmas 0.05 and 0.1
    shift = 8.0
    oks = (math.exp(-(shift**2) / 200) + math.exp(-(shift**2) / 800)) / 2
    assert 0.8 < oks < 0.85  # passes 0.5 to 0.8: 7 of the 10 thresholds
    metrics = evaluate_keypoints(data_set(person(1, 1, 0)), results((1, shift, 1.0)), SIGMAS)
    assert metrics["AP"] == pytest.approx(0.7)
    assert metrics["AR"] == pytest.approx(0.7)
    assert (metrics["AP50"], metrics["AP75"], metrics["AR50"]) == pytest.approx((1, 1, 1))
    looser = evaluate_keypoints(data_set(person(1, 1, 0)), results((1, shift, 1.0)), (1.0, 1.0))
    assert looser["AP"] == pytest.approx(1)


def test_false_positives_cost_precision_not_recall() -> None:
    metrics = evaluate_keypoints(data_set(person(1, 1, 0)), results((1, 500, 0.9), (1, 0, 0.5)), SIGMAS)
    assert metrics["AP"] == pytest.approx(0.5)
    assert metrics["AR50"] == 1


def test_empty_results_score_0() -> None:
    metrics = evaluate_keypoints(data_set(person(1, 1, 0)), [], SIGMAS)
    assert math.isnan(metrics.pop("APM"))
    assert metrics == dict.fromkeys(METRICS - {"APM"}, 0.0)


@pytest.mark.parametrize("made", [[], results((1, 0, 1.0))])
def test_without_anybody_everything_is_nan(made) -> None:
    crowd = person(1, 1, 0, iscrowd=1)
    unlabelled = person(2, 2, 0, num_keypoints=0, keypoints=[0] * 6)
    for nobody in (data_set(), data_set(crowd, unlabelled)):
        assert all(math.isnan(value) for value in evaluate_keypoints(nobody, made, SIGMAS).values())


def test_annotation_0_can_be_found() -> None:
    # COCOeval marks "no match" with id 0
    assert evaluate_keypoints(data_set(person(0, 1, 0)), results((1, 0, 1.0)), SIGMAS)["AP"] == pytest.approx(
        1
    )


def test_counts_keypoints_itself_and_ignores_categories_without_any() -> None:
    bare = person(1, 1, 0)
    del bare["num_keypoints"], bare["iscrowd"]
    annotations = data_set(bare)
    annotations["categories"].append({"id": 2, "name": "kite"})
    annotations["annotations"].append({"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1]})
    assert evaluate_keypoints(annotations, results((1, 0, 1.0)), SIGMAS)["AP"] == pytest.approx(1)


def test_chosen_images_alone() -> None:
    annotations, found = data_set(person(1, 1, 0), person(2, 2, 50)), results((1, 0, 0.9))
    assert evaluate_keypoints(annotations, found, SIGMAS, image_ids=[1])["AP"] == pytest.approx(1)
    assert evaluate_keypoints(annotations, found, SIGMAS, image_ids=[2])["AP"] == 0


def test_arguments_stay_as_they_were_and_nothing_is_printed(capfd) -> None:
    annotations, found = data_set(person(1, 1, 0)), results((1, 0, 0.9))
    before = copy.deepcopy((annotations, found))
    evaluate_keypoints(annotations, found, SIGMAS)
    assert (annotations, found) == before
    assert capfd.readouterr() == ("", "")


def test_annotations_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "people.json"
    path.write_text(json.dumps(data_set(person(1, 1, 0))))
    assert evaluate_keypoints(path, results((1, 0, 0.9)), SIGMAS)["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 3}, "image 3"),
        ({"category_id": 2}, "category 2"),
        ({"keypoints": [0.0] * 9}, "9 keypoint numbers"),
        ({"score": None}, "no score"),
    ],
)
def test_results_that_do_not_fit(change, message) -> None:
    wrong = {**results((1, 0, 1.0))[0], **change}
    wrong = {name: value for name, value in wrong.items() if value is not None}
    with pytest.raises(DataError, match=message):
        evaluate_keypoints(data_set(person(1, 1, 0)), [*results((1, 0, 1.0)), wrong], SIGMAS)


NAN = math.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": [NAN, 0, 1, 10, 0, 1]}, "result 2 has keypoints that are not numbers"),
        ({"keypoints": [0, 0, 1, math.inf, 0, 1]}, "result 2 has keypoints that are not numbers"),
        ({"keypoints": [0, None, 1, 10, 0, 1]}, "result 2 has keypoints that are not numbers"),
        ({"keypoints": np.full(6, NAN)}, "result 2 has keypoints that are not numbers"),
        ({"score": NAN}, "result 2 has the score nan; give a finite number"),
        ({"score": "high"}, "result 2 has the score 'high'; give a finite number"),
    ],
)
def test_results_that_are_not_finite(change, message) -> None:
    # Such a pose would match any person: COCOeval asks whether its OKS is below a threshold.
    wrong = {**results((1, 500, 1.0))[0], **change}
    with pytest.raises(DataError, match=message):
        evaluate_keypoints(data_set(person(1, 1, 0)), [*results((1, 0, 1.0)), wrong], SIGMAS)


def test_a_score_of_none_and_keypoints_as_an_array() -> None:
    pose = results((1, 0, 1.0))[0]
    with pytest.raises(DataError, match="result 1 has the score None"):
        evaluate_keypoints(data_set(person(1, 1, 0)), [{**pose, "score": None}], SIGMAS)
    for keypoints in (np.array(pose["keypoints"], np.float32), tuple(pose["keypoints"])):
        same = {**pose, "keypoints": keypoints, "score": np.float32(1)}
        assert evaluate_keypoints(data_set(person(1, 1, 0)), [same], SIGMAS)["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": [NAN, 0, 2, 10, 0, 2]}, "annotation 7 has keypoints that are not numbers"),
        ({"area": None}, "annotation 7 has the area None; give a finite number"),
        ({"area": NAN}, "annotation 7 has the area nan; give a finite number"),
        ({"bbox": [0, 0, NAN, 10]}, "annotation 7 has the bbox"),
        ({"bbox": [0, 0, 10]}, "annotation 7 has the bbox"),
        ({"image_id": "1"}, "annotation 7 is of image '1', unknown to the annotations"),
        ({"image_id": 9}, "annotation 7 is of image 9, unknown to the annotations"),
    ],
)
def test_annotations_that_cannot_be_scored(change, message) -> None:
    with pytest.raises(DataError, match=message):
        evaluate_keypoints(data_set(person(7, 1, 0, **change)), results((1, 0, 1.0)), SIGMAS)


def test_annotations_without_categories_and_unknown_image_ids() -> None:
    lost = {name: value for name, value in person(7, 1, 0).items() if name != "category_id"}
    with pytest.raises(DataError, match="annotation 7 has no category_id"):
        evaluate_keypoints(data_set(lost), [], SIGMAS)
    with pytest.raises(DataError, match="no image of the 'image_ids' '1', 9; give ids as"):
        evaluate_keypoints(data_set(person(1, 1, 0)), [], SIGMAS, image_ids=[2, "1", 9])
    mixed = data_set(person(1, 1, 0))
    mixed["images"][1]["id"] = "2"
    with pytest.raises(DataError, match="partly text"):
        evaluate_keypoints(mixed, [], SIGMAS)


def test_annotations_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        evaluate_keypoints(tmp_path / "missing.json", [], SIGMAS)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        evaluate_keypoints(tmp_path / "broken.json", [], SIGMAS)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError, match="no list of images"):
        evaluate_keypoints(tmp_path / "list.json", [], SIGMAS)
    with pytest.raises(DataError, match="no list of annotations"):
        evaluate_keypoints({"images": []}, [], SIGMAS)
    with pytest.raises(DataError, match="6 keypoint numbers"):
        evaluate_keypoints(data_set(person(1, 1, 0)), [], (0.1,) * 3)
    areas_missing = person(7, 1, 0)
    del areas_missing["area"]
    with pytest.raises(DataError, match="annotation 7 has no area"):
        evaluate_keypoints(data_set(areas_missing), [], SIGMAS)


@pytest.mark.shared
def test_same_figures_as_plain_pycocotools(shared: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from mipnet.skeletons import COCO17

    path = shared / "data/coco-mini/annotations/person_keypoints_train2017.json"
    people = [p for p in json.loads(path.read_text())["annotations"] if p["num_keypoints"]]
    rng = np.random.default_rng(0)
    poses = np.array([p["keypoints"] for p in people], dtype=float).reshape(-1, 17, 3)
    poses[..., :2] += rng.normal(0, 5, (len(people), 17, 2))
    found = keypoint_results([p["image_id"] for p in people], poses, rng.random(len(people)))
    ours = evaluate_keypoints(path, found, COCO17.sigmas)
    truth = COCO(str(path))
    evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(found)), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50")
    assert [ours[name] for name in names] == pytest.approx(evaluation.stats[:7].tolist(), abs=1e-12)
    assert 0.1 < ours["AP"] < 0.9
