"""Reading annotation files, and what is said when they are wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mipnet.config.schema import DataConfig
from mipnet.data.coco import Boxes, CocoKeypointFile
from mipnet.data.dataset_formats import open_split
from mipnet.data.detections import read_detections
from mipnet.data.image_index import ImageIndex, missing_files
from mipnet.errors import DataError
from mipnet.evaluation.external_results import read_results
from mipnet.evaluation.protocols import evaluate_poses
from mipnet.storage import Folder


@pytest.fixture
def lists(tmp_path):
    """Where lists of detections lie: not in the data set, which all tests share."""
    return Folder.of(tmp_path)


def open_train(root: Folder, skeleton: str = "coco17") -> CocoKeypointFile:
    return open_split(DataConfig(skeleton=skeleton), root, "train")


def copy_with(small_coco, tmp_path, change) -> Folder:
    content = json.loads(small_coco.read("annotations/person_keypoints_train.json"))
    change(content)
    root = Folder.of(tmp_path)
    (tmp_path / "train").mkdir(exist_ok=True)
    root.write("annotations/person_keypoints_train.json", json.dumps(content))
    return root


def test_people_are_grouped_by_image(small_people):
    assert len(small_people) == 30
    assert small_people.people_per_image.tolist() == [1, 2, 3, 4] * 3
    assert small_people.boxes.shape == (30, 4)
    assert small_people.keypoints.shape == (30, 17, 3)


def spoil(kind):
    def change(content):
        first = content["annotations"][0]
        if kind == "box outside its image":
            first["bbox"] = [500, 500, 10, 10]
        elif kind == "annotation without its image":
            first["image_id"] = 999
        elif kind == "keypoints that are not numbers":
            first["keypoints"][0] = float("nan")
        elif kind == "16 keypoints instead of 17":
            first["keypoints"] = first["keypoints"][:-3]
        elif kind == "box that is not four numbers":
            first["bbox"] = [1, 2, 3]

    return change


@pytest.mark.parametrize(
    "kind",
    [
        "box outside its image",
        "annotation without its image",
        "keypoints that are not numbers",
        "16 keypoints instead of 17",
        "box that is not four numbers",
    ],
)
def test_bad_annotations_are_counted_named_and_left_out(small_coco, tmp_path, kind):
    file = open_train(copy_with(small_coco, tmp_path, spoil(kind)))
    people, invalid_annotations = file.people(), file.invalid_annotations
    assert len(people) == 29
    assert dict(invalid_annotations.counts) == {kind: 1}
    assert "annotation 100" in invalid_annotations.lines()[0]
    invalid_annotations.check(30, 0.05, "here")
    with pytest.raises(DataError, match=r"1 of 30 samples are unusable .*annotation 100"):
        invalid_annotations.check(30, 0.01, "here")


def test_messages_for_files_that_cannot_be_used(small_coco, tmp_path):
    with pytest.raises(DataError, match="annotates 17 keypoints but skeleton crowdpose14 has 14"):
        open_train(small_coco, "crowdpose14")
    root = copy_with(small_coco, tmp_path, lambda c: None)
    root.write("annotations/person_keypoints_train.json", "{")
    with pytest.raises(DataError, match="is not JSON"):
        open_train(root)
    root.write("annotations/person_keypoints_train.json", "[]")
    with pytest.raises(DataError, match="has no list 'images'"):
        open_train(root)
    empty = copy_with(small_coco, tmp_path, lambda c: c["annotations"].clear())
    with pytest.raises(DataError, match="has no usable person"):
        open_train(empty).people()


def test_an_image_name_cannot_leave_its_folder(small_coco, tmp_path):
    for name in ("../secret.jpg", "a/../../b.jpg", "..\\x.jpg"):
        root = copy_with(small_coco, tmp_path, lambda c, n=name: c["images"][0].update(file_name=n))
        with pytest.raises(DataError, match="leads out of its folder"):
            open_train(root).people()
    for name in ("/etc/passwd", "s3://bucket/x.jpg", "file:///etc/passwd", "C:\\Windows\\x.jpg"):
        root = copy_with(small_coco, tmp_path, lambda c, n=name: c["images"][0].update(file_name=n))
        images = open_train(root).people().images
        assert all(uri.startswith(f"{tmp_path}/train/") for uri in images.uris)
        assert images.uris[0] in missing_files(images)


def test_detections(small_coco, lists):
    coco = open_train(small_coco)
    good = [
        {"image_id": i, "category_id": 1, "bbox": [1, 2, 30, 40], "score": s} for i, s in [(5, 0.9), (2, 0.1)]
    ]
    lists.write("boxes/two_train.json", json.dumps(good))
    with pytest.raises(DataError, match=r"boxes/one_train.json does not exist; give --data.boxes gt"):
        read_detections(coco, lists, "boxes/one_train.json", 0.0)
    boxes = read_detections(coco, lists, "boxes/two_train.json", 0.0)
    assert boxes.images.ids[boxes.image_index].tolist() == [2, 5]
    assert len(read_detections(coco, lists, "boxes/two_train.json", 0.5)) == 1
    for wrong, message in [
        ({"image_id": 77, "bbox": [1, 2, 3, 4], "score": 1}, "detection 2 names the unknown image 77"),
        ({"image_id": 5, "bbox": [1, 2, -3, 4], "score": 1}, "1 x box that is not usable: number 2"),
        ({"image_id": 5, "score": 1}, "1 x box that is not usable: number 2"),
    ]:
        lists.write("boxes/wrong_train.json", json.dumps([*good, wrong]))
        with pytest.raises(DataError, match=message):
            read_detections(coco, lists, "boxes/wrong_train.json", 0.0)


def test_a_few_detections_that_are_no_boxes_are_left_out_and_counted(small_coco, lists):
    good = [{"image_id": i % 12, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5} for i in range(99)]
    bad = [{"image_id": 1, "bbox": [1, 2, 0, 40], "score": 0.5}]
    for wrong in (
        *bad,
        {**bad[0], "bbox": [1, 2, 3, 4], "score": float("nan")},
        {**bad[0], "score": "high"},
        7,
    ):
        lists.write("boxes/few_train.json", json.dumps([*good, wrong]))
        boxes = read_detections(
            open_train(small_coco), lists, "boxes/few_train.json", 0.0, max_bad_share=0.01
        )
        assert len(boxes) == 99
        note, *_ = boxes.notes  # and that these boxes are nobody's
        assert note.endswith("boxes/few_train.json: 1 x box that is not usable: number 99")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"category_id": 0},
            "of 4 boxes 4 are not of persons (category 1) and 0 are below the score threshold 0.5",
        ),
        (
            {"score": 0.4},
            "of 4 boxes 0 are not of persons (category 1) and 4 are below the score threshold 0.5",
        ),
        (None, "of 0 boxes 0 are not of persons (category 1) and 0 are below the score threshold 0.5"),
    ],
)
def test_a_source_without_a_box_says_why(small_coco, change, why, lists):
    box = {"image_id": "3", "category_id": 1.0, "bbox": [1, 2, 30, 40], "score": 0.9}
    lists.write("boxes/none_train.json", json.dumps([box | change] * 4 if change else []))
    boxes = read_detections(open_train(small_coco), lists, "boxes/none_train.json", 0.5)
    assert len(boxes) == 0
    (note,) = boxes.notes
    assert note.endswith(f"has no box to predict in: {why}")


def test_detections_by_file_name(small_coco, lists):
    """As ``predict`` takes them; ids of another numbering do not count beside names."""
    good = [{"image_id": 9 - i, "file_name": f"train/{i}.jpg", "bbox": [i, 2, 30, 40]} for i in (5, 2)]
    lists.write("boxes/named_train.json", json.dumps(good))
    boxes = read_detections(open_train(small_coco), lists, "boxes/named_train.json", 0.0)
    assert boxes.image_ids.tolist() == boxes.boxes[:, 0].tolist() == [2, 5]
    assert boxes.notes[0].endswith("2 boxes without a score, taken for 1")
    lists.write("boxes/named_train.json", json.dumps([*good, {**good[0], "file_name": "x.jpg"}]))
    with pytest.raises(DataError, match=r"detection 2 names the unknown image 'x.jpg'; the boxes must be of"):
        read_detections(open_train(small_coco), lists, "boxes/named_train.json", 0.0)


def test_detections_of_two_corners_are_turned(small_coco, lists):
    corners = [{"image_id": i, "category_id": 1, "bbox": [60, 50, 118, 98], "score": 0.5} for i in range(12)]
    lists.write("boxes/corners_train.json", json.dumps(corners))
    boxes = read_detections(open_train(small_coco), lists, "boxes/corners_train.json", 0.0)
    assert boxes.boxes.tolist() == [[60, 50, 58, 48]] * 12
    assert "two corners" in boxes.notes[0]


def test_boxes_of_one_picture_keep_their_entries(small_coco, tmp_path):
    """One image entry a person, with new ids: people to train on are together, boxes are the entries'."""

    def change(content):
        for person in content["annotations"]:
            image = content["images"][person["image_id"]]
            content["images"].append({**image, "id": 1000 + person["id"]})
            person["image_id"] = 1000 + person["id"]
        content["images"] = content["images"][12:]

    file = open_train(copy_with(small_coco, tmp_path, change))
    assert file.people().people_per_image.tolist() == [1, 2, 3, 4] * 3
    boxes = Boxes.concatenate([file.ground_truth_boxes(), open_train(small_coco).ground_truth_boxes()])
    ours, theirs = (boxes.where(boxes.source_index == source) for source in (0, 1))
    assert sorted(ours.image_ids.tolist()) == [1100 + i for i in range(30)]
    assert sorted(set(theirs.image_ids.tolist())) == list(range(12))
    assert len(boxes.images) == 24  # of two folders


