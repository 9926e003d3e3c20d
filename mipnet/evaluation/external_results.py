"""Results of other methods, to be scored by the same rules and set beside ours in one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from mipnet.config import Config
from mipnet.data.coco import CocoFile, read_json
from mipnet.errors import DataError
from mipnet.evaluation.protocols import evaluate_poses
from mipnet.evaluation.result_rows import Entry
from mipnet.storage import Folder, parent_of

HELP = "give a JSON list of {image_id, category_id, keypoints: [x, y, score] · K, score}"
VIEW = "results"


def other_entries(named: Sequence[str], files: Mapping[str, CocoFile], config: Config) -> list[Entry]:
    """Lines of the table for other methods.

    Args:
        named: NAME=FILE for each, results in COCO's format; {split} in FILE is the split's name.
        files: split -> its annotations.
        config: whose joints and protocol hold.

    Raises:
        DataError: a name without a file, a file that is missing or broken, or results of something else.
    """
    entries = []
    for split, file in files.items():
        for pair in named:
            name, _, path = pair.partition("=")
            if not name or not path:
                raise DataError(
                    f"--results: {pair!r} names no file", "give NAME=FILE, e.g. openpose=poses.json"
                )
            folder, file_name = parent_of(Folder.of(path.replace("{split}", split)).uri)
            results = read_results(folder, file_name, file)
            metrics = evaluate_poses(
                config.data.protocol, file.annotations, results, config.data.joints.sigmas
            )
            entries.append(Entry(split, name, VIEW, metrics, results))
    return entries


def read_results(folder: Folder, name: str, file: CocoFile) -> list[dict[str, Any]]:
    """The poses of a file in COCO's results format, checked.

    Some tools name the image by its file (``000000000139.jpg``, or that without its ending) and leave
    ``category_id`` out; both are taken.

    Raises:
        DataError: the file is missing, broken, of other images or of another skeleton.
    """
    where = folder.path(name)
    found = read_json(folder, name, "give --results NAME=FILE")
    if not isinstance(found, list):
        raise DataError(f"{where} is not a list", HELP)
    ids = ids_by_name(file)
    width = 3 * file.skeleton.num_joints
    results = []
    for number, pose in enumerate(found):
        problem = ""
        if not isinstance(pose, dict) or not {"image_id", "keypoints", "score"} <= pose.keys():
            problem = "lacks image_id, keypoints or score"
        elif not isinstance(pose["image_id"], int | str) or pose["image_id"] not in ids:
            problem = (
                f"is of image {pose['image_id']!r:.50}, which {file.path} does not have, or not only once"
            )
        elif not numbers(pose["keypoints"]) or not numbers([pose["score"]]):
            problem = "has keypoints or a score that are not numbers"
        elif len(pose["keypoints"]) != width:
            problem = f"has {len(pose['keypoints']) // 3} keypoints, {file.skeleton.name} {width // 3}"
        if problem:
            raise DataError(f"{where}: result {number} {problem}", HELP)
        ours = pose.get("category_id", file.category_id) in file.categories
        category = file.category_id if ours else pose["category_id"]
        results.append({**pose, "category_id": category, "image_id": ids[pose["image_id"]]})
    return results


def ids_by_name(file: CocoFile) -> dict[int | str, int]:
    """Image id by id, by file name, and by that without folder and ending where one image alone has it."""
    short: dict[str, set[int]] = {}
    for number, info in file.coco.imgs.items():
        path = PurePosixPath(info["file_name"])
        for name in (path.name, path.stem):
            short.setdefault(name, set()).add(number)
    ids: dict[int | str, int] = {name: min(owners) for name, owners in short.items() if len(owners) == 1}
    ids |= {info["file_name"]: number for number, info in file.coco.imgs.items()}
    return ids | {number: number for number in file.coco.imgs}


def numbers(values: Any) -> bool:
    """Whether all of a list are finite numbers."""
    return isinstance(values, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )
