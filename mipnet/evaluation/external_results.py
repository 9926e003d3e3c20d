"""Result files of other methods, scored by the same protocol for the same table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from mipnet.config import Config
from mipnet.data.coco import CocoKeypointFile, read_json
from mipnet.data.json_values import coordinates, number, shown
from mipnet.errors import DataError
from mipnet.evaluation.protocols import evaluate_poses, nothing_measured
from mipnet.evaluation.result_rows import ResultRow
from mipnet.storage import Folder, split_uri

FORMAT_HELP = "give a JSON list of {image_id, category_id, keypoints: [x, y, score] · K, score}"
EXTERNAL_MODE = "results"  # in place of an instance mode


def external_result_rows(
    named: Sequence[str], files: Mapping[str, CocoKeypointFile], config: Config
) -> list[ResultRow]:
    """Rows of the table for other methods; of a file without a pose all metrics are nan.

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
            results = read_results(folder, file_name, file)
            if results:
                metrics = evaluate_poses(config.data, file.annotations, results)
            else:
                metrics = nothing_measured(config.data)
            result_rows.append(ResultRow(split, name, EXTERNAL_MODE, metrics, results))
    return result_rows


def read_results(folder: Folder, name: str, file: CocoKeypointFile) -> list[dict[str, Any]]:
    """Read and check a file in COCO's results format.

    ``image_id`` may also be the image's file name, with or without ending, and ``category_id`` may be absent,
    because some tools write such files.

    Raises:
        DataError: the file is missing or broken, or of other images or another skeleton.
    """
    uri = folder.path(name)
    found = read_json(folder, name, "give --results NAME=FILE")
    if not isinstance(found, list):
        raise DataError(f"{uri} is not a list", FORMAT_HELP)
    names = ids_by_name(file)
    results = []
    for place, entry in enumerate(found):
        pose = _read_pose(entry, file, names)
        if isinstance(pose, str):
            raise DataError(f"{uri}: result {place} {pose}", FORMAT_HELP)
        results.append(pose)
    return results


def _read_pose(entry: Any, file: CocoKeypointFile, names: Mapping[str, int]) -> dict[str, Any] | str:
    """A result with numbers for ids; what is wrong with it, if it cannot be used."""
    if not isinstance(entry, dict) or not {"image_id", "keypoints", "score"} <= entry.keys():
        return "lacks image_id, keypoints or score"
    given = entry["image_id"]
    image_id = names.get(given) if isinstance(given, str) else None
    image_id = file.image_ids.get(given) if image_id is None else image_id
    keypoints, score = coordinates(entry["keypoints"]), number(entry["score"])
    category = entry.get("category_id")
    if image_id is None:
        return f"is of image {shown(given)}, which {file.path} does not have, or not only once"
    if keypoints is None or score is None:
        return "has keypoints or a score that are not numbers"
    if len(keypoints) != 3 * file.skeleton.num_joints:
        return f"has {len(keypoints) / 3:g} keypoints, {file.skeleton.name} {file.skeleton.num_joints}"
    if category is not None and not file.is_person(category):
        return f"is of category {shown(category)}, which is not of people in {file.path}"
    read = {"image_id": image_id, "category_id": file.category_id, "keypoints": keypoints, "score": score}
    return {**entry, **read}


def ids_by_name(file: CocoKeypointFile) -> dict[str, int]:
    """Image id by file name, and by base name with and without ending where it is unique."""
    short: dict[str, set[int]] = {}
    for image_id, info in file.coco.imgs.items():
        path = PurePosixPath(info["file_name"])
        for name in (path.name, path.stem):
            short.setdefault(name, set()).add(image_id)
    ids = {name: min(owners) for name, owners in short.items() if len(owners) == 1}
    return ids | {info["file_name"]: image_id for image_id, info in file.coco.imgs.items()}
