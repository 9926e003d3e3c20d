"""Result files of other methods, scored by the same protocol for the same table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from mipnet.config import Config
from mipnet.data.coco import CocoKeypointFile
from mipnet.data.json_files import read_json
from mipnet.errors import DataError
from mipnet.evaluation.protocols import evaluate_poses
from mipnet.evaluation.result_rows import ResultRow
from mipnet.storage import Folder, split_uri

FORMAT_HELP = "give a JSON list of {image_id, category_id, keypoints: [x, y, score] · K, score}"
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
            results = read_results(folder, file_name, file)
            metrics = evaluate_poses(config.data, file.annotations, results)
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
    width = 3 * file.skeleton.num_joints
    results = []
    for number, pose in enumerate(found):
        problem, image_id = "", None
        if isinstance(pose, dict):
            given = pose.get("image_id")
            image_id = names.get(given) if isinstance(given, str) else None
            image_id = file.image_ids.get(given) if image_id is None else image_id
        if not isinstance(pose, dict) or not {"image_id", "keypoints", "score"} <= pose.keys():
            problem = "lacks image_id, keypoints or score"
        elif image_id is None:
            image = f"{pose['image_id']!r:.50}"
            problem = f"is of image {image}, which {file.path} does not have, or not only once"
        elif not is_finite_list(pose["keypoints"]) or not is_finite_list([pose["score"]]):
            problem = "has keypoints or a score that are not numbers"
        elif len(pose["keypoints"]) != width:
            problem = f"has {len(pose['keypoints']) // 3} keypoints, {file.skeleton.name} {width // 3}"
        if problem:
            raise DataError(f"{uri}: result {number} {problem}", FORMAT_HELP)
        known = file.is_person(pose.get("category_id", file.category_id))
        category = file.category_id if known else pose["category_id"]
        results.append({**pose, "category_id": category, "image_id": image_id})
    return results


def ids_by_name(file: CocoKeypointFile) -> dict[str, int]:
    """Image id by file name, and by base name with and without ending where it is unique."""
    short: dict[str, set[int]] = {}
    for number, file_name in file.file_names.items():
        path = PurePosixPath(file_name)
        for name in (path.name, path.stem):
            short.setdefault(name, set()).add(number)
    ids = {name: min(owners) for name, owners in short.items() if len(owners) == 1}
    return ids | {file_name: number for number, file_name in file.file_names.items()}


def is_finite_list(values: Any) -> bool:
    """Whether the value is a list of finite numbers."""
    return isinstance(values, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )
