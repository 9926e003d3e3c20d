"""What is odd about a data set stands in a run's summary and report, and beside the tables of others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mipnet.cli.main import main
from mipnet.config import Config
from mipnet.experiment.training_run import left_out_lines, open_data
from mipnet.run_folder import Run, open_run
from mipnet.storage import Folder
from mipnet.visualization.run_report import write_report

FILE = "annotations/person_keypoints_{}.json"


@pytest.fixture
def root(small_coco: Folder, tmp_path: Path) -> Path:
    """The small data set, with a split ``val`` of other pictures under the names of four."""
    root = tmp_path / "data"
    shutil.copytree(small_coco.local_path, root)
    content = json.loads((root / FILE.format("train")).read_text())
    val = [image for image in content["images"] if image["id"] < 4]
    (root / "val").mkdir()
    for image in val:
        picture = (root / "train" / image["file_name"]).read_bytes()
        (root / "val" / image["file_name"]).write_bytes(picture + bytes(1 + image["id"]))
    people = [a for a in content["annotations"] if a["image_id"] < 4]
    (root / FILE.format("val")).write_text(json.dumps({**content, "images": val, "annotations": people}))
    return root


def run_on(root: Path, base: Config, **settings: Any) -> Run:
    data = replace(base.data, root=str(root), train="train", val="val", evaluate=("val",), **settings)
    return open_run(Folder.of(root.parent / "storage"), replace(base, data=data), "odd")


def test_pictures_in_two_splits_stand_in_output_summary_and_report(
    root: Path, small_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_on(root, small_config)
    open_data(run, Folder.of(root))
    assert "look at this" not in capsys.readouterr().out
    assert left_out_lines(run) == []
    shutil.copy(root / "train" / "7.jpg", root / "val" / "2.jpg")
    open_data(run, Folder.of(root))
    line = "the same picture in train and in val: 1 (train/7.jpg = val/2.jpg); take them out of one"
    assert f"look at this: {line}" in capsys.readouterr().out
    (noted,) = left_out_lines(run)
    assert noted.startswith(f"look at   {line}")
    run.reload()  # it is kept over restarts
    page = write_report(run.name, run.config, run.state, {})
    assert f"Look at this: {line}" in page


def test_what_was_left_out_and_what_is_odd_stand_there_too(root: Path, small_config: Config) -> None:
    path = root / FILE.format("val")
    content = json.loads(path.read_text())
    content["annotations"][0]["keypoints"] = [1, 2, 2]
    content["annotations"][1]["keypoints"][:3] = [0, 0, 2]
    path.write_text(json.dumps(content))
    run = run_on(root, small_config, max_bad_share=0.2)
    open_data(run, Folder.of(root))
    lines = left_out_lines(run)
    assert lines[0].startswith("left out  1 x 1 keypoints instead of 17: annotation 100 of 0.jpg")
    assert lines[1].startswith("look at   1 x labelled keypoint at (0, 0): annotation 101 of 1.jpg")
    page = write_report(run.name, run.config, run.state, {})
    assert "Left out: 1 x 1 keypoints instead of 17" in page
    assert "Look at this: 1 x labelled keypoint at (0, 0)" in page


def test_damaged_checkpoints_stand_there_too(root: Path, small_config: Config) -> None:
    """The best one of all may be among them: the figures are those of another."""
    run = run_on(root, small_config)
    clause = "step-00000020 (training.pt is missing, the best so far: occlusion AP 12.3)"
    run.note(damaged_checkpoints=[clause])
    assert left_out_lines(run) == [f"damaged   checkpoint {clause}"]
    assert f"Damaged: checkpoint {clause}" in write_report(run.name, run.config, run.state, {})


def results_of(root: Path, split: str) -> Path:
    content = json.loads((root / FILE.format(split)).read_text())
    results = [
        {"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 1.0}
        for a in content["annotations"]
    ]
    (root / "results.json").write_text(json.dumps(results))
    return root / "results.json"


def test_results_of_others_go_through_the_check(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = results_of(root, "val")
    path = root / FILE.format("val")
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [500, 500, 10, 10]
    content["annotations"][1]["area"] = 0
    content["annotations"][2]["keypoints"][:3] = [0, 0, 2]
    path.write_text(json.dumps(content))
    shutil.rmtree(root / "val")
    (root / "val").mkdir()  # the pictures themselves are not needed
    command = ["evaluate", "--results", f"labels={results}", "--data", str(root), "--data.evaluate", "val"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "1 of 10 samples are unusable (1 x box outside its image" in error
    assert error.rstrip().endswith("mend them, or raise --data.max-bad-share")
    assert main([*command, "--data.max-bad-share", "0.2", "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    for notice in (
        "mended: " + str(path) + ": 1 x area that cannot be true",
        "left out: 1 x box outside its image: annotation 100 of 0.jpg",
        "look at this: 1 x labelled keypoint at (0, 0)",
    ):
        assert notice in text
        assert notice in (tmp_path / "out" / "table.txt").read_text()
