"""The same command with other data is refused; a touched or moved data set is the same."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mipnet.config import Config, preset
from mipnet.config.schema import DataConfig
from mipnet.errors import UserError
from mipnet.experiment.data_identity import check_same_data, note_data
from mipnet.experiment.datasets import open_splits
from mipnet.experiment.training_run import complete_run
from mipnet.run_folder import DATA_RECORD, Run, open_run
from mipnet.storage import Folder

LABELS = "annotations/person_keypoints_train.json"


@pytest.fixture
def data(small_coco: Folder, tmp_path: Path) -> Path:
    """A data set with a detector's boxes."""
    root = tmp_path / "data"
    shutil.copytree(small_coco.local_path, root)
    boxes = [{"image_id": 0, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.9}]
    (root / "boxes").mkdir()
    (root / "boxes" / "det_train.json").write_text(json.dumps(boxes))
    return root


def config_on(root: Path) -> Config:
    data = DataConfig(str(root), train="train", val="train", evaluate=("train",), boxes=("gt", "det"))
    return replace(preset("debug"), data=data)


def begin(config: Config, storage: Folder, name: str = "") -> Run:
    """A run of which the first start has kept the data's fingerprints, but nothing else."""
    run, root = open_run(storage, config, name), Folder.of(config.data.root)
    note_data(run.folder, config.data, root, open_splits(config, root, ["train"]))
    return run


def fewer_people(root: Path) -> None:
    content = json.loads((root / LABELS).read_text())
    content["annotations"] = content["annotations"][::2]
    (root / LABELS).write_text(json.dumps(content))


def moved_keypoint(root: Path) -> None:
    """Of the same size: a digit of one number is another."""
    text = (root / LABELS).read_text()
    changed = re.sub(r"(?<=\.\d)\d", lambda digit: str((int(digit[0]) + 1) % 10), text, count=1)
    assert changed != text
    (root / LABELS).write_text(changed)


def other_boxes(root: Path) -> None:
    (root / "boxes" / "det_train.json").write_text("[]")


def other_pixels(root: Path) -> None:
    content = bytearray((root / "train" / "3.jpg").read_bytes())
    content[-20] ^= 1
    (root / "train" / "3.jpg").write_bytes(content)


def lost_picture(root: Path) -> None:
    (root / "train" / "3.jpg").unlink()


OTHER_DATA = {
    fewer_people: LABELS,
    moved_keypoint: LABELS,
    other_boxes: "boxes/det_train.json",
    other_pixels: "train/3.jpg",
    lost_picture: "train/3.jpg",
}


@pytest.mark.parametrize("finished", [False, True], ids=["interrupted", "finished"])
@pytest.mark.parametrize("change", OTHER_DATA, ids=lambda change: change.__name__)
def test_other_data_are_refused_before_ray(
    data: Path, tmp_path: Path, change: Callable[[Path], None], finished: bool
) -> None:
    storage = Folder.of(tmp_path / "storage")
    run = begin(config_on(data), storage)
    run.note(finished=finished)
    change(data)
    with pytest.raises(UserError) as caught:
        complete_run(run.config, storage, "", False, verbose=False)
    what = f"run {run.name} began with other data: 1 of 14 files have changed since ({OTHER_DATA[change]})"
    assert (caught.value.what, caught.value.exit_code) == (what, 1)
    assert "--new" in caught.value.hint


def touched(root: Path) -> None:
    for path in root.rglob("*"):
        os.utime(path)


def written_again(root: Path) -> None:
    for path in filter(Path.is_file, root.rglob("*")):
        path.write_bytes(path.read_bytes())


def other_files(root: Path) -> None:
    """Of which the run uses none."""
    (root / "train" / "notes.txt").write_text("seen")
    (root / "annotations" / "person_keypoints_test.json").write_text("{}")


def gone(root: Path) -> None:
    shutil.rmtree(root)


@pytest.mark.parametrize("change", [touched, written_again, other_files, gone])
def test_the_same_data_are_the_same(
    data: Path, tmp_path: Path, change: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    storage = Folder.of(tmp_path / "storage")
    begin(config_on(data), storage).note(finished=True)
    change(data)
    assert complete_run(config_on(data), storage, "", False, verbose=False).finished
    assert "is finished; --new starts another" in capsys.readouterr().out


def test_a_run_without_fingerprints_goes_on(data: Path, tmp_path: Path) -> None:
    storage = Folder.of(tmp_path / "storage")
    open_run(storage, config_on(data)).note(finished=True)
    fewer_people(data)
    assert complete_run(config_on(data), storage, "", False, verbose=False).finished


def test_a_data_set_may_move(data: Path, tmp_path: Path) -> None:
    storage, elsewhere = Folder.of(tmp_path / "storage"), tmp_path / "elsewhere"
    begin(config_on(data), storage, "mine").note(finished=True)
    shutil.copytree(data, elsewhere, copy_function=shutil.copyfile)
    shutil.rmtree(data)
    run = complete_run(config_on(elsewhere), storage, "mine", False, verbose=False)
    assert run.config.data.root == str(elsewhere)
    fewer_people(elsewhere)
    with pytest.raises(UserError, match=LABELS):
        complete_run(config_on(elsewhere), storage, "mine", False, verbose=False)


@pytest.mark.parametrize("root", ["nowhere", "generated"])
def test_a_run_does_not_move_to_where_nothing_is(data: Path, tmp_path: Path, root: str) -> None:
    storage = Folder.of(tmp_path / "storage")
    config = begin(config_on(data), storage, "mine").config
    with pytest.raises(UserError, match=r"exists with other settings \(data.root"):
        open_run(storage, replace(config, data=replace(config.data, root=root)), "mine")


def test_the_first_record_stays(data: Path, tmp_path: Path) -> None:
    storage = Folder.of(tmp_path / "storage")
    before = begin(config_on(data), storage).folder.read(DATA_RECORD)
    fewer_people(data)
    assert begin(config_on(data), storage).folder.read(DATA_RECORD) == before


def test_boxes_from_outside_of_the_data_set_count(data: Path, tmp_path: Path) -> None:
    folder, boxes = Folder.of(tmp_path / "run"), tmp_path / "mine.json"
    shutil.copy(data / "boxes" / "det_train.json", boxes)
    config = config_on(data)
    config = replace(config, data=replace(config.data, boxes=(f"det={boxes}",)))
    note_data(folder, config.data, Folder.of(data), open_splits(config, Folder.of(data), ["train"]))
    check_same_data("run mine", folder, Folder.of(data))
    boxes.write_text("[]")
    with pytest.raises(UserError, match=str(boxes)):
        check_same_data("run mine", folder, Folder.of(data))


def test_of_the_generated_benchmark_only_labels_and_boxes_are_looked_at(data: Path, tmp_path: Path) -> None:
    folder = Folder.of(tmp_path / "run")
    config = DataConfig(train="train", val="train", evaluate=("train",), boxes=("gt", "det"))
    note_data(folder, config, Folder.of(data))
    other_pixels(data)
    check_same_data("run mine", folder, Folder.of(data))
    fewer_people(data)
    with pytest.raises(UserError, match="1 of 2 files have changed"):
        check_same_data("run mine", folder, Folder.of(data))


def test_a_damaged_record_says_what_to_do(data: Path, tmp_path: Path) -> None:
    folder = Folder.of(tmp_path / "run")
    folder.write(DATA_RECORD, b"PAR1")
    with pytest.raises(UserError, match="remove it to go on"):
        check_same_data("run mine", folder, Folder.of(data))
