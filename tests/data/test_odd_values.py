"""Values that the fuzz test and honest users' tools have put into files, each with what it means."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mipnet.cli.main import main
from mipnet.config import Config, preset
from mipnet.config.presets import DATASETS
from mipnet.config.schema import DataConfig
from mipnet.data.annotation_statistics import split_statistics
from mipnet.data.coco import CocoKeypointFile, read_json
from mipnet.data.dataset_formats import load_boxes, open_split
from mipnet.data.json_values import coordinates, flag, shown
from mipnet.errors import DataError, UserError
from mipnet.evaluation.external_results import external_result_rows
from mipnet.skeletons import CROWDPOSE14
from mipnet.storage import Folder

FILE = "annotations/person_keypoints_train.json"


@pytest.fixture
def content(small_coco: Folder) -> dict[str, Any]:
    """12 images of 120x100 px with 30 people."""
    found: dict[str, Any] = json.loads(small_coco.read(FILE))
    return found


def opened(folder: Path, small_coco: Folder, content: Any) -> CocoKeypointFile:
    """The file with this content, beside the pictures of ``small_coco``."""
    (folder / "annotations").mkdir(exist_ok=True)
    if not (folder / "train").exists():
        (folder / "train").symlink_to(small_coco.local_path / "train")
    (folder / FILE).write_text(json.dumps(content))
    return open_split(DataConfig(), Folder.of(folder), "train")


def findings(file: CocoKeypointFile) -> list[str]:
    lines = [*file.fixes, *file.invalid_annotations.lines(), *file.oddities.lines()]
    return [line.removeprefix(f"{file.path}: ") for line in lines]


NUM = "1 x num_keypoints that is not the number of labelled keypoints"


def set_in(part: str, **values: Any) -> Any:
    return lambda content: content[part][0].update(values)


def keypoint(place: int, *values: Any) -> Any:
    """Replace numbers of the first person's first joint, or of a later place."""
    return lambda c: c["annotations"][0]["keypoints"].__setitem__(slice(place, place + len(values)), values)


@pytest.mark.parametrize(
    ("change", "people", "said"),
    [
        (keypoint(0, 10**400), 29, "1 x keypoints that are not numbers: annotation 100"),
        (keypoint(0, 1e300), 29, "1 x keypoints that are not numbers: annotation 100"),
        (keypoint(0, True), 29, "1 x keypoints that are not numbers: annotation 100"),
        (keypoint(0, {"x": 1}), 29, "1 x keypoints that are not numbers: annotation 100"),
        (keypoint(0, float("nan"), float("nan"), 0), 30, NUM),  # nobody labelled it
        (keypoint(0, "-", "", "0"), 30, NUM),
        (keypoint(2, True), 30, ""),
        (keypoint(2, False), 30, NUM),
        (set_in("annotations", bbox=[1, 2, True, 40]), 29, "1 x box that is not four numbers"),
        (set_in("annotations", bbox=[1, 2, 10**400, 40]), 29, "1 x box that is not four numbers"),
        (set_in("annotations", bbox=[1e300, 2, 30, 40]), 29, "1 x box that is not four numbers"),
        (set_in("annotations", iscrowd=7), 30, "1 x iscrowd that is neither 0 nor 1, taken for 0"),
        (set_in("annotations", iscrowd=1), 29, "1 x crowd region with labelled keypoints, to be ignored"),
        (set_in("annotations", id=[[1]]), 30, "1 x annotation without an id of its own: annotation [[1]]"),
        (set_in("images", file_name="a\nb\ud800.jpg"), 30, ""),
        (set_in("images", width=1.0, height=1.0), 30, "1 x image that is not of the stated width and height"),
        (set_in("images", width="60px"), 30, "1 x image without width and height, taken from the picture"),
        (lambda c: c["images"][0].update(width=40), 30, "1 x image that is not of the stated width"),
        (set_in("categories", id="person"), 30, "30 x category_id that is not among the categories"),
        (lambda c: c["categories"].insert(0, {"id": 0, "name": "ball"}), 30, ""),
        (
            lambda c: (c["categories"].append({"id": 3}), set_in("annotations", category_id=3)(c)),
            29,
            "annotations of other categories, not used: 1 of category 3",
        ),
        (
            lambda c: c["categories"][0].update(keypoints=[str(i) for i in range(17)]),
            30,
            "category 1 'person' numbers its keypoints; they are taken in the order of skeleton coco17",
        ),
    ],
)
def test_single_values(
    small_coco: Folder, content: Any, tmp_path: Path, change: Any, people: int, said: str
) -> None:
    change(content)
    file = opened(tmp_path, small_coco, content)
    assert len(file.people()) == people
    lines = findings(file)
    assert all(line.isprintable() for line in lines)
    assert [line[: len(said)] for line in lines] == ([said] if said else [])


