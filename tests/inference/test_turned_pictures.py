"""Pictures with an EXIF orientation give the same poses as upright ones, wherever they are predicted."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mipnet
from mipnet.cli.main import main
from mipnet.config import Config
from mipnet.config.schema import ResourcesConfig
from mipnet.data.crops import decode_image
from mipnet.data.dataset_formats import open_split
from mipnet.evaluation.predicted_poses import score_splits
from mipnet.inference.pipeline import predict_splits
from mipnet.storage import Folder
from tests.helpers.registering import BOXES
from tests.helpers.turning import encoded

FILE = "annotations/person_keypoints_train.json"


@pytest.fixture(scope="module")
def pictures(small_coco: Folder) -> list[np.ndarray]:
    found = [decode_image(small_coco.read(f"train/{i}.jpg")) for i in range(12)]
    return [pixels for pixels in found if pixels is not None]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_path_and_bytes_of_the_python_predictor(
    small_models: list[Path], pictures: list[np.ndarray], orientation: int, tmp_path: Path
) -> None:
    predictor = mipnet.load_predictor(small_models[0])
    content = encoded(pictures[1], orientation)
    (tmp_path / "turned.png").write_bytes(content)
    for boxes in (BOXES[1], None):
        wanted = predictor(pictures[1], boxes)
        for given in (tmp_path / "turned.png", str(tmp_path / "turned.png"), content):
            found = predictor(given, boxes)
            np.testing.assert_array_equal(found.keypoints, wanted.keypoints)
            np.testing.assert_array_equal(found.box, wanted.box)


def test_the_registered_model(
    register: Callable[..., int], small_models: list[Path], pictures: list[np.ndarray], tmp_path: Path
) -> None:
    import mlflow

    register("turned")
    model = mlflow.pyfunc.load_model("models:/turned@candidate")
    upright = model.predict([{"image": pixels, "boxes": BOXES[1]} for pixels in pictures[:8]])
    files = [encoded(pixels, 1 + i) for i, pixels in enumerate(pictures[:8])]
    rows = [{"image": base64.b64encode(content).decode(), "boxes": BOXES[1]} for content in files]
    assert model.predict(rows) == upright
    (tmp_path / "turned.png").write_bytes(files[5])
    assert model.predict([{"image": tmp_path / "turned.png", "boxes": BOXES[1]}]) == upright[5:6]


@pytest.mark.ray
def test_evaluate_scores_turned_pictures_as_upright_ones(
    ray_session: None,
    small_coco: Folder,
    small_config: Config,
    small_models: list[Path],
    pictures: list[np.ndarray],
    tmp_path: Path,
) -> None:
    content = json.loads(small_coco.read(FILE))
    for image in content["images"]:
        image["file_name"] = image["file_name"].replace(".jpg", ".png")
    scores = []
    for kind, orientation in {"upright": lambda i: 1, "turned": lambda i: 1 + i % 8}.items():
        root = tmp_path / kind
        (root / "train").mkdir(parents=True)
        for i, pixels in enumerate(pictures):
            (root / f"train/{i}.png").write_bytes(encoded(pixels, orientation(i)))
        Folder.of(root).write(FILE, json.dumps(content))
        config = replace(small_config, data=replace(small_config.data, root=str(root)))
        files = {"train": open_split(config.data, Folder.of(root), "train")}
        poses = predict_splits(
            Folder.of(small_models[0]),
            config,
            Folder.of(root),
            files,
            sources=["gt"],
            resources=ResourcesConfig(gpu=False),
        )
        scores.append([(row.results, row.metrics) for row in score_splits(poses, config, files)])
    assert repr(scores[0]) == repr(scores[1])  # nan equals nan
    assert scores[0][0][0]


@pytest.mark.ray
def test_predict_writes_poses_as_people_see_the_pictures(
    on_ray: None,
    small_models: list[Path],
    pictures: list[np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    boxes = [{"image_id": i, "bbox": [30, 20, 40, 60], "score": 0.9} for i in range(8)]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    results: dict[str, list[dict[str, Any]]] = {}
    for kind, orientation in {"upright": lambda i: 1, "turned": lambda i: 1 + i}.items():
        (tmp_path / kind).mkdir()
        for i in range(8):
            (tmp_path / f"{kind}/{i}.png").write_bytes(encoded(pictures[i], orientation(i)))
        argv = ["predict", str(tmp_path / kind), "--model", str(small_models[0])]
        where = ["--storage", str(tmp_path), "--boxes", str(tmp_path / "boxes.json"), "--show"]
        assert main([*argv, *where, "--out", str(tmp_path / f"{kind}-out")]) == 0
        results[kind] = json.loads((tmp_path / f"{kind}-out/results.json").read_text())
    said = capsys.readouterr().out
    assert said.count("x picture with an EXIF orientation") == 1
    assert "7 x picture with an EXIF orientation, turned as people see it: " in said
    strip = [[{**pose, "file_name": ""} for pose in poses] for poses in results.values()]
    assert strip[0] == strip[1]
    assert len({pose["image_id"] for pose in strip[0]}) == 8
    assert "contact sheet of 8 of 8 pictures: " in said
    upright, turned = tmp_path / "upright-out", tmp_path / "turned-out"
    drawn = sorted(path.relative_to(upright) for path in upright.glob("**/*.jpg"))
    assert len(drawn) == 9
    for name in drawn:
        assert (turned / name).read_bytes() == (upright / name).read_bytes()
