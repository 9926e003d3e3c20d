"""Good files with one to three fields spoiled at random: read for what is left, or refused in one line.

``MIPNET_FUZZ_EXAMPLES=2000 pytest tests/data/test_spoiled_files.py`` tries other and more of them.
"""

from __future__ import annotations

import copy
import json
import os
from collections import Counter
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mipnet.config import Config, preset
from mipnet.config.schema import DataConfig
from mipnet.data.annotation_statistics import split_statistics
from mipnet.data.coco import CocoKeypointFile
from mipnet.data.dataset_formats import load_boxes, open_split
from mipnet.errors import UserError
from mipnet.evaluation.external_results import external_result_rows
from mipnet.evaluation.protocols import evaluate_poses
from mipnet.evaluation.result_rows import ResultRow, results_table
from mipnet.experiment.preflight import check_split
from mipnet.skeletons import COCO17
from mipnet.storage import Folder
from tests.helpers import naive_reading
from tests.helpers.naive_reading import NaiveFile

EXAMPLES = os.environ.get("MIPNET_FUZZ_EXAMPLES", "")
W, H, JOINTS = 120, 90, list(COCO17.joints)
PICTURES = {f"{letter}.png" for letter in "abcd"}
ANNOTATIONS, RESULTS, DETECTIONS = "annotations/person_keypoints_val.json", "poses.json", "boxes/det_val.json"
LEAST_SCORE = 0.3