def test_pictures_under_several_ids_are_said(small_coco: Folder, content: Any, tmp_path: Path) -> None:
    for person in content["annotations"]:
        entry = {**content["images"][person["image_id"]], "id": 1000 + person["id"]}
        content["images"].append(entry)
        person["image_id"] = entry["id"]
    (line,) = findings(opened(tmp_path, small_coco, content))
    assert line.startswith("pictures under several image ids: 12 (0.jpg, 1.jpg, ")


def test_an_area_in_words_is_a_number(small_coco: Folder, content: Any, tmp_path: Path) -> None:
    areas = [person["area"] for person in content["annotations"]]
    for person in content["annotations"]:
        person["area"] = f" {person['area']} "
    file = opened(tmp_path, small_coco, content)
    assert [person["area"] for person in file.annotations["annotations"]] == areas
    assert not findings(file)


def test_a_box_beyond_its_picture_does_not_condemn_the_area(
    small_coco: Folder, content: Any, tmp_path: Path
) -> None:
    person = content["annotations"][0]
    person["bbox"][2] = 90_000
    file = opened(tmp_path, small_coco, content)
    assert file.annotations["annotations"][0]["area"] == person["area"]
    person["area"] = None
    x, _, _, h = person["bbox"]
    file = opened(tmp_path, small_coco, content)
    assert file.annotations["annotations"][0]["area"] == pytest.approx(0.53 * (121 - x) * h)


def test_iscrowd_of_a_template_is_none(small_coco: Folder, content: Any, tmp_path: Path) -> None:
    for person in content["annotations"]:
        person["iscrowd"] = True
    file = opened(tmp_path, small_coco, content)
    assert len(file.people()) == 30
    assert findings(file)[0].startswith("30 x iscrowd of all who have labelled keypoints, taken for 0")


@pytest.mark.parametrize("boxes", [False, True])
def test_keypoints_that_are_shares_of_the_image(
    small_coco: Folder, content: Any, tmp_path: Path, boxes: bool
) -> None:
    right = opened(tmp_path, small_coco, content).people()
    for person in content["annotations"]:
        shares = np.reshape(person["keypoints"], (17, 3)) / [120, 100, 1]
        person["keypoints"] = shares.ravel().tolist()
        if boxes:
            person["bbox"] = (np.array(person["bbox"]) / [120, 100, 120, 100]).tolist()
    file = opened(tmp_path, small_coco, content)
    people = file.people()
    np.testing.assert_allclose(people.keypoints, right.keypoints, rtol=1e-5)
    np.testing.assert_allclose(people.boxes, right.boxes)
    notes = ["keypoints are shares of the image", "boxes are x, y, width, height as shares of the image"]
    assert [line.split(";")[0] for line in findings(file)] == notes[: 1 + boxes]


def test_shares_of_the_image_stay_shares_where_the_border_cuts_people(
    small_coco: Folder, content: Any, tmp_path: Path
) -> None:
    """A joint that is guessed beyond the border is above 1, also beside boxes in px."""
    for person in content["annotations"]:
        shares = np.reshape(person["keypoints"], (17, 3)) / [120, 100, 1]
        person["keypoints"] = shares.ravel().tolist()
    content["annotations"][0]["keypoints"][:3] = [1.2, 0.5, 2]
    file = opened(tmp_path, small_coco, content)
    assert file.people().keypoints[0, 0].tolist() == [144, 50, 2]
    first, second = findings(file)
    assert first.startswith("keypoints are shares of the image")
    assert second.startswith("1 x labelled keypoint outside of the image")


