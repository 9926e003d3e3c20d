"""A reading from the cache is the reading of the file, and nothing is believed that may have changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mipnet.data import annotation_cache
from mipnet.data.annotation_cache import cache_folder
from mipnet.data.annotation_reading import Rules
from mipnet.data.coco import DEFAULT_RULES, CocoKeypointFile
from mipnet.errors import DataError
from mipnet.skeletons import COCO17, Skeleton
from mipnet.storage import Folder

LABELS = "annotations/person_keypoints_train.json"
YEAR_2020 = 1_577_836_800
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A cache folder of the test's own that keeps readings of small files, too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(annotation_cache, "CACHED_BYTES", 1)
    return cache_folder()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each file that is parsed."""
    from mipnet.data import coco

    sizes: list[int] = []

    def parse(content: bytes, *hook: Any) -> Any:
        sizes.append(len(content))
        return json.loads(content)

    monkeypatch.setattr(coco, "parse_json", parse)
    return sizes


@pytest.fixture
def root(small_coco: Folder, tmp_path: Path) -> Path:
    shutil.copytree(small_coco.local_path, tmp_path / "data")
    os.utime(tmp_path / "data" / LABELS, (YEAR_2020, YEAR_2020))
    return tmp_path / "data"


def rewrite(root: Path, change: Change, time: int = YEAR_2020) -> None:
    content = json.loads((root / LABELS).read_text())
    change(content)
    (root / LABELS).write_text(json.dumps(content))
    os.utime(root / LABELS, (time, time))


def read(root: Path, skeleton: Skeleton = COCO17, rules: Rules = DEFAULT_RULES) -> CocoKeypointFile:
    return CocoKeypointFile(Folder.of(root), LABELS, "train", skeleton, rules)


def seen(file: CocoKeypointFile) -> dict[str, Any]:
    """All that a command can see of a file."""
    people, boxes = file.people(), file.ground_truth_boxes()
    arrays = people.images.uris, people.image_offsets, people.ids, people.boxes, people.keypoints, boxes.boxes
    return {
        "annotations": file.annotations,
        "arrays": [array.tolist() for array in arrays],
        "findings": [file.fixes, file.invalid_annotations, file.oddities],
        "ids": [
            file.columns.image_ids.tolist(),
            file.image_ids.invented,
            file.person_category_ids,
            file.file_names,
        ],
        "counts": [file.sha256, file.num_measured, file.category_id],
    }


def same(content: dict[str, Any]) -> None:
    pass


def many_faults(content: dict[str, Any]) -> None:
    people, images = content["annotations"], content["images"]
    images[0]["id"] = people[0]["image_id"] = "first"
    images.append(dict(images[1]))
    images[2] |= {"crowdIndex": 0.5}
    people[1]["keypoints"][2] = 7
    people[2]["area"] = -1
    people[3]["bbox"] = "none"
    people[4] |= {"keypoints": [], "num_keypoints": 0, "iscrowd": 1}
    people[5]["num_keypoints"] = "3"
    people.append({**people[6], "id": people[7]["id"]})
    people[8]["image_id"] = 10**30
    people[9] |= {"segmentation": [[1, 2, 3]], "bbox": [1, 2, 30, 40]}
    content["categories"].append({"id": 9, "name": "ball"})


def whole_numbers(content: dict[str, Any]) -> None:
    for person in content["annotations"]:
        for name in ("keypoints", "bbox"):
            person[name] = [round(value) for value in person[name]]


def ids_of_text(content: dict[str, Any]) -> None:
    for entry in content["images"]:
        entry["id"] = f"im {entry['id']}"
    for person in content["annotations"]:
        person["image_id"] = f"im {person['image_id']}"


def without_sizes(content: dict[str, Any]) -> None:
    for entry in content["images"]:
        del entry["width"]


@pytest.mark.parametrize("change", [same, many_faults, whole_numbers, ids_of_text, without_sizes])
def test_a_kept_reading_is_the_same(root: Path, parsed: list[int], change: Change) -> None:
    rewrite(root, change)
    first = seen(read(root))
    assert len(parsed) == 1
    assert seen(read(root)) == first
    assert len(parsed) == 1
    if change is many_faults:
        findings = json.dumps([vars(found) for found in first["findings"][1:]]) + str(first["findings"][0])
        for fault in ("visibility", "not four numbers", "without its image", "listed again", "area"):
            assert fault in findings


def test_columns_hold_what_the_file_says(root: Path) -> None:
    """Against the JSON itself."""
    rewrite(root, whole_numbers)
    stated, file = json.loads((root / LABELS).read_text()), read(root)
    for person, ours in zip(stated["annotations"], file.annotations["annotations"], strict=True):
        assert {name: person[name] for name in ours if name != "area"} == {
            name: value for name, value in ours.items() if name != "area"
        }
    assert file.annotations["images"] == stated["images"]
    assert file.columns.keypoints.dtype == np.int16  # of whole numbers below 32,768


