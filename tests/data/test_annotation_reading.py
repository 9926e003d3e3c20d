"""One reading of a COCO file: fields as tools write them, and what they mean."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from mipnet.data.annotation_placing import place_annotations, turn_boxes_in_px
from mipnet.data.annotation_reading import Reading, Rules, read_annotations
from mipnet.data.image_headers import ImageHeader
from mipnet.data.image_sizes import resolve_sizes
from mipnet.errors import DataError
from mipnet.skeletons import Skeleton

THREE = Skeleton("three", ("nose", "left_eye", "right_eye"), (0.05,) * 3, ((1, 2),), ((0, 1),), ())
PEOPLE, W, H = 4, 125, 85


def good() -> dict[str, Any]:
    """Two images with two people each; areas are half of their boxes."""
    images = [{"id": i, "file_name": f"{i}.jpg", "width": W, "height": H} for i in (5, 9)]
    people = []
    for number in range(PEOPLE):
        x, y, w, h = 10 + 60 * (number % 2), 5 + 7 * number, 40 + number, 50
        keypoints = [x + 5, y + 9, 2, x + 20, y + 10, 1, x + 30, y + 20, 2]
        people.append(
            {
                "id": 11 + number,
                "image_id": (5, 9)[number // 2],
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [x, y, w, h],
                "area": w * h / 2,
                "num_keypoints": 3,
                "keypoints": keypoints,
            }
        )
    categories = [{"id": 1, "name": "person", "keypoints": list(THREE.joints)}]
    return {"images": images, "annotations": people, "categories": categories}


DEFAULT = Rules()


def read(content: dict[str, Any], rules: Rules = DEFAULT, headers: Any = None) -> Reading:
    given = copy.deepcopy(content)
    reading = read_annotations(content, THREE, "FILE", rules)
    turn_boxes_in_px(reading)
    resolve_sizes(reading, lambda name: (headers or {}).get(name))
    place_annotations(reading, rules)
    assert content == given  # what was read is not written into
    return reading


def kinds(reading: Reading) -> dict[str, int]:
    return {**reading.left_out.counts, **reading.mended.counts, **reading.odd.counts}


def test_a_good_file_is_as_it_was() -> None:
    content = good()
    reading = read(content)
    assert reading.content == content
    assert not kinds(reading)
    assert not reading.notes


def everywhere(part: str, **changes: Any) -> Any:
    def change(content: dict[str, Any]) -> None:
        for entry in content[part]:
            entry.update(changes)

    return change


def second(part: str, **changes: Any) -> Any:
    return lambda content: content[part][1].update(changes)


def without(part: str, key: str) -> Any:
    def change(content: dict[str, Any]) -> None:
        for entry in content[part]:
            del entry[key]

    return change


def spelled(spell: Any) -> Any:
    def change(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["id"] = spell(image["id"])

    return change


def beyond_int64(content: dict[str, Any]) -> None:
    for part, key in (("images", "id"), ("annotations", "image_id")):
        for entry in content[part]:
            entry[key] += 2**63


def reorder(content: dict[str, Any]) -> None:
    content["categories"][0]["keypoints"] = ["Right Eye", "nose", "eye-left"]
    for person in content["annotations"]:
        k = person["keypoints"]
        person["keypoints"] = [*k[6:9], *k[:3], *k[3:6]]


def nested(content: dict[str, Any]) -> None:
    for person in content["annotations"]:
        person["keypoints"] = np.reshape(person["keypoints"], (3, 3)).tolist()


def twice(content: dict[str, Any]) -> None:
    for part in ("images", "annotations"):
        content[part] += copy.deepcopy(content[part])


def again_with_other_ids(content: dict[str, Any]) -> None:
    content["annotations"] += [{**p, "id": p["id"] + 100} for p in copy.deepcopy(content["annotations"])]


def in_format(given: str, relative: bool = False) -> Any:
    def change(content: dict[str, Any]) -> None:
        for person in content["annotations"]:
            x, y, w, h = person["bbox"]
            box = {
                "xyxy": [x, y, x + w, y + h],
                "cxcywh": [x + w / 2, y + h / 2, w, h],
                "xywh": [x, y, w, h],
            }[given]
            scale = [W, H, W, H] if relative else [1] * 4
            person["bbox"] = [v / s for v, s in zip(box, scale, strict=True)]

    return change


def other_categories(content: dict[str, Any]) -> None:
    content["categories"] = [
        {"id": 0, "name": "objects"},
        *content["categories"],
        {"id": 2, "name": "ball", "keypoints": ["centre"]},
    ]
    ball = {"id": 99, "image_id": 5, "category_id": 2, "bbox": [1, 1, 9, 9], "keypoints": [3, 3, 2]}
    content["annotations"].append(ball)


NUM = "num_keypoints that is not the number of labelled keypoints"
AREA = "area that cannot be true, replaced by 0.53 of the box"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (everywhere("annotations", num_keypoints=0), {NUM: 4}),
        (everywhere("annotations", num_keypoints="3"), {}),
        (everywhere("annotations", num_keypoints=None), {NUM: 4}),
        (without("annotations", "num_keypoints"), {}),
        (everywhere("annotations", num_keypoints=-1), {NUM: 4}),
        (everywhere("annotations", iscrowd="0"), {}),
        (everywhere("annotations", iscrowd=False), {}),
        (everywhere("annotations", iscrowd=None), {}),
        (everywhere("annotations", iscrowd="no"), {"iscrowd that is neither 0 nor 1, taken for 0": 4}),
        (without("annotations", "iscrowd"), {}),
        (spelled(lambda i: f"{i:012d}"), {}),
        (spelled(float), {}),
        (beyond_int64, {"image id that is no whole number": 2}),
        (nested, {}),
        (reorder, {}),
        (twice, {"image that is listed again": 2, "person who is annotated again": 4}),
        (again_with_other_ids, {"person who is annotated again": 4}),
        (everywhere("annotations", id=7), {"annotation without an id of its own": 3}),
        (everywhere("annotations", id=None), {"annotation without an id of its own": 4}),
        (without("annotations", "id"), {"annotation without an id of its own": 4}),
        (everywhere("annotations", category_id=0), {"category_id that is not among the categories": 4}),
        (everywhere("annotations", category_id="1"), {}),
        (other_categories, {}),
        (in_format("xyxy"), {}),
        (in_format("cxcywh"), {}),
        (in_format("xywh", relative=True), {}),
        (in_format("xyxy", relative=True), {}),
        (in_format("cxcywh", relative=True), {}),
    ],
)
def test_what_a_file_means_is_what_is_used(change: Any, said: dict[str, int]) -> None:
    content = good()
    change(content)
    reading = read(content)
    assert kinds(reading) == said
    people = reading.content["annotations"]
    assert len(people) == PEOPLE
    for person, true in zip(people, good()["annotations"], strict=True):
        assert person["keypoints"] == true["keypoints"]
        assert person["bbox"] == pytest.approx(true["bbox"])
        assert (person["iscrowd"], person["num_keypoints"]) == (0, 3)
        assert person["category_id"] == reading.content["categories"][0]["id"]
    assert len({person["id"] for person in people}) == PEOPLE
    names = {image["id"]: image["file_name"] for image in reading.content["images"]}
    assert [names[person["image_id"]] for person in people] == ["5.jpg", "5.jpg", "9.jpg", "9.jpg"]


@pytest.mark.parametrize("area", [0, -3, None, "word", "absent", 1e9, 0.5, 1, 1234.5])
def test_areas_that_cannot_be_true_come_from_the_box(area: Any) -> None:
    content = good()
    for person in content["annotations"]:
        person["area"] = area
        if area == "absent":
            del person["area"]
    reading = read(content)
    assert kinds(reading) == {AREA: 4}
    for person in reading.content["annotations"]:
        assert person["area"] == pytest.approx(0.53 * person["bbox"][2] * person["bbox"][3])


def test_the_flag_keeps_areas_but_not_what_is_none() -> None:
    content = good()
    everywhere("annotations", area=7)(content)
    assert {p["area"] for p in read(content, Rules(keep_area=True)).content["annotations"]} == {7}
    everywhere("annotations", area=0)(content)
    assert kinds(read(content, Rules(keep_area=True))) == {AREA: 4}


def test_crowdpose_keeps_the_number_of_its_file() -> None:
    content = good()
    content["annotations"][1]["num_keypoints"] = 0
    content["annotations"][2]["num_keypoints"] = None
    people = read(content, Rules(crowdpose=True)).content["annotations"]
    assert [p["num_keypoints"] for p in people] == [3, 0, 3, 3]


@pytest.mark.parametrize(
    ("change", "said", "left"),
    [
        (second("annotations", image_id=77), "annotation without its image", 3),
        (second("annotations", image_id=None), "annotation without its image", 3),
        (second("annotations", keypoints=[1, 2, 2]), "1 keypoints instead of 3", 3),
        (second("annotations", keypoints=[1, 2, 2, 3]), "1.33333 keypoints instead of 3", 3),
        (second("annotations", keypoints=[1, 2, "x"] * 3), "keypoints that are not numbers", 3),
        (second("annotations", keypoints=[1, 2, None] * 3), "", 4),  # nobody labelled it
        (second("annotations", keypoints=[None, None, 2] * 3), "keypoints that are not numbers", 3),
        (second("annotations", keypoints={"nose": 1}), "keypoints that are not numbers", 3),
        (second("annotations", keypoints=[], num_keypoints=0), "", 4),
        (
            second("annotations", keypoints=[], num_keypoints=0, bbox=None),
            "annotation without keypoints and box",
            3,
        ),
        (second("annotations", keypoints=None), "0 keypoints instead of 3", 3),
        (second("annotations", bbox=[1, 2, 3]), "box that is not four numbers", 3),
        (second("annotations", bbox=[1, 2, 3, float("nan")]), "box that is not four numbers", 3),
        (second("annotations", bbox=[900, 2, 3, 3]), "box outside its image", 3),
        (second("annotations", bbox=["1", "2", "30", "40"]), "", 4),
        (
            second("annotations", keypoints=[15, 9, 3, 20, 10, -1, 30, 20, 0.5]),
            "visibility that is not 0, 1 or 2",
            4,
        ),
        (second("annotations", keypoints=[0, 0, 2, 20, 10, 1, 30, 20, 1]), "labelled keypoint at (0, 0)", 4),
        (
            second("annotations", keypoints=[-9, 9, 2, 80, 10, 1, 90, 20, 1]),
            "labelled keypoint outside of the image",
            4,
        ),
        (lambda c: c["annotations"].insert(1, 5), "annotation without id, image_id or category_id", 4),
    ],
)
def test_single_faults_are_counted_by_kind_and_named(change: Any, said: str, left: int) -> None:
    content = good()
    change(content)
    reading = read(content)
    assert len(reading.content["annotations"]) == left
    counts = {kind: n for kind, n in kinds(reading).items() if kind != NUM}
    assert counts == ({said: 1} if said else {})


def test_visibilities_become_coco_s() -> None:
    content = good()
    content["annotations"][1]["keypoints"] = [15, 9, 3, 20, 10, -1, 30, 20, 0.5]
    person = read(content).content["annotations"][1]
    assert person["keypoints"][2::3] == [2, 0, 1]
    assert person["num_keypoints"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"].insert(1, 7), "image number 1 lacks id"),
        (lambda c: c["images"].insert(0, {"id": 3}), "image number 0 lacks id or file_name: {.id.: 3}"),
        (second("images", id=None), "image number 1 has id None"),
        (second("images", file_name=5), "image number 1 has id 9"),
        (second("images", id=5), "two images have the id 5; give each an id of its own"),
        (second("images", id="05"), "two images have the id '05'"),
        (lambda c: c["categories"].append({"name": "x"}), "has a category without id"),
        (
            lambda c: c["categories"][0].update(keypoints=["nose", "left_paw", "tail"]),
            r"other joints than skeleton three",
        ),
        (
            lambda c: c["categories"][0].update(keypoints=["nose"]),
            "annotates 1 keypoints but skeleton three has 3",
        ),
    ],
)
def test_what_cannot_be_told_apart_is_refused(change: Any, message: str) -> None:
    content = good()
    change(content)
    with pytest.raises(DataError, match=f"FILE:? ?.*{message}"):
        read(content)


@pytest.mark.parametrize("wanted", ["person", "1", 1])
def test_the_category_can_be_chosen(wanted: Any) -> None:
    content = good()
    content["categories"].append({"id": 4, "name": "rider", "keypoints": list(THREE.joints)})
    content["annotations"][0]["category_id"] = 4
    assert len(read(content).content["annotations"]) == 4
    assert len(read(content, Rules(category=str(wanted))).content["annotations"]) == 3
    with pytest.raises(DataError, match=r"no category 'riders'.*rider"):
        read(content, Rules(category="riders"))


def test_no_names_are_said() -> None:
    content = good()
    del content["categories"][0]["keypoints"]
    reading = read(content)
    assert len(reading.content["annotations"]) == 4
    assert reading.notes == ["no category names its keypoints; they are taken in the order of skeleton three"]


# the second person of 5.jpg reaches to x = 111
@pytest.mark.parametrize(
    ("header", "size"),
    [
        (ImageHeader(W, H, 1), (W, H)),  # the pixels say that the statement is wrong
        (ImageHeader(H, W, 1), (H, W)),  # the box is bad, the size is right
        (None, (W, H)),  # more than a few of this file's images are proven
    ],
)
def test_swapped_sizes_are_decided_by_the_pixels(header: Any, size: tuple[int, int]) -> None:
    content = good()
    content["images"][0].update(width=H, height=W)
    reading = read(content, headers={"5.jpg": header} if header else {})
    image = reading.content["images"][0]
    assert (image["width"], image["height"]) == size


@pytest.mark.parametrize("value", ["absent", None, 0, -4, "wide", float("nan")])
def test_a_size_that_is_none_comes_from_the_picture(value: Any) -> None:
    content = good()
    content["images"][0]["width"] = value
    if value == "absent":
        del content["images"][0]["width"]
    headers = {"5.jpg": ImageHeader(H, W, 6)}
    reading = read(content, headers=headers)
    image = reading.content["images"][0]
    assert (image["width"], image["height"]) == (W, H)
    assert kinds(reading) == {"image without width and height, taken from the picture": 1}
    image = read(content).content["images"][0]
    assert (image["width"], image["height"]) == (111, 62)


@pytest.mark.parametrize(
    ("stated", "used"), [(0, 0), (2, 2), ("2", 2), (4, 3), (1e20, 3), (-1, 3), (None, 3)]
)
def test_crowdpose_states_a_number_of_keypoints_that_can_be_true(stated: Any, used: int) -> None:
    content = good()
    content["annotations"][0]["num_keypoints"] = stated
    reading = read(content, Rules(crowdpose=True))
    assert reading.content["annotations"][0]["num_keypoints"] == used
    kind = "num_keypoints that is not the number of labelled keypoints"
    assert kinds(reading).get(kind, 0) == (used == 3)
