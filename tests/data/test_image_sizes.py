"""Releases whose JSON has width and height the wrong way round."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from mipnet.config.schema import DataConfig
from mipnet.data.dataset_formats import open_split
from mipnet.data.image_sizes import fix_swapped_sizes
from mipnet.storage import Folder


def data_set(width: int, height: int, *people: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "width": width, "height": height, "file_name": "1.jpg"}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 1, **p} for i, p in enumerate(people)],
        "categories": [{"id": 1, "keypoints": ["a"]}],
    }


def person(box: list[float], *joints: float) -> dict[str, Any]:
    return {"bbox": box, "keypoints": list(joints)}


# 100 wide, 60 high in truth
INSIDE = person([0, 0, 50, 50], 40, 40, 2)
WIDE = person([40, 0, 55, 50], 70, 40, 2)


@pytest.mark.parametrize(
    ("people", "stated", "turned"),
    [
        ([INSIDE], (60, 100), 0),  # no proof, and no difference
        ([INSIDE, WIDE], (60, 100), 1),  # by the box
        ([person([0, 0, 50, 50], 90, 40, 1)], (60, 100), 1),  # by a joint
        ([person([0, 0, 50, 50], 90, 40, 0)], (60, 100), 0),  # that is not labelled
        ([INSIDE, WIDE], (100, 60), 0),  # right as it is
        ([person([0, 0, 60.4, 50], 1, 1, 2)], (60, 100), 0),  # rounding
        ([WIDE, person([0, 0, 20, 90], 1, 1, 2)], (60, 100), 0),  # one says so, another says no
        ([person([500, 500, 10, 10], 1, 1, 2)], (60, 100), 0),  # outside either way
        ([{"bbox": None}, {"keypoints": [1, 2]}, {"bbox": ["a"] * 4}, INSIDE], (60, 100), 0),
        ([], (60, 100), 0),
    ],
)
def test_sizes_are_turned_where_the_people_prove_it(
    people: list[dict[str, Any]], stated: tuple[int, int], turned: int
) -> None:
    content = data_set(*stated, *people)
    assert fix_swapped_sizes(content) == turned
    image = content["images"][0]
    assert (image["width"], image["height"]) == (stated[::-1] if turned else stated)
    assert fix_swapped_sizes(content) == 0  # once and for all


@pytest.mark.shared
def test_a_release_of_crowdpose_with_swapped_sizes(shared: Path, tmp_path: Path) -> None:
    """The 2,000 images of val, swapped as train and test were released: same people, one line."""
    truth = json.loads((shared / "data/crowdpose-sample/crowdpose_val.json").read_text())
    swapped = copy.deepcopy(truth)
    for image in swapped["images"]:
        image["width"], image["height"] = image["height"], image["width"]
    (tmp_path / "images").mkdir()
    for name, content in (("right", truth), ("swapped", swapped)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    data = DataConfig(format="crowdpose", skeleton="crowdpose14", annotations="{split}.json")
    right, mended = (open_split(data, Folder.of(tmp_path), split) for split in ("right", "swapped"))
    assert right.fixes == []
    (note,) = mended.fixes
    assert note.startswith(f"{tmp_path}/swapped.json: width and height of 1")
    boxes = [file.people().boxes for file in (right, mended)]
    assert (boxes[0] == boxes[1]).all()