def test_boxes_of_two_kinds_are_odd(small_coco: Folder, content: Any, tmp_path: Path) -> None:
    for person in content["annotations"][:8]:
        x, y, w, h = person["bbox"]
        person["bbox"] = [x + w / 2, y + h / 2, w, h]
    lines = findings(opened(tmp_path, small_coco, content))
    odd = next(line for line in lines if "box that does not fit its image, or not most of" in line)
    assert 4 <= int(odd.partition(" x ")[0]) <= 8


def test_a_joint_that_is_nowhere_is_odd_or_not_labelled(
    small_coco: Folder, content: Any, tmp_path: Path
) -> None:
    """(-1, -1) stands for a missing joint."""
    content["annotations"][0]["keypoints"][:3] = [-1, -1, 2]
    content["annotations"][1]["keypoints"][3:6] = [-1, -1, 1]
    file = opened(tmp_path, small_coco, content)
    people = file.people()
    assert people.keypoints[0, 0, 2] == people.keypoints[1, 1, 2] == 0
    lines = [line.partition(":")[0] for line in findings(file)]
    assert "2 x labelled keypoint at (-1, -1), taken for not labelled" in lines


def test_the_same_person_twice_beside_another_of_the_same_pose(
    small_coco: Folder, content: Any, tmp_path: Path
) -> None:
    first = content["annotations"][0]
    wider = {**first, "id": 900, "bbox": [*first["bbox"][:2], 55, 55]}
    content["annotations"] += [wider, {**wider, "id": 901}]
    file = opened(tmp_path, small_coco, content)
    assert [line.split(":")[0] for line in findings(file)] == ["1 x person who is annotated again"]
    assert {900} < {person["id"] for person in file.annotations["annotations"]}


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "{", b"\xff\xfe", ""])
def test_what_is_no_json_is_said_in_a_line(tmp_path: Path, text: Any) -> None:
    (tmp_path / "a.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=r"a\.json is not JSON") as caught:
        read_json(Folder.of(tmp_path), "a.json")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("pack", "program"), [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")]
)
def test_compressed_json_is_to_be_unpacked(tmp_path: Path, pack: Any, program: str) -> None:
    (tmp_path / "a.json").write_bytes(pack(b"{}"))
    with pytest.raises(DataError, match=rf"a\.json is not JSON \(compressed by {program}\); unpack it$"):
        read_json(Folder.of(tmp_path), "a.json")


def test_messages_are_one_line_for_any_terminal() -> None:
    assert str(UserError("a\n b\x1b[0m\ud800", "c\td")) == r"a b\x1b[0m\ud800; c d"
    assert shown([[[[[[[[1]]]]]]]]).count("[") < 8
    assert len(shown("x" * 10_000)) < 60


@pytest.mark.parametrize(
    ("value", "meaning"), [(0.0, 0), ("1", 1), ("True", 1), (2, None), (-1, None), (0.5, None), ([], None)]
)
def test_flags(value: Any, meaning: int | None) -> None:
    assert flag(value) == meaning


def test_coordinates() -> None:
    assert coordinates([[1, 2], ["3.5", 4.0]]) == [1, 2, 3.5, 4]
    for value in ([1, True], [1, None], [1, 1e8], [[[1]]], {"a": 1}, "12", 5):
        assert coordinates(value) is None


STATED = [0.1, 0.4, 0.9]


@pytest.mark.parametrize(
    ("values", "used", "said"),
    [
        (["0.1", 0.4, 0.9], STATED, 0),
        ([None, 0.4, 0.9], [0.0, 0.4, 0.9], 1),
        ([-1, "much", 1.7], [0.0, 1.0, 1.7], 2),
        ([0.5, 0.5, 0.5], [0.0, 1.0, 0.0], 3),
        ([0.0, 1.0, 0.0], [0.0, 1.0, 0.0], 0),
    ],
)
def test_a_crowd_index_that_cannot_be_true_is_counted(
    tmp_path: Path, values: list[Any], used: list[float], said: int
) -> None:
    """Pictures of one person, two who share a box, and one."""
    people = [
        {"image_id": image, "category_id": 1, "bbox": [2, 3, 30, 40], "keypoints": [9, 9, 2] * 14}
        for image in (1, 2, 2, 3)
    ]
    people[2]["keypoints"] = [8, 8, 2] * 14
    images = [
        {"id": i + 1, "file_name": f"{i}.jpg", "width": 50, "height": 60, "crowdIndex": v}
        for i, v in enumerate(values)
    ]
    categories = [{"id": 1, "name": "person", "keypoints": list(CROWDPOSE14.joints)}]
    (tmp_path / "images").mkdir()
    (tmp_path / "json").mkdir()
    annotations = [{**person, "id": i} for i, person in enumerate(people)]
    for protocol, name in (("crowdpose", "json/crowdpose_val.json"), ("coco", FILE.replace("train", "val"))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
        (tmp_path / name).write_text(text)
        file = open_split(
            replace(DATASETS[protocol], skeleton="crowdpose14", images="images"), Folder.of(tmp_path), "val"
        )
        assert np.isfinite(split_statistics(file, (96, 128), 1.25).crowd_index)
        if protocol == "crowdpose":
            assert [image["crowdIndex"] for image in file.annotations["images"]] == used
            assert [line.split(" ")[0] for line in findings(file)] == ([f"{said}"] if said else [])


def config_of(root: Path) -> Config:
    return replace(preset("debug"), data=DataConfig(root=str(root), max_bad_share=0.2))


BOX = {"image_id": 3, "category_id": 1, "bbox": [10, 10, 40, 50], "score": 0.5}


@pytest.mark.parametrize(
    ("changes", "boxes", "unusable"),
    [
        ({"category_id": None}, 10, 0),
        ({"category_id": [1]}, 9, 1),
        ({"category_id": 7}, 9, 0),
        ({"score": True}, 9, 1),
        ({"score": "0.9"}, 10, 0),
        ({"bbox": [10, 10, 10**400, 5]}, 9, 1),
        (
            {"bbox": [90, 10, 40, 50]},
            10,
            0,
        ),  # one that reaches over the border does not make all of them centres
    ],
)
def test_a_detection(
    small_coco: Folder, content: Any, tmp_path: Path, changes: dict[str, Any], boxes: int, unusable: int
) -> None:
    file = opened(tmp_path, small_coco, content)
    (tmp_path / "det.json").write_text(json.dumps([{**BOX, **changes}] + [BOX] * 9))
    found = load_boxes(file, Folder.of(tmp_path), "train", f"det={tmp_path}/det.json", config_of(tmp_path))
    assert len(found) == boxes
    assert (found.boxes == [10, 10, 40, 50]).all(1).sum() >= 9
    assert [note.partition(": ")[2] for note in found.notes] == (
        ["1 x box that is not usable: number 0"] if unusable else []
    )


def test_centre_boxes_need_people_that_they_fit(small_coco: Folder, content: Any, tmp_path: Path) -> None:
    """Boxes over the right border fit their images as centre boxes, too."""
    file = opened(tmp_path, small_coco, content)
    people = file.ground_truth_boxes()
    xywh = [
        {"image_id": i, "category_id": 1, "bbox": [x, y, w + 30, h], "score": 0.5}
        for i, (x, y, w, h) in zip(people.image_ids.tolist(), people.boxes.tolist(), strict=True)
        if x + w > 95 and x - w / 2 > -1 and y - h / 2 > -1
    ]
    centres = [
        {"image_id": i, "category_id": 1, "bbox": [x + w / 2, y + h / 2, w, h], "score": 0.5}
        for i, (x, y, w, h) in zip(people.image_ids.tolist(), people.boxes.tolist(), strict=True)
    ]
    for given, right in ((xywh, [b["bbox"] for b in xywh]), (centres, people.boxes.tolist())):
        (tmp_path / "det.json").write_text(json.dumps(given))
        found = load_boxes(
            file, Folder.of(tmp_path), "train", f"det={tmp_path}/det.json", config_of(tmp_path)
        )
        np.testing.assert_allclose(found.boxes, right)
        assert bool(found.notes) == (given is centres)


def test_classes_that_may_count_from_0_are_said(small_coco: Folder, content: Any, tmp_path: Path) -> None:
    file = opened(tmp_path, small_coco, content)
    (tmp_path / "det.json").write_text(json.dumps([{**BOX, "category_id": i} for i in (0, 0, 1, 2)]))
    found = load_boxes(file, Folder.of(tmp_path), "train", f"det={tmp_path}/det.json", config_of(tmp_path))
    assert len(found) == 1
    assert [note.partition(": ")[2] for note in found.notes] == [
        "2 boxes are of category 0; if its classes count from 0, those of category 1 are not persons"
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"category_id": [1]}, "result 2 is of category [1], which is not of people in"),
        ({"category_id": 7}, "result 2 is of category 7, which is not of people in"),
        ({"score": 10**400}, "keypoints or a score that are not numbers"),
        ({"keypoints": [10**400] * 51}, "keypoints or a score that are not numbers"),
        ({"keypoints": [1e300] * 51}, "keypoints or a score that are not numbers"),
        ({"image_id": {"id": 3}}, "result 2 is of image {'id': 3}, which"),
    ],
)
def test_a_result_that_cannot_be_used(
    small_coco: Folder, content: Any, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    file = opened(tmp_path, small_coco, content)
    pose = {"image_id": 3, "category_id": 1, "keypoints": [5] * 51, "score": 0.5}
    (tmp_path / "poses.json").write_text(json.dumps([pose, pose, {**pose, **changes}]))
    with pytest.raises(DataError) as caught:
        external_result_rows([f"a={tmp_path}/poses.json"], {"train": file}, config_of(tmp_path))
    assert words in str(caught.value)


def test_results_with_a_pose_in_triples_and_words(small_coco: Folder, content: Any, tmp_path: Path) -> None:
    file = opened(tmp_path, small_coco, content)
    poses = [
        {
            "image_id": person["image_id"],
            "category_id": None,
            "keypoints": np.reshape(person["keypoints"], (17, 3)).tolist(),
            "score": "0.5",
        }
        for person in content["annotations"]
    ]
    (tmp_path / "poses.json").write_text(json.dumps(poses))
    (row,) = external_result_rows([f"a={tmp_path}/poses.json"], {"train": file}, config_of(tmp_path))
    assert row.metrics["AP"] == pytest.approx(1)


def test_others_results_alone_say_what_is_left_out_and_measure_nothing_by_no_pose(
    small_coco: Folder, content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content["annotations"][0]["bbox"] = "none"
    opened(tmp_path, small_coco, content)
    (tmp_path / "poses.json").write_text("[]")
    argv = ["evaluate", "--results", f"other={tmp_path}/poses.json", "--data", str(tmp_path)]
    argv += ["--data.evaluate", "train"]
    assert main([*argv, "--data.max-bad-share", "0.1"]) == 0
    text = capsys.readouterr().out
    assert "left out: 1 x box that is not four numbers: annotation 100 of 0.jpg" in text
    assert f"train/other: {tmp_path}/poses.json has no pose for split train" in text
    assert [line.split()[3] for line in text.splitlines() if line.startswith("train ")] == ["-"]
    assert main(argv) == 2
    assert "1 of 30 samples are unusable" in capsys.readouterr().err


@pytest.mark.parametrize("lists", [("annotations",), ("annotations", "images")])
def test_a_file_with_nobody_in_it_is_read_and_has_nobody_to_train_on(
    small_coco: Folder, content: Any, tmp_path: Path, lists: tuple[str, ...]
) -> None:
    for name in lists:
        content[name] = []
    file = opened(tmp_path, small_coco, content)
    assert file.annotations["annotations"] == []
    assert len(file.images()) == len(content["images"])
    with pytest.raises(DataError, match="has no usable person"):
        file.people()
