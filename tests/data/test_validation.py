"""What is wrong with images and people, and what is done about it."""

from __future__ import annotations

from typing import Any

import pytest

from mipnet.data.validation import check_image_entries, check_readable, drop_invalid_annotations
from mipnet.errors import DataError


def image(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "file_name": "1.jpg", "width": 100, "height": 80, **changes}


def person(**changes: Any) -> dict[str, Any]:
    whole = {"id": 7, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "keypoints": [5, 6, 2] * 3}
    return {key: value for key, value in {**whole, **changes}.items() if value != "absent"}


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (5, "annotation without id, image_id or category_id"),
        (person(category_id="absent"), "annotation without id, image_id or category_id"),
        (person(id="7"), "annotation whose id is not a whole number"),
        (person(id=8), "annotation with the id of another"),
        (person(image_id=2), "annotation without its image"),
        (person(image_id=[1]), "annotation without its image"),
        (person(keypoints=None, num_keypoints=3), "0 keypoints instead of 3"),
        (person(keypoints=[1, 2, 2] * 2), "2 keypoints instead of 3"),
        (person(keypoints=[[1, 2, 2]] * 3), "3 keypoints instead of 3"),
        (person(keypoints=[1, 2, "x"] * 3), "keypoints that are not numbers"),
        (person(keypoints=[1, 2, None] * 3), "keypoints that are not numbers"),
        (person(keypoints="words"), "keypoints that are not numbers"),
        (person(bbox="absent"), "box that is not four numbers"),
        (person(bbox=[1, 2, 3]), "box that is not four numbers"),
        (person(bbox=[1, 2, 3, float("inf")]), "box that is not four numbers"),
        (person(bbox=[200, 2, 3, 3]), "box outside its image"),
        (person(iscrowd=1, keypoints=[1, 2, 2]), "1 keypoints instead of 3"),
    ],
)
def test_what_cannot_be_used_is_left_out(bad: Any, kind: str) -> None:
    good = person(id=8)
    content = {"images": [image()], "annotations": [good, bad]}
    invalid_annotations = drop_invalid_annotations(content, 3)
    assert dict(invalid_annotations.counts) == {kind: 1}
    assert content["annotations"] == [good]


@pytest.mark.parametrize(
    "fine",
    [
        person(),
        person(keypoints="absent", bbox="absent"),  # another category's, or somebody whom nobody labelled
        person(keypoints=[0] * 9, num_keypoints=0, bbox=[500, 500, 1, 1]),
        person(iscrowd=1, bbox=[500, 500, 1, 1]),
        person(bbox=[-20, -20, 60, 60]),
    ],
)
def test_what_evaluation_passes_over_stays(fine: Any) -> None:
    content = {"images": [image()], "annotations": [fine]}
    assert not drop_invalid_annotations(content, 3).total
    assert content["annotations"] == [fine]


def test_only_the_first_few_are_named() -> None:
    content = {"images": [image()], "annotations": [person(id=i, image_id=9) for i in range(100, 108)]}
    (line,) = drop_invalid_annotations(content, 3).lines()
    named = ", ".join(f"annotation {i}" for i in range(100, 105))
    assert line == f"8 x annotation without its image: {named}"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([image(), 7], "image number 1 lacks id, file_name, width or height; give each image a number"),
        ([{"id": 3}], r"image \{'id': 3\} lacks id, file_name, width or height"),
        ([image(id="one")], "image number 0 has id 'one'"),
        ([image(file_name=5)], "image number 0 has id 1"),
        ([image(height=0)], "image 1 has size 100 x 0"),
        ([image(height=None)], "image 1 has size 100 x None"),
        ([image(width=float("nan"))], "image 1 has size nan x 80"),
        ([image(), image()], "two images have the id 1; give each an id of its own"),
    ],
)
def test_a_file_whose_images_are_wrong_is_refused(bad: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^FILE: {message}"):
        check_image_entries(bad, "FILE")


def test_more_unreadable_images_than_the_limit() -> None:
    names = [f"{i}.jpg" for i in range(7)]
    check_readable(names, 100, 0.07)
    check_readable([], 0, 0.0)
    with pytest.raises(DataError, match=r"7 of 100 images .*\(0.jpg, .*, 4.jpg and 2 more\); mend them"):
        check_readable(names, 100, 0.06)
