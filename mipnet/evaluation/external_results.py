"""Result files of other methods, scored by the same protocol for the same table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mipnet.config import Config
from mipnet.data.coco import CocoKeypointFile
from mipnet.data.json_files import read_json
from mipnet.data.json_values import coordinates, id_key, number, shown
from mipnet.data.validation import Findings
from mipnet.errors import DataError
from mipnet.evaluation.protocols import evaluate_poses, nothing_measured
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
        DataError: a name without a file, one that is given twice or has a "/", or as ``read_results``.
    """
    paths: dict[str, str] = {}
    for pair in named:
        name, _, path = pair.partition("=")
        if not name or not path:
            hint = "give NAME=FILE, e.g. openpose=poses.json"
            raise DataError(f"--results: {pair!r} names no file", hint)
        if name in paths or "/" in name:  # metrics are named split/name/…
            wrong = "is given twice" if name in paths else "has a '/'"
            raise DataError(
                f"--results: the name {name!r} {wrong}", "give each method a name of its own, without '/'"
            )
        paths[name] = path
    result_rows = []
    for split, file in files.items():
        for name, path in paths.items():
            folder, file_name = split_uri(Folder.of(path.replace("{split}", split)).uri)
            results, notes = read_results(folder, file_name, file)
            if results:
                metrics = evaluate_poses(config.data, file.annotations, results)
            else:
                metrics = nothing_measured(config.data)
                notes = (*notes, f"{folder.path(file_name)} has no pose for split {split}")
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
    peoples, notes = _peoples_category(found, file, uri)
    poses = []
    for place, entry in enumerate(found):
        pose = _read_pose(entry, file, peoples)
        if isinstance(pose, str):
            raise DataError(f"{uri}: result {place} {pose}", FORMAT_HELP)
        poses.append(pose)
    ids = file.images().ids.tolist()
    results = []
    foreign = Findings()
    for place, (pose, index) in enumerate(zip(poses, file.matcher.match(poses, uri, "result"), strict=True)):
        if index is None:
            if not pose.get("file_name"):
                image = shown(pose.get("image_id"))
                what = f"result {place} is of image {image}, which {file.path} does not have"
                raise DataError(f"{uri}: {what}", FORMAT_HELP)
            foreign.add(f"result of an image that {file.path} does not list", pose["file_name"])
            continue
        results.append({**pose, "image_id": ids[index]})
    if foreign.total and not results:
        example = file.matcher.names[0] if len(ids) else "none"
        raise DataError(
            f"{uri}: no result is of an image of {file.path} ({'; '.join(foreign.lines())})",
            f"name the images as there, e.g. {example}; without file_name, image_id counts",
        )
    return results, (*notes, *(f"left out of {uri}: {line}" for line in foreign.lines()))


def _read_pose(entry: Any, file: CocoKeypointFile, peoples: set[int | str | None]) -> dict[str, Any] | str:
    """A result with plain numbers; what is wrong with it, if it cannot be used."""
    if not isinstance(entry, dict) or not {"keypoints", "score"} <= entry.keys():
        return "lacks image_id, keypoints or score"
    if entry.get("image_id") is None and not isinstance(entry.get("file_name"), str):
        return "lacks image_id, keypoints or score"
    keypoints, score = coordinates(entry["keypoints"]), number(entry["score"])
    category = entry.get("category_id")
    if keypoints is None or score is None:
        return "has keypoints or a score that are not numbers"
    if len(keypoints) != 3 * file.skeleton.num_joints:
        return f"has {len(keypoints) / 3:g} keypoints, {file.skeleton.name} {file.skeleton.num_joints}"
    if category is not None and id_key(category) not in peoples and not file.is_person(category):
        return f"is of category {shown(category)}, which is not of people in {file.path}"
    return {**entry, "category_id": file.category_id, "keypoints": keypoints, "score": score}


def _peoples_category(
    entries: Sequence[Any], file: CocoKeypointFile, uri: str
) -> tuple[set[int | str | None], list[str]]:
    """The category that all results have, if the annotations do not know it, and a line about it.

    It is the people's, because the tool counts otherwise.
    """
    given = {id_key(entry.get("category_id")) if isinstance(entry, dict) else None for entry in entries}
    known = {*file.columns.about["other_category_ids"], *file.person_category_ids}
    if len(given) != 1 or None in given or given & known:
        return set(), []
    (other,) = given
    return given, [f"{uri}: category {other} of all results was taken for people's, {file.category_id}"]