def test_numbers_keep_their_last_digit(root: Path) -> None:
    person: dict[str, Any] = {}

    def change(content: dict[str, Any]) -> None:
        content["annotations"][0]["keypoints"][:2] = [0.1 + 0.2, 1e-300]
        person.update(content["annotations"][0])

    rewrite(root, change)
    read(root)
    assert read(root).annotations["annotations"][0]["keypoints"] == person["keypoints"]


def flip(root: Path) -> None:
    rewrite(root, lambda content: content["annotations"].reverse(), YEAR_2020 + 1)


def touch(root: Path) -> None:
    os.utime(root / LABELS)


@pytest.mark.parametrize(("change", "readings"), [(flip, 2), (touch, 1)])
def test_content_decides(
    root: Path, parsed: list[int], change: Callable[[Path], None], readings: int
) -> None:
    read(root)
    change(root)
    file = read(root)
    assert len(parsed) == readings
    stated = json.loads((root / LABELS).read_text())["annotations"]
    assert file.columns.ids.tolist() == [person["id"] for person in stated]


def test_a_data_set_that_moved_is_not_read_again(root: Path, parsed: list[int]) -> None:
    first = read(root)
    shutil.move(root, root.parent / "moved")
    moved = read(root.parent / "moved")
    assert len(parsed) == 1
    assert moved.annotations == first.annotations
    assert moved.people().images.uris[0] == str(root.parent / "moved" / "train" / "0.jpg")


def test_other_rules_are_another_reading(root: Path, parsed: list[int]) -> None:
    read(root)
    for rules in (Rules(keep_area=True), Rules(crowdpose=True), Rules(category="person")):
        read(root, rules=rules)
    read(root, replace(COCO17, name="mine"))
    assert len(parsed) == 5


def test_another_version_of_the_reader_is_another_reading(
    root: Path, parsed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read(root)
    monkeypatch.setattr(annotation_cache, "source_digest", lambda: "later")
    read(root)
    assert len(parsed) == 2


def test_pictures_that_decided_something_are_looked_at_again(root: Path, parsed: list[int]) -> None:
    import cv2

    rewrite(root, without_sizes)
    before = read(root).columns.sizes_of(np.array([3]))
    cv2.imwrite(str(root / "train" / "3.jpg"), np.zeros((300, 400, 3), np.uint8))
    after = read(root).columns.sizes_of(np.array([3]))
    assert (before.tolist(), after.tolist(), len(parsed)) == ([[120, 100]], [[400, 300]], 2)


def test_a_file_of_this_moment_is_read_each_time(root: Path) -> None:
    rewrite(root, same, YEAR_2020)
    os.utime(root / LABELS)
    time = (root / LABELS).stat().st_mtime_ns
    first = read(root)
    text = (root / LABELS).read_text()
    (root / LABELS).write_text(text.replace('"id": 100,', '"id": 999,'))
    os.utime(root / LABELS, ns=(time, time))
    assert read(root).columns.ids[0] == 999 != first.columns.ids[0]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "a bit flipped": lambda path: path.write_bytes(path.read_bytes()[:-9] + b"8" + path.read_bytes()[-8:]),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "text": lambda path: path.write_text('{"a": [1]}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_harmless(root: Path, cache: Folder, damage: str) -> None:
    first = seen(read(root))
    for name in cache.names():
        DAMAGE[damage](cache.local_path / name)
    assert seen(read(root)) == first


def test_a_cache_that_cannot_be_written_is_harmless(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert seen(read(root)) == seen(read(root))


def test_the_cache_keeps_the_newest(root: Path, cache: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    read(root)
    (first,) = (name for name in cache.names() if name.endswith(".npz"))
    size = (cache.local_path / first).stat().st_size
    monkeypatch.setattr(annotation_cache, "CACHE_LIMIT", int(2.5 * size))
    for keep_area in (True, False):
        os.utime(cache.local_path / first, (YEAR_2020, YEAR_2020))
        read(root, rules=Rules(crowdpose=keep_area, keep_area=True))
    kept = [name for name in cache.names() if name.endswith(".npz")]
    assert len(kept) == 2
    assert first not in kept


def test_a_broken_file_is_not_kept(root: Path, cache: Folder) -> None:
    (root / LABELS).write_text('{"images": [')
    for _ in range(2):
        with pytest.raises(DataError, match="is not JSON"):
            read(root)
    assert not [name for name in cache.names() if name.endswith(".npz")]


def test_small_files_are_not_kept(root: Path, cache: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_cache, "CACHED_BYTES", 4 << 20)
    read(root)
    assert cache.names() == []


def test_whole_annotations_have_all_fields(root: Path) -> None:
    rewrite(root, many_faults)
    file = read(root)
    whole = {person["id"]: person for person in file.whole_annotations()["annotations"]}
    assert any("segmentation" in person for person in whole.values())
    assert not any("segmentation" in person for person in file.annotations["annotations"])
    for person in file.annotations["annotations"]:
        assert whole[person["id"]] | person == whole[person["id"]]
