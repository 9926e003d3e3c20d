"""Result files of other methods, scored by the same protocol for the same table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mipnet.config import Config
from mipnet.data.coco import CocoKeypointFile, read_json
from mipnet.data.json_values import id_key
from mipnet.data.validation import Findings
from mipnet.errors import DataError
from mipnet.evaluation.protocols import evaluate_poses
from mipnet.evaluation.result_rows import ResultRow
from mipnet.storage import Folder, split_uri

FORMAT_HELP = "give a JSON list of {image_id or file_name, category_id, keypoints: [x, y, score] · K, score}"
EXTERNAL_MODE = "results"  # in place of an instance mode


def external_result_rows(
    named: Sequence[str], files: Mapping[str, CocoKeypointFile], config: Config
) -> list[ResultRow]:
    """Rows of the table for other methods.

    Args:
        named: NAME=FILE for each method, results in COCO's format; {split} in FILE is the split's name.
        files: split -> its annotations.
        config: skeleton and protocol.

    Raises:
        DataError: a name without a file, or as ``read_results``.
    """
    result_rows = []
    for split, file in files.items():
        for pair in named:
            name, _, path = pair.partition("=")
            if not name or not path:
                hint = "give NAME=FILE, e.g. openpose=poses.json"
                raise DataError(f"--results: {pair!r} names no file", hint)
            folder, file_name = split_uri(Folder.of(path.replace("{split}", split)).uri)
            results, notes = read_results(folder, file_name, file)
            metrics = evaluate_poses(config.data, file.annotations, results)
            result_rows.append(ResultRow(split, name, EXTERNAL_MODE, metrics, results, notes))
    return result_rows


def read_results(
    folder: Folder, name: str, file: CocoKeypointFile
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Read and check a file in COCO's results format.

    Images are found by ``file_name``, else by ``image_id`` (``ImageMatcher``), which may also be a file name
    with or without ending; ``category_id`` may be absent, because some tools write such files.

    Returns:
        the results with the ids of ``file``; a line about each kind of thing that was left out or decided.

    Raises:
        DataError: the file is missing or broken, or of other images or another skeleton.
    """
    uri = folder.path(name)
    found = read_json(folder, name, "give --results NAME=FILE")
    if not isinstance(found, list):
        raise DataError(f"{uri} is not a list", FORMAT_HELP)
    for number, pose in enumerate(found):
        if problem := _problem(pose, file):
            raise DataError(f"{uri}: result {number} {problem}", FORMAT_HELP)
    of_people, notes = _of_people(found, file, uri)
    ids = sorted(file.coco.imgs)
    results = []
    foreign = Findings()
    for number, (pose, index) in enumerate(zip(found, file.matcher.match(found, uri, "result"), strict=True)):
        if index is None:
            if not pose.get("file_name"):
                image = f"{pose.get('image_id')!r:.50}"
                what = f"result {number} is of image {image}, which {file.path} does not have"
                raise DataError(f"{uri}: {what}", FORMAT_HELP)
            foreign.add(f"result of an image that {file.path} does not list", pose["file_name"])
            continue
        category = file.category_id if of_people(pose) else pose["category_id"]
        results.append({**pose, "category_id": category, "image_id": ids[index]})
    if foreign.total and not results:
        example = file.matcher.names[0] if len(ids) else "none"
        raise DataError(
            f"{uri}: no result is of an image of {file.path} ({'; '.join(foreign.lines())})",
            f"name the images as there, e.g. {example}; without file_name, image_id counts",
        )
    return results, (*notes, *(f"left out of {uri}: {line}" for line in foreign.lines()))


def _problem(pose: Any, file: CocoKeypointFile) -> str:
    """Why a result cannot be used; "" if it can."""
    if not isinstance(pose, dict) or not {"keypoints", "score"} <= pose.keys():
        return "lacks image_id, keypoints or score"
    if pose.get("image_id") is None and not isinstance(pose.get("file_name"), str):
        return "lacks image_id, keypoints or score"
    if not is_finite_list(pose["keypoints"]) or not is_finite_list([pose["score"]]):
        return "has keypoints or a score that are not numbers"
    if len(pose["keypoints"]) != 3 * file.skeleton.num_joints:
        return f"has {len(pose['keypoints']) // 3} keypoints, {file.skeleton.name} {file.skeleton.num_joints}"
    return ""


def _of_people(
    poses: Sequence[dict[str, Any]], file: CocoKeypointFile, uri: str
) -> tuple[Callable[[dict[str, Any]], bool], list[str]]:
    """Whether a result is of a person, and what was decided about that.

    A category that all results have and the annotations do not know is the people's: the tool counts
    otherwise.
    """
    given = {id_key(pose["category_id"]) for pose in poses if "category_id" in pose}
    known = {id_key(category["id"]) for category in file.annotations["categories"]}
    if len(given) == 1 and not given & (known | file.person_category_ids):
        (other,) = given
        line = f"{uri}: category {other} of all results was taken for people's, {file.category_id}"
        return lambda pose: True, [line]
    return lambda pose: "category_id" not in pose or file.is_person(pose["category_id"]), []


def is_finite_list(values: Any) -> bool:
    """Whether the value is a list of finite numbers."""
    return isinstance(values, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )
