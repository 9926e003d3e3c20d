"""The pictures and boxes of ``mipnet predict``: names and ids in the output, whose picture a box is of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mipnet.config import preset
from mipnet.data.coco import Boxes
from mipnet.errors import DataError
from mipnet.experiment.picture_list import Pictures, person_category, pictures_of_list, read_list
from mipnet.experiment.prediction import boxes_in, find_pictures, read_boxes
from mipnet.skeletons import COCO17

CONFIG = preset("debug")
BOX = [10, 20, 30, 40]


def folder(root: Path, *names: str) -> Path:
    """Pictures of 100x80 px."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), np.zeros((80, 100, 3), np.uint8))
    return root


def written(root: Path, content: Any, name: str = "boxes.json") -> str:
    (root / name).write_text(json.dumps(content))
    return str(root / name)


def read(root: Path, pictures: Pictures, boxes: Any, category: str = "", **data: Any) -> Boxes:
    config, path = replace(CONFIG, data=replace(CONFIG.data, **data)), written(root, boxes)
    persons = person_category({}, "", category, CONFIG.data.joints)
    return boxes_in(pictures, read_boxes(path), path, persons, config)


def where(boxes: Boxes, pictures: Pictures) -> list[str]:
    return [pictures.names[i] for i in boxes.image_index.tolist()]


def test_names_are_relative_to_what_was_given(tmp_path: Path) -> None:
    root = folder(tmp_path / "p", "day/0.jpg", "day/1.jpg", "night/0.jpg")
    day, night = str(root / "day"), str(root / "night")
    assert find_pictures([str(root)]).names == ["day/0.jpg", "day/1.jpg", "night/0.jpg"]
    assert find_pictures([day]).names == ["0.jpg", "1.jpg"]
    assert find_pictures([day, night]).names == ["day/0.jpg", "day/1.jpg", "night/0.jpg"]
    assert find_pictures([f"{day}/1.jpg", night]).names == ["1.jpg", "0.jpg"]
    assert find_pictures([f"{day}/0.jpg", f"{night}/0.jpg"]).names == ["day/0.jpg", "night/0.jpg"]
    other = folder(tmp_path / "q", "day/0.jpg")
    assert find_pictures([day, str(other / "day")]).names == ["p/day/0.jpg", "p/day/1.jpg", "q/day/0.jpg"]
    (tmp_path / "link.jpg").symlink_to(root / "day" / "1.jpg")
    assert find_pictures([str(tmp_path / "link.jpg")]).names == ["link.jpg"]


def test_names_of_tables(tmp_path: Path) -> None:
    def table(file: str, **columns: list[Any]) -> str:
        pq.write_table(pa.table({"image": [b"one", b"two"], **columns}), tmp_path / file)
        return str(tmp_path / file)

    named, plain = table("a.parquet", name=["x/1.jpg", "2.jpg"]), table("b.parquet")
    twice, again = table("c.parquet", name=["3.jpg", "3.jpg"]), table("d.parquet", name=["2.jpg", "4.jpg"])
    assert find_pictures([named, plain]).names == ["x/1.jpg", "2.jpg", "b.parquet#row=0", "b.parquet#row=1"]
    assert find_pictures([twice]).names == ["c.parquet#row=0", "c.parquet#row=1"]
    assert find_pictures([named, again]).names == [
        "a.parquet/x/1.jpg", "a.parquet/2.jpg", "d.parquet/2.jpg", "d.parquet/4.jpg",
    ]  # fmt: skip
    pictures = find_pictures([named])
    boxes = read(tmp_path, pictures, [{"file_name": "2.jpg", "bbox": BOX}, {"image_id": 1, "bbox": BOX}])
    assert where(boxes, pictures) == ["x/1.jpg", "2.jpg"]


def test_ids_are_numbers_in_names_and_others_are_named() -> None:
    pictures = Pictures([""] * 5, ["0002.jpg", "b/3.jpg", "c/3.jpg", "a.jpg", "7.png"])
    assert pictures.ids == [2, 1, 3, 4, 7]
    assert pictures.unnumbered == ["b/3.jpg", "c/3.jpg", "a.jpg"]
    assert Pictures(["", ""], ["a.jpg", "b.jpg"], ["x", 5]).unnumbered == []


def test_boxes_go_to_their_own_pictures_by_names_and_numbers(tmp_path: Path) -> None:
    pictures = find_pictures([str(folder(tmp_path / "p", "0001.jpg", "0003.jpg", "a.jpg"))])
    sized = {1: [10, 20, 30, 40], "3": [12, 20, 30, 40], "a": [14, 20, 30, 40]}
    given = [{"image_id": i, "bbox": box} for i, box in reversed(sized.items())]
    boxes = read(tmp_path, pictures, given)
    assert where(boxes, pictures) == ["0001.jpg", "0003.jpg", "a.jpg"]
    assert boxes.boxes[:, 0].tolist() == [10, 12, 14]


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        (
            [{"image_id": 1}, {"image_id": 2}],
            r"2 are of other images; give each box a file_name, or the ids ",
        ),
        ([{"file_name": "x.jpg"}], r"1 are of other images; name the images as here, e.g. day/a.jpg"),
        (
            [{"file_name": "a.jpg"}],
            r"detection 0 is of 'a.jpg', which fits several images \(day/a.jpg, night/",
        ),
        ([], "of 0 boxes .* 0 are of other images; without --boxes each whole image is one box"),
        (
            [{"file_name": "day/a.jpg", "category_id": 0}],
            r"has no box to predict in: of 1 boxes 1 are not of persons \(category 1\), 0 are below the "
            r"score threshold 0.3 and 0 are of other images; say which are persons with --data.category ID",
        ),
        ([{"file_name": "day/a.jpg", "score": 0.2}], "1 are below the score .*; lower --data.box-score-thr"),
        (
            [{"file_name": "day/a.jpg", "bbox": [1, 2, 0, 5]}],
            "1 of 1 samples are unusable .*; give detections",
        ),
    ],
)
def test_boxes_that_would_be_guesswork_or_are_none_are_refused(
    boxes: list[dict[str, Any]], words: str, tmp_path: Path
) -> None:
    pictures = find_pictures([str(folder(tmp_path / "p", "day/a.jpg", "night/a.jpg"))])
    with pytest.raises(DataError, match=words):
        read(tmp_path, pictures, [{"bbox": BOX, **box} for box in boxes], box_score_threshold=0.3)
    with pytest.raises(DataError, match=r"boxes.json is not a list; give detections as"):
        read_boxes(written(tmp_path, {}))


def test_persons_only_thresholds_and_single_bad_boxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = find_pictures([str(folder(tmp_path / "p", "a.jpg", "b.jpg"))])
    good = [{"file_name": "a.jpg", "bbox": BOX, "score": 0.9, "category_id": c % 80 + 1} for c in range(160)]
    near = {"file_name": "a.jpg", "bbox": [11, 20, 30, 40], "score": 0.8, "category_id": 1}
    low, bad = {**near, "score": 0.1}, {**near, "score": "high"}
    other, unscored = {**near, "file_name": "z.jpg"}, {"file_name": "a.jpg", "bbox": [60, 10, 20, 20]}
    given = [*good, near, low, bad, other, unscored]
    boxes = read(tmp_path, pictures, given, box_score_threshold=0.5, box_nms=0.7, max_bad_share=0.2)
    assert boxes.boxes.tolist() == [BOX, unscored["bbox"]]  # two of 160 are of persons, one over the other
    assert boxes.scores.tolist() == [0.9, 1.0]
    said = capsys.readouterr().out
    assert "boxes.json: 1 x box that is not usable: number 162" in said
    assert "of 165 boxes 158 are not of persons (category 1), 1 are below the score threshold 0.5" in said
    assert "and 1 are of other images" in said
    assert "boxes.json: 1 boxes without a score, taken for 1" in said
    assert "without a box: 1 images (b.jpg)" in said
    with pytest.raises(DataError, match=r"1 of 7 samples are unusable .*, or raise --data.max-bad-share"):
        read(tmp_path, pictures, given, max_bad_share=0.1)
    dogs = read(tmp_path, pictures, good, category="17")
    assert len(dogs) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([40, 30, 70, 70], "two corners x, y, x, y in px"),
        ([0.4, 0.375, 0.3, 0.5], "x, y, width, height as shares of the image"),
    ],
)
def test_boxes_of_other_formats_are_turned(
    given: list[float], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{i}.png" for i in range(40)]
    pictures = find_pictures([str(folder(tmp_path / "p", *names))])
    boxes = read(tmp_path, pictures, [{"file_name": name, "bbox": given} for name in names])
    assert np.allclose(boxes.boxes, [40, 30, 30, 40])
    assert words in capsys.readouterr().out


def test_boxes_that_miss_their_picture_and_scores_in_percent_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = find_pictures([str(folder(tmp_path / "p", "a.png"))])
    far = {"file_name": "a.png", "bbox": [1000, 10, 50, 80]}
    boxes = read(tmp_path, pictures, [far, {"file_name": "a.png", "bbox": BOX, "score": 90}])
    assert boxes.boxes.tolist() == [BOX]
    said = capsys.readouterr().out
    assert "1 boxes outside of their images" in said
    assert "scores reach 90, where thresholds expect 0 to 1" in said
    with pytest.raises(DataError, match=r"all 2 boxes lie outside of their images; give x, y, width, height"):
        read(tmp_path, pictures, [far, far])


def test_one_box_of_shares_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = find_pictures([str(folder(tmp_path / "p", "a.png"))])
    boxes = read(tmp_path, pictures, [{"file_name": "a.png", "bbox": [0.4, 0.375, 0.3, 0.5]}])
    assert np.allclose(boxes.boxes, [40, 30, 30, 40])
    assert "x, y, width, height as shares of the image" in capsys.readouterr().out


def listing(root: Path, *images: tuple[Any, str], **more: Any) -> str:
    return written(root, {"images": [{"id": i, "file_name": name} for i, name in images], **more}, "l.json")


def of_list(found: Pictures, source: str, max_bad_share: float = 0.0) -> tuple[Pictures, list[str]]:
    return pictures_of_list(found, read_list(source), source, max_bad_share)


def test_a_list_gives_pictures_names_and_ids(tmp_path: Path) -> None:
    found = find_pictures([str(folder(tmp_path / "p", "day/a.jpg", "day/b.jpg", "night/a.jpg"))])
    source = listing(tmp_path, ("0009", "night/a.jpg"), (2, "day/a.jpg"), ("x", "day/a.jpg"))
    pictures, notes = of_list(found, source)
    assert [uri.removeprefix(str(tmp_path)) for uri in pictures.uris] == [
        "/p/night/a.jpg", "/p/day/a.jpg", "/p/day/a.jpg",
    ]  # fmt: skip
    assert pictures.names == ["night/a.jpg", "day/a.jpg", "day/a.jpg"]
    assert [pictures.own_id(number) for number in pictures.ids] == ["0009", 2, "x"]
    assert pictures.unnumbered == []
    assert notes == [f"1 x picture that {source} does not list: day/b.jpg"]
    boxes = read(tmp_path, pictures, [{"image_id": i, "bbox": BOX} for i in ("x", 9, 2, 2)])
    assert boxes.image_index.tolist() == [0, 1, 1, 2]
    with pytest.raises(DataError, match="1 are of other images; the ids must be those of --images-json"):
        read(tmp_path, pictures, [{"image_id": 1, "bbox": BOX}])


def test_a_list_whose_pictures_are_missing_or_guesswork_is_refused(tmp_path: Path) -> None:
    found = find_pictures([str(folder(tmp_path / "p", "day/a.jpg", "night/a.jpg", "night/b.jpg"))])
    with pytest.raises(DataError, match=r"l.json: image 0 is of 'a.jpg', which fits several images"):
        of_list(found, listing(tmp_path, (1, "a.jpg")))
    with pytest.raises(DataError, match=r"1 of 2 samples are unusable \(1 x image that is not among the "):
        of_list(found, listing(tmp_path, (1, "b.jpg"), (2, "c.jpg")))
    pictures, notes = of_list(found, listing(tmp_path, (1, "b.jpg"), (2, "c.jpg")), 0.5)
    assert pictures.names == ["b.jpg"]
    assert notes[0] == "1 x image that is not among the pictures: c.jpg"
    with pytest.raises(DataError, match="has no list 'images'; give a COCO file with --images-json"):
        of_list(found, written(tmp_path, [1], "l.json"))


def test_boxes_whose_categories_are_names(tmp_path: Path) -> None:
    pictures = find_pictures([str(folder(tmp_path / "p", "a.jpg", "b.jpg"))])
    box = {"bbox": BOX, "score": 0.9}
    named = [
        {**box, "file_name": f"{name}.jpg", "category_id": c} for name, c in (("a", "person"), ("b", "dog"))
    ]
    with pytest.raises(DataError, match=r"say which are persons with --data.category ID, e.g. person"):
        read(tmp_path, pictures, named[:1])
    assert where(read(tmp_path, pictures, named, category="person"), pictures) == ["a.jpg"]
    assert person_category({}, "", "person", COCO17).entry["id"] == 1  # of the results


def test_persons_are_those_of_the_list(tmp_path: Path) -> None:
    def category(*entries: Any, wanted: str = "") -> Any:
        return person_category({"categories": list(entries)}, "l.json", wanted, COCO17).entry["id"]

    climber = {"id": "7", "name": "climber", "keypoints": list(COCO17.joints)}
    rock, person = {"id": 1, "name": "rock"}, {"id": 3, "name": "person", "keypoints": ["nose"]}
    assert category(rock, climber) == "7"
    assert category(rock, person) == 3  # of another skeleton, but the ids are the file's
    assert category(rock, person, wanted="rock") == 1
    assert category() == 1
    assert person_category({}, "", "5", COCO17).entry["id"] == 5
    assert person_category({}, "", "climber", COCO17).entry["id"] == 1