def test_splits_that_number_the_same_pictures_differently_keep_their_ids(small_coco, tmp_path):
    def change(content):
        for part, key in (("images", "id"), ("annotations", "image_id")):
            for entry in content[part]:
                entry[key] = 11 - entry[key]

    root = Folder.of(tmp_path)
    (tmp_path / "train").symlink_to(small_coco.local_path / "train")
    content = json.loads(small_coco.read("annotations/person_keypoints_train.json"))
    root.write("annotations/person_keypoints_train.json", json.dumps(content))
    change(content)
    root.write("annotations/person_keypoints_rev.json", json.dumps(content))
    data = DataConfig(images="train")
    first, second = (open_split(data, root, split).ground_truth_boxes() for split in ("train", "rev"))
    boxes = Boxes.concatenate([first, second])
    assert len(boxes.images) == 12  # each picture is decoded once
    for source, given in ((0, first), (1, second)):
        ours = boxes.where(boxes.source_index == source)
        pairs = [sorted(zip(b.image_ids.tolist(), b.boxes.tolist(), strict=True)) for b in (ours, given)]
        assert pairs[0] == pairs[1]


def test_joined_boxes_share_images():
    def part(names, image):
        n = len(image)
        images = ImageIndex(np.array(names), np.arange(len(names)))
        return Boxes(images, np.array(image), np.full((n, 4), n), np.arange(n) + n, np.zeros(n, int))

    joined = Boxes.concatenate([part(["b", "a"], [0, 1, 1]), part(["c", "b"], [0, 1])])
    assert joined.images.uris.tolist() == ["a", "b", "c"]
    assert joined.images.uris[joined.image_index].tolist() == ["a", "a", "b", "b", "c"]
    assert joined.source_index.tolist() == [0, 0, 0, 1, 1]
    assert joined.scores.tolist() == [4, 5, 3, 3, 2]


