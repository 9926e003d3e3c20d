"""COCO's keypoint metrics, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mipnet.data.json_values import LARGEST_COORDINATE, coordinates, is_plain, number, shown
from mipnet.errors import DataError, first_few
from mipnet.evaluation.oks import Sigmas

Annotations = dict[str, Any] | str | PathLike[str]

RESULT_FIELDS = ("image_id", "category_id", "keypoints", "score")
ALL_AREAS = {"all": [0, 1e5**2]}  # px²; COCO's own "all", without medium and large


def keypoint_results(
    image_ids: Sequence[int | str] | np.ndarray, poses: np.ndarray, scores: np.ndarray, category_id: int = 1
) -> list[dict[str, Any]]:
    """Poses as COCO's list of results, ready for ``evaluate_keypoints`` and for ``json.dump``.

    Args:
        image_ids: (M,); poses: (M, K, 3) x, y in image px and keypoint score; scores: (M,).
        category_id: the person's category.
    """
    ids, values = np.asarray(image_ids).tolist(), np.asarray(scores, np.float64).tolist()
    keypoints = [pose.ravel().tolist() for pose in np.asarray(poses, np.float64)]
    return [
        {"image_id": image_id, "category_id": category_id, "keypoints": pose, "score": score}
        for image_id, pose, score in zip(ids, keypoints, values, strict=True)
    ]


def with_boxes(
    results: list[dict[str, Any]], instances: np.ndarray, boxes: np.ndarray
) -> list[dict[str, Any]]:
    """``keypoint_results`` with each pose's ``instance`` (its λ) and ``box``.

    Args:
        results: M poses as from ``keypoint_results``.
        instances: (M,) int64; boxes: (M, 4) x, y, w, h in px, rounded to a hundredth.
    """
    return [
        {**result, "instance": instance, "box": [round(v, 2) for v in box]}
        for result, instance, box in zip(results, instances.tolist(), boxes.tolist(), strict=True)
    ]


def evaluate_keypoints(
    annotations: Annotations,
    results: list[dict[str, Any]],
    sigmas: Sigmas,
    image_ids: Sequence[int | str] | None = None,
) -> dict[str, float]:
    """COCO's keypoint metrics: at most 20 poses an image, OKS thresholds 0.5 to 0.95.

    Args:
        annotations: a COCO keypoint data set, or the path of its JSON; not changed.
        results: COCO's format: image_id, category_id, keypoints (x, y, score) · K, score; not changed.
        sigmas: (K,) OKS constants.
        image_ids: the images to evaluate; by default all of the annotations'.

    Returns:
        AP, AP50, AP75, APM, APL (people of 32² to 96² px², and larger), AR, and AR50: the largest recall at
        OKS 0.5, people of all sizes. All in [0, 1]; nan where the data set has no such people
        (COCO's -1).

    Raises:
        DataError: a file that is not a keypoint data set; unknown image or category ids; another number of
            keypoints; keypoints, boxes, areas or scores that are not finite numbers.
    """
    annotations = load_annotations(annotations)
    if unknown := sorted(map(repr, set(image_ids or ()) - _image_ids(annotations))):
        what = f"the annotations have no image of the 'image_ids' {first_few(unknown)}"
        raise DataError(what, "give ids as they are in 'images'")
    ground_truth = ground_truth_index(annotations, len(sigmas))
    poses = results_index(annotations, results, len(sigmas))
    evaluation = run_evaluation(ground_truth, poses, sigmas, image_ids).eval
    precision, recall = evaluation["precision"], evaluation["recall"]  # [OKS, recall, category, area, 1], …
    return {
        "AP": mean_present(precision[:, :, :, 0]),
        "AP50": mean_present(precision[0, :, :, 0]),
        "AP75": mean_present(precision[5, :, :, 0]),
        "APM": mean_present(precision[:, :, :, 1]),
        "APL": mean_present(precision[:, :, :, 2]),
        "AR": mean_present(recall[:, :, 0]),
        "AR50": mean_present(recall[0, :, 0]),
    }


def load_annotations(annotations: Annotations) -> dict[str, Any]:
    """A COCO data set as a dict: the argument itself, or the content of the JSON file that it names.

    Raises:
        DataError: no such file, not JSON, or without images, annotations and categories.
    """
    name, data = "annotations", annotations
    if not isinstance(annotations, dict):
        name = str(annotations)
        try:
            data = json.loads(Path(annotations).read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"cannot read {name}: {error.strerror or error}") from None
        except ValueError as error:
            raise DataError(f"{name} is not JSON: {error}") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise DataError(f"{name} has no list of {key}: not a COCO data set")
    return cast("dict[str, Any]", data)


def ground_truth_index(annotations: dict[str, Any], num_keypoints: int) -> COCO:
    """The people of a data set for COCOeval; copies, because COCOeval writes into its input.

    Annotations get new ids from 1, because COCOeval reads a match with annotation 0 as no match.
    People without keypoints get ``num_keypoints`` 0, so that COCOeval ignores their regions.
    """
    images, categories = _image_ids(annotations), keypoint_categories(annotations)
    known = {category["id"] for category in categories}
    people: list[dict[str, Any]] = []
    for place, person in enumerate(annotations["annotations"]):
        owner = f"annotation {shown(person.get('id', f'at place {place}'))}"
        _require(person, ("category_id",), owner)
        if person["category_id"] not in known:
            continue
        _require(person, ("image_id", "bbox", "area"), owner)
        _check_image(person["image_id"], images, owner)
        keypoints = person.get("keypoints")
        absent = keypoints is None or not len(keypoints)
        keypoints = _keypoints([0] * (3 * num_keypoints) if absent else keypoints, num_keypoints, owner)
        labelled = person.get("num_keypoints")
        entry = {
            "id": len(people) + 1,
            "image_id": person["image_id"],
            "category_id": person["category_id"],
            "bbox": box_of(person, owner),
            "area": _number(person["area"], "area", owner),
            "num_keypoints": sum(v > 0 for v in keypoints[2::3]) if labelled is None else labelled,
            "keypoints": keypoints,
            "iscrowd": person.get("iscrowd", 0),
        }
        people.append(entry)
    return _index(annotations, categories, people)


def results_index(annotations: dict[str, Any], results: list[dict[str, Any]], num_keypoints: int) -> COCO:
    """Results for COCOeval, checked; box and area are the keypoints' extent, as in COCO's ``loadRes``.

    COCOeval takes every pose with a nan for a match, and sorts scores of nan anywhere.
    """
    images, categories = _image_ids(annotations), keypoint_categories(annotations)
    known = {category["id"] for category in categories}
    poses = []
    for place, result in enumerate(results, start=1):
        owner = f"result {place}"
        _require(result, RESULT_FIELDS, owner)
        _check_image(result["image_id"], images, owner)
        if result["category_id"] not in known:
            category = result["category_id"]
            raise DataError(f"{owner} has category {category!r}, unknown to the annotations")
        keypoints = _keypoints(result["keypoints"], num_keypoints, owner)
        xs, ys = keypoints[0::3], keypoints[1::3]
        width, height = max(xs) - min(xs), max(ys) - min(ys)
        entry = {
            "id": place,
            "image_id": result["image_id"],
            "category_id": result["category_id"],
            "keypoints": keypoints,
            "score": _number(result["score"], "score", owner),
            "bbox": [min(xs), min(ys), width, height],
            "area": width * height,
        }
        poses.append(entry)
    return _index(annotations, categories, poses)


def run_evaluation(
    ground_truth: COCO,
    poses: COCO,
    sigmas: Sigmas,
    image_ids: Sequence[int | str] | None = None,
    area_ranges: dict[str, list[float]] | None = None,
) -> COCOeval:
    """Run COCOeval (evaluate and accumulate) without its prints.

    In its ``eval``, ``precision`` is (OKS, recall, category, area range, 1) and ``recall`` (OKS, category,
    area range, 1); both are -1 where there are no people.

    Args:
        ground_truth, poses: as from ``ground_truth_index`` and ``results_index``.
        sigmas: (K,) OKS constants.
        image_ids: by default all.
        area_ranges: name -> [least, largest] px²; by default COCO's all, medium, large.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluation(ground_truth, poses, sigmas)
        if image_ids is not None:
            evaluation.params.imgIds = list(image_ids)
        if area_ranges is not None:
            evaluation.params.areaRngLbl = list(area_ranges)
            evaluation.params.areaRng = list(area_ranges.values())
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def matched_images(ground_truth: COCO, poses: COCO, sigmas: Sigmas, oks: float) -> list[dict[str, Any]]:
    """COCOeval's assignment of poses to people at one OKS: of all poses, not of 20 an image.

    Args:
        ground_truth, poses, sigmas: as for ``run_evaluation``.
        oks: the least OKS of a match.

    Returns:
        for each image with people or poses, COCOeval's ``evalImgs``: the poses' ``dtIds`` by falling score,
        and of each its ``dtMatches`` (1, D), the person's id or 0, and ``dtIgnore`` (1, D); the people's
        ``gtIds`` and ``gtIgnore``.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluation(ground_truth, poses, sigmas)
        evaluation.params.iouThrs = np.array([oks])
        evaluation.params.maxDets = [max(len(poses.dataset["annotations"]), 1)]
        evaluation.params.areaRngLbl, evaluation.params.areaRng = ["all"], [ALL_AREAS["all"]]
        evaluation.evaluate()
    return [image for image in evaluation.evalImgs if image is not None]


def _evaluation(ground_truth: COCO, poses: COCO, sigmas: Sigmas) -> COCOeval:
    evaluation = COCOeval(ground_truth, poses, "keypoints")
    evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
    return evaluation


def mean_present(values: np.ndarray) -> float:
    """Mean of the values that COCOeval filled in (not -1); nan if there are none."""
    present = values[values > -1]
    return float(present.mean()) if present.size else float("nan")


def keypoint_categories(annotations: dict[str, Any]) -> list[dict[str, Any]]:
    """The categories that define keypoints; all categories if none does."""
    categories = annotations["categories"]
    return [category for category in categories if category.get("keypoints")] or categories


def box_of(person: dict[str, Any], owner: str) -> list[float]:
    """A person's ``bbox``, x, y, w, h.

    Raises:
        DataError: it is not four finite numbers.
    """
    box = _plain_numbers(person["bbox"])
    if box is None or len(box) != 4:
        raise DataError(f"{owner} has the bbox {shown(person['bbox'])}", "give x, y, width, height in px")
    return box


def _image_ids(annotations: dict[str, Any]) -> set[Any]:
    for place, image in enumerate(annotations["images"]):
        _require(image, ("id",), f"image at place {place}")
    ids = {image["id"] for image in annotations["images"]}
    if len({isinstance(image_id, str) for image_id in ids}) > 1:  # COCOeval sorts them
        raise DataError("the ids of images are partly text, partly numbers", "write all alike")
    return ids


def _require(entry: Any, fields: Sequence[str], owner: str) -> None:
    for field in fields:
        if not isinstance(entry, dict) or field not in entry:
            raise DataError(f"{owner} has no {field}")


def _check_image(image_id: Any, images: set[Any], owner: str) -> None:
    if image_id not in images:
        raise DataError(f"{owner} is of image {image_id!r}, unknown to the annotations")


def _keypoints(values: Any, num_keypoints: int, owner: str) -> list[float]:
    keypoints = _plain_numbers(values)
    if keypoints is None:
        what = f"{owner} has keypoints that are not numbers, or beyond {LARGEST_COORDINATE:g} px"
        raise DataError(what, "leave it out, or give finite ones")
    if len(keypoints) != 3 * num_keypoints:
        raise DataError(f"{owner} has {len(keypoints)} keypoint numbers, not {num_keypoints} · 3")
    return keypoints


def _plain_numbers(values: Any) -> list[float] | None:
    """The numbers of a list, tuple or array, see ``coordinates``."""
    if is_plain(values):  # nearly all
        return cast("list[float]", values)
    try:
        return coordinates(np.asarray(values).tolist())
    except ValueError:  # lists of different lengths
        return None


def _number(value: Any, name: str, owner: str) -> float:
    found = number(value.item() if isinstance(value, np.generic) else value)
    if found is None:
        raise DataError(f"{owner} has the {name} {shown(value)}", "give a finite number")
    return found


def _index(
    annotations: dict[str, Any], categories: list[dict[str, Any]], entries: list[dict[str, Any]]
) -> COCO:
    index = COCO()
    index.dataset = {"images": annotations["images"], "categories": categories, "annotations": entries}
    with contextlib.redirect_stdout(io.StringIO()):
        index.createIndex()
    return index
