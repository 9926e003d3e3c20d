"""``mipnet predict --detector``: every picture once, the same wherever it runs, continued and reused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mipnet.cli.main import main
from mipnet.config import Config
from mipnet.config.schema import ResourcesConfig
from mipnet.data.image_index import ImageIndex
from mipnet.experiment.prediction import checked_detector
from mipnet.inference import detection_stage, output_shards
from mipnet.inference.detected_boxes import Detection
from mipnet.inference.detection_stage import iter_found_predictions
from mipnet.storage import Folder
from tests.helpers.detectors import red_picture, save_detector

pytestmark = pytest.mark.ray
BOXES = {i: (15 + 3 * i, 14 + 2 * i, 30, 36) for i in range(11) if i not in (4, 7)}
"""Picture -> its person. Nobody is in picture 4; picture 7 is no picture."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(11):
        size = (140, 90) if i % 2 else (100, 160)
        pixels = red_picture(size, BOXES[i]) if i in BOXES else np.zeros((*size[::-1], 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), pixels[..., ::-1])
    (folder / "7.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector(tmp_path_factory.mktemp("detector") / "d.onnx", "yolo", (128, 128))


def rows_of(blocks: Iterator[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """By image and box."""
    columns = [(block.keys(), zip(*block.values(), strict=True)) for block in blocks]
    rows = [dict(zip(names, values, strict=True)) for names, rows in columns for values in rows]
    return sorted(rows, key=lambda row: (row["image"], row["order"]))


def test_here_and_on_ray_the_same_people_are_found(
    ray_session: None,
    pictures: Path,
    detector: Path,
    small_models: list[Path],
    small_config: Config,
    tmp_path: Path,
) -> None:
    uris = [str(pictures / f"{i}.png") for i in range(11)]
    images = ImageIndex(np.array(uris), np.arange(11))
    detection = Detection.open(*checked_detector(str(detector)), Folder.of(tmp_path), uris)
    asked = np.array([0, 1, 2, 4, 7, 8, 10])
    found = []
    for workers in (1, 2):
        resources = ResourcesConfig(gpu=False, predict_workers=workers, cpus_per_worker=1)
        model = Folder.of(small_models[0])
        found.append(
            rows_of(
                iter_found_predictions(
                    images, asked, detection, model=model, config=small_config, resources=resources
                )
            )
        )
    here, on_ray = found
    assert [row["image"] for row in here] == asked.tolist()  # one person each, and a row for each picture
    for a, b in zip(here, on_ray, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        image = a["image"]
        assert (a["used"], a["corrupt"], a["count"]) == (image in BOXES, image == 7, image in BOXES)
        assert np.isnan(a["keypoints"]).any() == (image not in BOXES)
        if image in BOXES:
            np.testing.assert_allclose(a["bbox"], BOXES[image], atol=0.5)
    thinned = replace(small_config, data=replace(small_config.data, box_score_threshold=0.9999))
    resources = ResourcesConfig(gpu=False)
    arguments = {"model": Folder.of(small_models[0]), "config": thinned, "resources": resources}
    kept = rows_of(iter_found_predictions(images, asked, detection, **arguments))
    assert [row["used"] for row in kept] == [False] * 7
    assert [row["count"] for row in kept] == [row["count"] for row in here]  # boxes.json keeps them


def command(pictures: Path, detector: Path, model: Path, out: Path) -> list[str]:
    flags = ["--model", str(model), "--storage", str(out.parent / "storage"), "--out", str(out)]
    argv = ["predict", str(pictures), "--detector", str(detector), *flags]
    return [*argv, "--data.max-bad-share", "0.2", "--overlays", "0"]


def predict(pictures: Path, detector: Path, model: Path, out: Path, *more: str) -> list[dict[str, Any]]:
    assert main([*command(pictures, detector, model, out), *more]) == 0
    results: list[dict[str, Any]] = json.loads((out / "results.json").read_text())
    return results


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pictures that the detector gets."""
    asked: list[int] = []
    fit_pictures = detection_stage.fit_pictures

    def noted(index: np.ndarray, *arguments: Any) -> Any:
        asked.extend(index.tolist())
        return fit_pictures(index, *arguments)

    monkeypatch.setattr(detection_stage, "fit_pictures", noted)
    monkeypatch.setattr("mipnet.inference.detected_boxes.IMAGES_PER_SHARD", 4)
    monkeypatch.setattr(output_shards.OutputShards.open.__func__, "__defaults__", (4, "parts"))
    return asked


def test_boxes_are_kept_and_used_again(
    pictures: Path,
    detector: Path,
    small_models: list[Path],
    on_ray: None,
    looked_at: list[int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    results = predict(pictures, detector, small_models[0], out)
    assert sorted(looked_at) == list(range(11))
    said = capsys.readouterr().out
    assert "detector: YOLO, 128x128 px" in said
    assert f"9 people found: {out}/boxes.json" in said
    boxes = json.loads((out / "boxes.json").read_text())
    assert {int(box["file_name"].partition(".")[0]) for box in boxes} == set(BOXES)
    for box in boxes:
        np.testing.assert_allclose(box["bbox"], BOXES[box["image_id"]], atol=0.5)
        assert (box["score"], box["category_id"]) == (pytest.approx(1, abs=0.01), 1)
    assert {row["file_name"] for row in results} == {f"{i}.png" for i in BOXES}

    # Its boxes, given as a file, are the same people.
    given = tmp_path / "given"
    flags = ["--model", str(small_models[0]), "--storage", str(tmp_path / "storage"), "--overlays", "0"]
    argv = ["predict", str(pictures), *flags, "--data.max-bad-share", "0.2", "--out", str(given)]
    assert main([*argv, "--boxes", str(out / "boxes.json")]) == 0
    assert json.loads((given / "results.json").read_text()) == results

    looked_at.clear()
    assert predict(pictures, detector, small_models[0], out) == results
    assert "going on: 11 of 11 images are done" in capsys.readouterr().out
    other = predict(pictures, detector, small_models[1], out)  # another network in the same boxes
    assert [row["keypoints"] for row in other] != [row["keypoints"] for row in results]
    assert {row["file_name"] for row in other} == {row["file_name"] for row in results}
    none = predict(pictures, detector, small_models[0], out, "--data.box-score-threshold", "0.9999")
    assert none == []
    assert predict(pictures, detector, small_models[0], out) == results
    assert looked_at == []
    table = output_shards.from_parquet((out / "results.parquet").read_bytes()).to_pylist()
    assert [row["file_name"] for row in table if not row["readable"]] == ["7.png"]
    assert len(table) == 11

    another = save_detector(tmp_path / "e.onnx", "rtmdet", (128, 128))
    predict(pictures, another, small_models[0], out)
    assert sorted(looked_at) == list(range(11))


def test_an_interrupted_prediction_goes_on(
    pictures: Path,
    detector: Path,
    small_models: list[Path],
    on_ray: None,
    looked_at: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = predict(pictures, detector, small_models[0], tmp_path / "once")
    looked_at.clear()
    monkeypatch.setattr(detection_stage, "PICTURES_PER_BATCH", 2)
    crop_people, calls = detection_stage.crop_people, iter(range(100))

    def interrupted(*arguments: Any) -> Any:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return crop_people(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(detection_stage, "crop_people", interrupted)
        assert main(command(pictures, detector, small_models[0], tmp_path / "twice")) == 130
    assert sorted(looked_at) == list(range(10))
    looked_at.clear()
    again = predict(pictures, detector, small_models[0], tmp_path / "twice")
    assert sorted(looked_at) == [8, 9, 10]  # the shards of four that are whole are not looked at again
    assert {row["file_name"] for row in again} == {row["file_name"] for row in results}
    once, twice = (json.loads((tmp_path / which / "boxes.json").read_text()) for which in ("once", "twice"))
    assert [box["file_name"] for box in once] == [box["file_name"] for box in twice]
    boxes = [[box["bbox"] for box in found] for found in (once, twice)]
    np.testing.assert_allclose(*boxes, atol=1e-3)  # batches of another size round otherwise


def test_boxes_and_a_detector_are_too_much(
    pictures: Path, detector: Path, small_models: list[Path], on_ray: None, tmp_path: Path, capsys: Any
) -> None:
    argv = ["predict", str(pictures), "--model", str(small_models[0]), "--storage", str(tmp_path)]
    assert main([*argv, "--detector", str(detector), "--boxes", "b.json"]) == 2
    assert "both --boxes and --detector are given; leave one out" in capsys.readouterr().err
    assert main([*argv, "--detector", str(small_models[0] / "model.json")]) == 2
    assert "is no ONNX file" in capsys.readouterr().err