def test_kinds_of_animals_are_one_category(small_coco, tmp_path):
    def change(content):
        (person,) = content["categories"]
        content["categories"] = [{**person, "id": i, "name": f"animal {i}"} for i in (4, 5, 6)] + [
            {"id": 9, "name": "tree"}
        ]
        for number, annotation in enumerate(content["annotations"]):
            annotation["category_id"] = 4 + number % 3

    file = open_train(copy_with(small_coco, tmp_path, change))
    assert file.category_id == 4
    assert {annotation["category_id"] for annotation in file.annotations["annotations"]} == {4}
    assert [category["id"] for category in file.annotations["categories"]] == [4, 9]
    assert file.fixes == [f"{file.path}: 3 categories with keypoints; they are taken for one"]
    perfect = [
        {"image_id": a["image_id"], "category_id": 4, "keypoints": a["keypoints"], "score": 1}
        for a in file.annotations["annotations"]
    ]
    assert evaluate_poses(DataConfig(), file.annotations, perfect)["AP"] == pytest.approx(1)
    boxes = [{"image_id": 1, "category_id": c, "bbox": [1, 2, 30, 40], "score": 0.5} for c in (4, 5, 6, 9)]
    Folder.of(tmp_path).write("boxes.json", json.dumps(boxes))
    assert len(read_detections(file, Folder.of(tmp_path), "boxes.json", 0)) == 3


