"""Figures of real labels with one thing spoiled: the good file's, or what areas from boxes give."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mipnet.config import preset
from mipnet.config.schema import DataConfig
from mipnet.data.dataset_formats import open_split
from mipnet.evaluation.external_results import external_result_rows
from mipnet.storage import Folder

Content = dict[str, Any]
pytestmark = pytest.mark.shared
IMAGES = 12


@pytest.fixture(scope="module")
def good(shared: Path) -> Content:
    """The first 12 pictures of coco-mini that show labelled people, and their annotations."""
    path = shared / "data/coco-mini/annotations/person_keypoints_train2017.json"
    content: Content = json.loads(path.read_text())
    labelled = {person["image_id"] for person in content["annotations"] if person["num_keypoints"]}
    content["images"] = [image for image in content["images"] if image["id"] in labelled][:IMAGES]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    return content


def labels_off(content: Content) -> list[dict[str, Any]]:
    """The labels as results, off by 2 px of Gaussian noise."""
    rng = np.random.default_rng(0)
    results = []
    for person in content["annotations"]:
        if person["num_keypoints"]:
            pose = np.reshape(person["keypoints"], (17, 3)) + rng.normal(0, [[2, 2, 0]], (17, 3))
            keypoints = pose.ravel().tolist()
            results.append(
                {"image_id": person["image_id"], "category_id": 1, "keypoints": keypoints, "score": 1}
            )
    return results


def figure(root: Path, content: Content, results: list[dict[str, Any]]) -> tuple[float, int, list[str]]:
    """AP in percent, people who are measured, and what was said."""
    (root / "annotations").mkdir(exist_ok=True)
    (root / "val").mkdir(exist_ok=True)
    (root / "annotations/person_keypoints_val.json").write_text(json.dumps(content))
    (root / "off.json").write_text(json.dumps(results))
    config = replace(preset("debug"), data=DataConfig(root=str(root)))
    file = open_split(config.data, Folder.of(root), "val")
    (row,) = external_result_rows([f"off={root}/off.json"], {"val": file}, config)
    said = [*file.fixes, *file.invalid_annotations.lines()]
    return 100 * row.metrics["AP"], len(file.people()), [line.removeprefix(f"{file.path}: ") for line in said]


def half(**values: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        for annotation in content["annotations"][::2]:
            annotation.update(values)

    return change


def other_categories(content: Content) -> None:
    content["categories"] = [
        {"id": 0, "name": "objects"},
        *content["categories"],
        {"id": 2, "name": "ball", "keypoints": ["centre"]},
    ]
    ball = {"category_id": 2, "bbox": [1, 1, 9, 9], "keypoints": [3, 3, 2], "num_keypoints": 1}
    content["annotations"] += [
        {**ball, "id": i, "image_id": image["id"]} for i, image in enumerate(content["images"], start=1)
    ]


def twice(content: Content) -> None:
    for part in ("images", "annotations"):
        content[part] += copy.deepcopy(content[part])


def padded(content: Content) -> None:
    for image in content["images"]:
        image["id"] = f"{image['id']:012d}"


def crowd_is_a_template(content: Content) -> None:
    for annotation in content["annotations"]:
        if annotation["num_keypoints"]:
            annotation["iscrowd"] = 1


def as_boxes(given: str, relative: bool = False) -> Callable[[Content], None]:
    """Boxes of two corners, or of centre and size; in px, or in shares of the image."""

    def change(content: Content) -> None:
        sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            box = [x, y, x + w, y + h] if given == "xyxy" else [x + w / 2, y + h / 2, w, h]
            scale = np.tile(sizes[annotation["image_id"]] if relative else (1, 1), 2)
            annotation["bbox"] = (np.array(box) / scale).tolist()

    return change


def reordered(content: Content) -> None:
    (category,) = content["categories"]
    category["keypoints"] = [
        "-".join(reversed(name.split("_"))).title() for name in category["keypoints"][::-1]
    ]
    for annotation in content["annotations"]:
        annotation["keypoints"] = np.reshape(annotation["keypoints"], (17, 3))[::-1].ravel().tolist()


SAME: dict[str, tuple[Callable[[Content], None], list[str]]] = {
    "num_keypoints 0": (half(num_keypoints=0), ["{labelled} x num_keypoints that is not the number of"]),
    "num_keypoints text": (half(num_keypoints="many"), ["{half} x num_keypoints that is not the number of"]),
    "iscrowd text 0": (half(iscrowd="0"), []),
    "iscrowd false": (half(iscrowd=False), []),
    "iscrowd true of all": (crowd_is_a_template, ["{people} x iscrowd of all who have labelled keypoints"]),
    "several categories": (
        other_categories,
        [
            "categories with other keypoints than skeleton coco17, left out: 1",
            "annotations of other categories, not used: 12 of category 2",
        ],
    ),
    "all twice": (twice, ["{all} x person who is annotated again", "12 x image that is listed again"]),
    "padded ids": (padded, []),
    "two corners": (as_boxes("xyxy"), ["boxes are two corners x, y, x, y in px"]),
    "centres": (as_boxes("cxcywh"), ["boxes are centre x, centre y, width, height in px"]),
    "relative corners": (as_boxes("xyxy", True), ["boxes are two corners x, y, x, y as shares"]),
    "other order": (reordered, ["keypoints of category 1 'person' were brought into the skeleton's order"]),
}


@pytest.mark.parametrize("name", SAME)
def test_the_figure_is_the_good_files(good: Content, tmp_path: Path, name: str) -> None:
    results = labels_off(good)
    right, people, said = figure(tmp_path, good, results)
    assert right == pytest.approx(86.8, abs=4)  # of another noise than the one that was measured
    assert not said
    change, words = SAME[name]
    content = copy.deepcopy(good)
    # a crowd's own flag is 1; half of the annotations has none of them
    content["annotations"].sort(key=lambda a: a["iscrowd"])
    good_again, *_ = figure(tmp_path, content, results)
    assert good_again == right
    change(content)
    got, left, said = figure(tmp_path, content, results)
    counts = {
        "labelled": sum(a["keypoints"] != [0] * 51 for a in content["annotations"][::2]),
        "half": len(content["annotations"][::2]),
        "people": people,
        "all": len(good["annotations"]),
    }
    assert (got, left) == (pytest.approx(right), people)
    expected = [word.format(**counts) for word in words]
    assert [line[: len(word)] for line, word in zip(said, expected, strict=True)] == expected


@pytest.mark.parametrize("area", [0, -1, None, "none", 7, 1e9])
def test_areas_that_cannot_be_true_come_from_the_boxes(good: Content, tmp_path: Path, area: Any) -> None:
    content = copy.deepcopy(good)
    for annotation in content["annotations"]:
        annotation["area"] = area
    got, people, (line,) = figure(tmp_path, content, labels_off(good))
    right, right_people, _ = figure(tmp_path, good, labels_off(good))
    assert people == right_people
    assert 75 < got < 95
    assert got != right
    assert " x area that cannot be true, replaced by 0.53 of the box" in line
