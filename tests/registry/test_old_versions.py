"""Versions that commit 3205fb3 registered load for good, and predict what they predicted.

``registered_by_3205fb3/`` is what ``mlflow.pyfunc.log_model`` of that commit stored for a network of preset
debug (width 8, stem 16, 60 epochs), with its absolute paths replaced; the JSON beside it holds its answers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mipnet
from mipnet.storage import Folder
from mipnet.tracking.store import prepare_mlflow

VERSION = Path(__file__).with_name("registered_by_3205fb3")
BOXES = [[20, 10, 60, 110], [60.5, 20, 80, 100.25]]


def picture() -> np.ndarray:
    """(144, 192, 3) uint8: squares of random colours."""
    colours = np.random.default_rng(7).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.kron(colours, np.ones((12, 12, 1), np.uint8))


@pytest.fixture(scope="module")
def answers() -> list[list[dict[str, Any]]]:
    """Of the two requests in ``test_it_answers_as_before``."""
    return json.loads(VERSION.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A storage whose champion that version is."""
    storage = Folder.of(tmp_path_factory.mktemp("old"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        prepare_mlflow(storage)
        from mlflow import MlflowClient

        client = MlflowClient()
        client.create_registered_model("mipnet")
        version = client.create_model_version("mipnet", str(VERSION))
        client.set_registered_model_alias("mipnet", "champion", version.version)
    return storage


def check(poses: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert [(p["instance"], p["box"]) for p in poses] == [(p["instance"], p["box"]) for p in wanted]
    for mine, before in zip(poses, wanted, strict=True):
        assert mine["score"] == pytest.approx(before["score"], abs=1e-4)
        assert mine["keypoints"] == pytest.approx(before["keypoints"], abs=5e-3)


def test_it_answers_as_before(
    storage: Folder, answers: list[list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``mlflow models serve`` loads it: by the code of that commit, which imports paths of that time."""
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    prepare_mlflow(storage)
    model = mlflow.pyfunc.load_model("models:/mipnet@champion")
    found = model.predict([{"image": picture(), "boxes": BOXES}, {"image": picture()}])
    for poses, wanted in zip(found, answers, strict=True):
        check(poses, wanted)


def test_the_face_loads_it(
    storage: Folder, answers: list[list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for address in ("models:/mipnet@champion", "models:/mipnet/1", VERSION / "artifacts" / "model"):
        predictor = mipnet.load_predictor(address, "cpu", storage.local_path)
        check(predictor(picture(), BOXES).to_coco(), answers[0])
        check(predictor(picture()).to_coco(), answers[1])
