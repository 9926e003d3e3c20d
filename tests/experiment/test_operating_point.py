"""Where a model's operating point is chosen, and what keeps it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mipnet.config import Config, preset
from mipnet.config.schema import EvaluationConfig
from mipnet.data.coco import CocoKeypointFile
from mipnet.data.dataset_formats import load_boxes, open_split
from mipnet.evaluation.operating_point import OperatingPoint
from mipnet.evaluation.predicted_poses import Predictions
from mipnet.experiment import operating_point
from mipnet.experiment.operating_point import choose_on_validation, operating_source, save_operating_point
from mipnet.experiment.prediction import least_score
from mipnet.inference.crop_predictor import CropPredictor
from mipnet.registry.resolve import model_operating_point
from mipnet.storage import Folder

POINT = OperatingPoint(0.31, 0.2, "det5")
DATA = preset("tiny").data


@pytest.mark.parametrize(
    ("boxes", "evaluate", "source"),
    [
        (("gt", "det5"), ("easy",), "det5"),
        (("det=/d_{split}.json", "gt"), ("val",), "det=/d_{split}.json"),
        (("det=/d_{split}.json", "gt"), ("easy",), "gt"),  # nobody has looked for /d_val.json
        (("gt",), ("val",), "gt"),
        (("a", "b", "gt"), ("easy", "val"), "b"),
    ],
)
def test_detections_come_first_where_the_validation_split_has_any(
    boxes: tuple[str, ...], evaluate: tuple[str, ...], source: str
) -> None:
    assert operating_source(replace(DATA, boxes=boxes, evaluate=evaluate)) == source


def truth(file: CocoKeypointFile, config: Config, data: Folder, source: str) -> Predictions:
    """As if λ = 0 were right, with scores of 0.8, and λ = 1 elsewhere, with scores of 0.4."""
    boxes = load_boxes(file, data, "train", source, config)
    keypoints = np.zeros((len(boxes), 2, 17, 3), np.float32)
    people = file.people()
    keypoints[:, 0, :, :2] = people.keypoints[..., :2]
    keypoints[:, 1, :, :2] = 3000 + 900 * np.arange(len(boxes))[:, None, None]
    keypoints[:, 0, :, 2], keypoints[:, 1, :, 2] = 0.8, 0.4
    return Predictions(boxes, keypoints, [])


@pytest.mark.parametrize("evaluated", [True, False])
def test_it_is_chosen_by_the_poses_of_the_validation_split(
    evaluated: bool, small_coco: Folder, small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Poses that the final evaluation has are not predicted again."""
    file = open_split(small_config.data, small_coco, "train")
    poses = {("train", "gt"): truth(file, small_config, small_coco, "gt")}
    asked = []

    def predict(model: Folder, config: Config, data: Folder, files: Any, **_: Any) -> Any:
        asked.append((config.data.boxes, list(files)))
        return poses

    monkeypatch.setattr(operating_point, "predict_all", predict)
    found = choose_on_validation(
        Folder("/nowhere"),
        small_config,
        small_coco,
        {"train": file} if evaluated else {},
        poses if evaluated else {},
        report_corrupt=lambda names: None,
        plain=True,
    )
    assert asked == ([] if evaluated else [(("gt",), ["train"])])
    # Halfway between λ = 0 and λ = 1. All joints of the poses that are kept are right: half of their score.
    halfway = (0.8 + small_config.evaluation.discount * 0.4) / 2
    assert found == OperatingPoint(pytest.approx(halfway), pytest.approx(0.4), "gt")


def test_model_json_keeps_it_and_models_without_one_load(small_models: list[Path], tmp_path: Path) -> None:
    model = Folder.of(tmp_path / "model")
    for name in ("weights.safetensors", "model.json"):
        model.write(name, (small_models[0] / name).read_bytes())
    before = json.loads(model.read("model.json"))
    assert model_operating_point(model) is None
    save_operating_point(model, POINT)
    content = json.loads(model.read("model.json"))
    assert content["extra"].pop("operating_point") == {
        "pose_score": 0.31,
        "joint_score": 0.2,
        "source": "det5",
    }
    assert content == before
    assert model_operating_point(model) == CropPredictor.load(model.local_path).operating_point == POINT
    save_operating_point(model, None)
    assert json.loads(model.read("model.json")) == before


def test_what_predict_keeps_and_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    own, other = EvaluationConfig(), EvaluationConfig(discount=0.5)
    assert least_score(None, POINT, own, replace(own, batch_size=1, precision="bf16")) == 0.31
    said = capsys.readouterr().out
    assert said == (
        "operating point: poses from score 0.310, joints from 0.200 (best F1 on the validation split in det5 "
        "boxes); --min-score 0 keeps all\n"
    )
    assert least_score(None, POINT, own, other) == 0.31
    assert "warning: the operating point was chosen with other evaluation settings" in capsys.readouterr().out
    assert least_score(0, POINT, own, other) == 0
    assert capsys.readouterr().out == ""
    assert least_score(None, None, own, own) == -math.inf
    assert "all poses are kept: the model has no operating point" in capsys.readouterr().out