def good_annotations() -> dict[str, Any]:
    """Four pictures, ten people, a crowd, a person whom nobody labelled, and a ball."""
    rng = np.random.default_rng(0)
    images = [{"id": 11 + i, "file_name": f"{'abcd'[i]}.png", "width": W, "height": H} for i in range(4)]
    annotations: list[dict[str, Any]] = []
    for number in range(12):
        x, y, w, h = (int(v) for v in rng.integers([45, 42, 28, 33], [70, 47, 40, 41]))
        keypoints = np.column_stack(
            [rng.integers(x + 1, x + w, 17), rng.integers(y + 1, y + h, 17), [2] * 17]
        )
        keypoints[rng.random(17) < 0.3] = 0
        keypoints[3, 2] = min(keypoints[3, 2], 1)
        if number >= 10:
            keypoints[:] = 0
        annotations.append(
            {
                "id": 101 + number,
                "image_id": 11 + number % 4,
                "category_id": 1,
                "iscrowd": int(number == 10),
                "bbox": [x, y, w, h],
                "area": round(w * h * (0.35 + number / 40), 1),
                "num_keypoints": int((keypoints[:, 2] > 0).sum()),
                "keypoints": keypoints.ravel().tolist(),
            }
        )
    annotations.append({"id": 200, "image_id": 11, "category_id": 2, "bbox": [5, 5, 9, 9], "area": 60})
    categories = [
        {"id": 1, "name": "person", "keypoints": [*JOINTS], "skeleton": [[1, 2]]},
        {"id": 2, "name": "ball"},
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def good_files() -> dict[str, Any]:
    """Annotations, another method's results that miss them by a few px, and a detector's boxes."""
    rng = np.random.default_rng(1)
    annotations = good_annotations()
    results, detections = [], []
    for number, person in enumerate(annotations["annotations"][:10]):
        pose = np.reshape(person["keypoints"], (17, 3)) + rng.normal(0, [[2, 2, 0]], (17, 3)).round(1)
        pose[:, 2] = 1
        kind = {"image_id": person["image_id"], "category_id": 1, "score": 0.95 - number / 20}
        results.append({**kind, "keypoints": pose.ravel().tolist()})
        detections.append({**kind, "bbox": (np.array(person["bbox"]) + rng.integers(-2, 3, 4)).tolist()})
    detections += [{**detections[0], "category_id": 2}, {**detections[1], "score": 0.1}]
    return {"annotations": annotations, "results": results, "detections": detections}


EXTREMES: list[Any] = [
    *json.loads("[null, true, false, 0, 1, 2, 5, 12, -1, -0.0, 0.5, 3.7, 1e-9, NaN, Infinity, -Infinity]"),
    *json.loads("[1e9, -1e9, 1e300, 100000000000000000000, -100000000000000000000, 9223372036854775808]"),
    *json.loads(
        '["", " ", "x", "0", "1", "11", "0012", "2.5", "NaN", "1e999", "person", "a.png", "../b.png"]'
    ),
    *json.loads('[[], {}, [[]], [null], [1, 2, 3], [[1, 2], [3, 4]], {"x": 1}]'),
    *(10**400, "9" * 50, "a\nb", "\u202eé人", "\ud800", "\x00"),
]


def deep(levels: int) -> Any:
    return [deep(levels - 1)] if levels else []


OPERATIONS: dict[str, Any] = {
    "as text": lambda value: str(value),
    "as padded text": lambda value: f" 000{value} ",
    "as a float": lambda value: float(value) if isinstance(value, int) and abs(value) < 1e15 else value,
    "in a list": lambda value: [value],
    "in an object": lambda value: {"value": value},
    "in many lists": lambda value: deep(80),
    "negative": lambda value: -value if isinstance(value, int | float) else value,
    "tenfold": lambda value: 10 * value if isinstance(value, int | float | list) else value,
    "half": lambda value: value / 2 if isinstance(value, int | float) and abs(value) < 2**64 else value,
    "backwards": lambda value: value[::-1] if isinstance(value, list | str) else value,
}


@st.composite
def spoiled(draw: st.DrawFn) -> dict[str, Any]:
    """``good_files`` with one to three spoiled fields, at any level."""
    files = good_files()
    for _ in range(draw(st.integers(1, 3))):
        node: Any = files
        key: Any = draw(st.sampled_from(["annotations"] * 4 + ["results", "detections"]))
        while isinstance(node[key], dict | list) and node[key] and draw(st.integers(0, 5)):
            node = node[key]
            key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        kind = draw(st.sampled_from(["set", "set", "change", "remove", "twice", "copy"]))
        if kind == "set":
            node[key] = copy.deepcopy(draw(st.sampled_from(EXTREMES)))
        elif kind == "change":
            node[key] = OPERATIONS[draw(st.sampled_from(sorted(OPERATIONS)))](node[key])
        elif kind == "remove" and node is not files:
            del node[key]
        elif kind == "twice" and isinstance(node, list):
            node.insert(key, copy.deepcopy(node[key]))
        elif kind == "copy" and isinstance(node, list):
            node[key] = copy.deepcopy(draw(st.sampled_from(node)))
    return files


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A data set's folder with pictures; the files are written by each example."""
    folder = tmp_path_factory.mktemp("spoiled")
    for name in ("annotations", "boxes", "val"):
        (folder / name).mkdir()
    for name in PICTURES:
        cv2.imwrite(str(folder / "val" / name), np.zeros((H, W, 3), np.uint8))
    return Folder.of(folder)


def config_of(root: Folder) -> Config:
    data = DataConfig(root=root.uri, val="val", max_bad_share=0.5, box_score_threshold=LEAST_SCORE)
    return replace(preset("debug"), data=data)


def attempt(action: Any) -> Any:
    """What an action returns, or the UserError that it raises, which is one line."""
    try:
        return action()
    except UserError as error:
        found = error
    assert str(found).isprintable(), f"not one plain line: {str(found)!r}"
    assert found.exit_code
    return found


def write(root: Folder, files: dict[str, Any]) -> None:
    for kind, name in (("annotations", ANNOTATIONS), ("results", RESULTS), ("detections", DETECTIONS)):
        (root.local_path / name).write_text(json.dumps(files[kind]))


def opened(config: Config, root: Folder) -> CocoKeypointFile:
    file = open_split(config.data, root, "val")
    file.images()
    return file


def check_files(root: Folder, files: dict[str, Any]) -> None:
    """Read files as all commands do, and compare with the naive reading."""
    write(root, files)
    config = config_of(root)
    naive = naive_reading.read(files["annotations"], JOINTS, (W, H), PICTURES)
    file = attempt(lambda: opened(config, root))
    if naive.unclear:
        return
    if isinstance(file, UserError) or naive.refusals:
        assert isinstance(file, UserError) == bool(naive.refusals), (file, naive.refusals)
        return
    kept = check_people(file, naive)
    check_findings(file, naive, kept)
    people = [person for person in kept if person.measured]
    faults = file.invalid_annotations.total
    missing = {naive.name_of[p.image] for p in people} - PICTURES
    stop = not people or faults > 0.5 * (len(people) + faults) or bool(missing)
    checked = attempt(
        lambda: (
            split_statistics(file, (96, 128), 1.25),
            check_split(config, root, "val", file, sources=("gt",)),
        )
    )
    assert stop or not isinstance(checked, UserError), checked
    check_results(root, config, file, naive, kept, files["results"])
    check_detections(root, config, file, naive, files["detections"])


def check_people(file: CocoKeypointFile, naive: NaiveFile) -> list[naive_reading.NaivePerson]:
    """Who was read is who is left; returns them in the file's order."""
    names = {image["id"]: image["file_name"] for image in file.annotations["images"]}
    assert names == naive.name_of
    read = [
        naive_reading.NaivePerson(p["image_id"], p["keypoints"], p["bbox"], p["area"], p["iscrowd"])
        for p in file.annotations["annotations"]
    ]
    rest = [person.key(names) for person in read]
    kept = []
    for person in naive.people:
        if person.key(names) in rest:
            rest.remove(person.key(names))
            kept.append(person)
        else:
            assert person.doubtful, f"lost: {person}"
    assert not rest, f"invented: {rest}"
    for ours, theirs in zip(read, kept, strict=True):
        assert ours.iscrowd == theirs.iscrowd
        assert ours.area == pytest.approx(theirs.area)
    return kept


def check_findings(file: CocoKeypointFile, naive: NaiveFile, kept: list[Any]) -> None:
    """What was left out and replaced was said, in single lines."""
    assert file.invalid_annotations.total == naive.lost + len(naive.people) - len(kept)
    lines = [*file.fixes, *file.invalid_annotations.lines(), *file.oddities.lines()]
    assert all(line.isprintable() for line in lines), lines
    replaced = sum(person.area_replaced and bool(person.keypoints) for person in kept)
    for word, count in (+naive.said + Counter({"area that": replaced})).items():
        found = [line for line in lines if word in line]
        assert found, (word, lines)
        if word == "of other categories":
            continue
        assert sum(int(line.removeprefix(f"{file.path}: ").split(" x ")[0]) for line in found) == count, (
            word,
            found,
        )


def figure(
    naive: NaiveFile, kept: list[Any], config: Config, poses: list[dict[str, Any]]
) -> dict[str, float]:
    """The metrics of poses for the people that are left, of a plain file of theirs."""
    people = [
        {
            "id": number,
            "image_id": person.image,
            "category_id": 1,
            "iscrowd": person.iscrowd,
            "bbox": person.bbox,
            "area": person.area,
            "keypoints": person.keypoints,
            "num_keypoints": sum(v > 0 for v in person.keypoints[2::3]),
        }
        for number, person in enumerate(kept, start=1)
    ]
    content = {
        "images": [{"id": image} for image in naive.name_of],
        "annotations": people,
        "categories": [{"id": 1, "name": "person", "keypoints": JOINTS}],
    }
    return evaluate_poses(config.data, content, poses)


def check_results(
    root: Folder, config: Config, file: CocoKeypointFile, naive: NaiveFile, kept: list[Any], content: Any
) -> None:
    named = [f"other={root.path(RESULTS)}"]
    rows = attempt(lambda: external_result_rows(named, {"val": file}, config))
    poses = naive_reading.read_results(content, naive, JOINTS)
    if isinstance(rows, UserError) or poses is None:
        assert isinstance(rows, UserError) == (poses is None), rows
        return
    (row,) = rows
    assert row.metrics == pytest.approx(figure(naive, kept, config, poses), nan_ok=True)
    check_table(config, row)


def check_table(config: Config, row: ResultRow) -> None:
    text = results_table(config.data, [row])
    assert not {"nan", "None"} & {*text.split()}


def check_detections(
    root: Folder, config: Config, file: CocoKeypointFile, naive: NaiveFile, content: Any
) -> None:
    boxes = attempt(lambda: load_boxes(file, root, "val", "det", config))
    expected = naive_reading.read_detections(content, naive, LEAST_SCORE)
    if isinstance(boxes, UserError):
        assert expected is None or expected[1] > 0.5 * len(content), boxes
        return
    assert expected is not None
    rows = zip(boxes.image_ids.tolist(), boxes.boxes.tolist(), boxes.scores.tolist(), strict=True)
    assert sorted((image, *box, score) for image, box, score in rows) == expected[0]
    said = [line for line in boxes.notes if "not usable" in line]
    assert len(said) == bool(expected[1])
    assert all(f": {expected[1]} x" in line for line in said)
    assert all(line.isprintable() for line in boxes.notes)
    assert len(boxes) or any("no box" in line for line in boxes.notes)


def test_the_good_files_are_read_as_they_are(root: Folder) -> None:
    files = good_files()
    check_files(root, files)
    file = open_split(config_of(root).data, root, "val")
    assert file.fixes == [f"{file.path}: annotations of other categories, not used: 1 of category 2"]
    assert not [*file.invalid_annotations.lines(), *file.oddities.lines()]
    (row,) = external_result_rows([f"other={root.path(RESULTS)}"], {"val": file}, config_of(root))
    assert 0.3 < row.metrics["AP"] < 0.9  # so that a lost or a changed person shows


@settings(
    max_examples=int(EXAMPLES or 200),
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(files=spoiled())
def test_spoiled_files_are_read_for_what_is_left_or_refused(root: Folder, files: dict[str, Any]) -> None:
    check_files(root, files)