@pytest.mark.parametrize(
    ("person", "other", "ids"),
    [
        ("1", "2", [1, 2]),
        ("person", "face", [1, 2]),
        ("person", 1, [2, 1]),
        (7, "x", [7, 1]),
        ("3", "03.5", [3, 1]),
    ],
)
def test_ids_of_categories_are_whole_numbers(small_coco, tmp_path, person, other, ids):
    def change(content):
        content["categories"][0]["id"] = person
        content["categories"].append({"id": other, "name": "face", "keypoints": ["a", "b"]})
        for annotation in content["annotations"]:
            annotation["category_id"] = person
        content["annotations"][0]["category_id"] = other

    file = open_train(copy_with(small_coco, tmp_path, change))
    assert [category["id"] for category in file.annotations["categories"]] == ids
    assert len(file.people()) == 29
    results = file.own_results([{**a, "score": 1} for a in file.annotations["annotations"]])
    assert {result["category_id"] for result in results} == {person}
    root = Folder.of(tmp_path)
    root.write("results.json", json.dumps(results))
    read, _ = read_results(root, "results.json", file)
    assert evaluate_poses(DataConfig(), file.annotations, read)["AP"] == pytest.approx(1)
    root.write("results.json", json.dumps([{**result, "category_id": other} for result in results]))
    with pytest.raises(DataError, match="which is not of people"):  # it is known, and not theirs
        read_results(root, "results.json", file)


@pytest.mark.parametrize(("others", "boxes"), [([], 2), ([{"id": 7, "name": "ball"}], 1)])
def test_detections_number_the_only_category_that_is_called_by_text(small_coco, tmp_path, others, boxes):
    def change(content):
        content["categories"][0]["id"] = "person"
        content["categories"] += others
        for annotation in content["annotations"]:
            annotation["category_id"] = "person"

    file, root = open_train(copy_with(small_coco, tmp_path, change)), Folder.of(tmp_path)
    found = [{"image_id": 3, "category_id": c, "bbox": [1, 2, 30, 40], "score": 1} for c in ("person", 1, 2)]
    root.write("boxes.json", json.dumps(found))
    assert len(read_detections(file, root, "boxes.json", 0)) == boxes


@pytest.mark.parametrize(
    ("names", "flag"), [(("person", "athlete"), "athlete"), (("person", "a b"), "'a b'")]
)
def test_the_category_that_has_the_keypoints_is_named(small_coco, tmp_path, names, flag):
    def change(content):
        content["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
        for annotation in content["annotations"]:
            annotation["category_id"] = 2

    root = copy_with(small_coco, tmp_path, change)
    with pytest.raises(DataError) as caught:
        open_train(root).people()
    assert "no usable person (no annotation of category 'person' has labelled keypoints)" in str(caught.value)
    assert str(caught.value).endswith(f"; take those of another with --data.category {flag}")
    assert len(open_split(DataConfig(category=names[1]), root, "train").people()) == 30
