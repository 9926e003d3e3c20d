"""A thousand pictures through a detector and a pose network: beside both stages alone, and killed once."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mipnet.config import preset, to_dict
from mipnet.config.schema import ResourcesConfig
from mipnet.data.coco import Boxes
from mipnet.data.image_index import ImageIndex
from mipnet.data.stream import apply_execution_options
from mipnet.experiment.prediction import checked_detector
from mipnet.inference.detected_boxes import Detection
from mipnet.inference.detection_stage import (
    find_people,
    iter_found_predictions,
    people_dataset,
)
from mipnet.inference.output_shards import from_parquet
from mipnet.inference.pipeline import iter_predictions
from mipnet.models.weights import save_model
from mipnet.storage import Folder
from mipnet.training.checkpoint import model_from_config
from tests.helpers.detectors import red_picture, save_detector

pytestmark = [pytest.mark.drill, pytest.mark.ray, pytest.mark.slow]

PICTURES, ROUNDS, MOST = 1000, 3, 1.18
CONFIG = preset("tiny")
Block = dict[str, np.ndarray]


def box_of(number: int) -> tuple[int, int, int, int]:
    return 20 + 7 * number % 400, 20 + 11 * number % 250, 60 + number % 80, 110 + number % 70


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(PICTURES):
        pixels = red_picture((640, 480), box_of(number))
        cv2.imwrite(str(folder / f"{number:04d}.jpg"), pixels[..., ::-1])
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector(tmp_path_factory.mktemp("detector") / "d.onnx", "yolo", (320, 320))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_model(
        tmp_path_factory.mktemp("model"), model_from_config(CONFIG), {"config": to_dict(CONFIG)}
    )


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


@pytest.mark.parametrize("workers", [1, 2])
def test_both_stages_take_little_more_than_each_alone(
    workers: int, ray_session: None, pictures: Path, detector: Path, model: Path, tmp_path: Path
) -> None:
    """One worker computes in this process, two on Ray Data."""
    uris = sorted(map(str, pictures.iterdir()))
    images, everything = ImageIndex(np.array(uris), np.arange(PICTURES)), np.arange(PICTURES)
    detection = Detection.open(*checked_detector(str(detector)), Folder.of(tmp_path), uris)
    resources = ResourcesConfig(gpu=False, predict_workers=workers)
    network = {"model": Folder.of(model), "config": CONFIG, "resources": resources}

    def people(*arguments: Any) -> Iterable[Block]:
        """The detector alone."""
        if workers == 1:
            return find_people(*arguments)
        dataset = apply_execution_options(people_dataset(*arguments), preserve_order=False)
        return dataset.iter_batches(batch_size=None, batch_format="numpy")

    def whole() -> list[Block]:
        return list(iter_found_predictions(images, everything, detection, **network))  # type: ignore[arg-type]

    blocks = whole()
    rows = {name: np.concatenate([block[name] for block in blocks]) for name in ("image", "bbox", "score")}
    order = np.argsort(rows["image"], kind="stable")
    assert rows["image"][order].tolist() == everything.tolist()
    found = rows["bbox"][order]
    # JPEG blurs edges of one colour by pixels.
    np.testing.assert_allclose(found, np.array([box_of(number) for number in range(PICTURES)]), atol=3)
    boxes = Boxes(images, everything, found, rows["score"][order], np.zeros(PICTURES, np.int64))
    ratios = []
    for _ in range(ROUNDS):
        took = seconds(whole)
        first = seconds(lambda: list(people(images, everything, detection, CONFIG.data, resources)))
        second = seconds(lambda: list(iter_predictions(boxes, **network)))  # type: ignore[arg-type]
        ratios.append(took / (first + second))
        print(f"\n| {took:.1f} s | {first:.1f} + {second:.1f} s | {ratios[-1]:.3f} |")
    assert statistics.median(ratios) <= MOST, ratios


def test_killed_once_every_picture_is_there_once(
    pictures: Path, detector: Path, model: Path, tmp_path: Path
) -> None:
    out, command = tmp_path / "out", [sys.executable, "-m", "mipnet", "predict", str(pictures)]
    command += ["--model", str(model), "--detector", str(detector), "--out", str(out), "--overlays", "0"]
    command += ["--storage", str(tmp_path / "storage"), "--min-score", "0"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    first = subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 300
    while not list(out.glob("parts/*.parquet")):
        assert first.poll() is None, "it has ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (out / "results.json").exists()
    again = subprocess.run(command, env=env, text=True, capture_output=True, timeout=600, check=False)
    assert again.returncode == 0, again.stderr
    print(again.stdout)
    assert "going on: " in again.stdout
    results: list[dict[str, Any]] = json.loads((out / "results.json").read_text())
    names = [f"{number:04d}.jpg" for number in range(PICTURES)]
    assert sorted({row["file_name"] for row in results}) == names
    boxes = json.loads((out / "boxes.json").read_text())
    assert sorted(box["file_name"] for box in boxes) == names
    table = from_parquet((out / "results.parquet").read_bytes()).to_pylist()
    assert sorted(row["file_name"] for row in table) == names
