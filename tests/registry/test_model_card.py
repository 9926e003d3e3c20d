"""The model card: what it says, and what it leaves out when it is not known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mipnet.config import preset
from mipnet.config.presets import baseline
from mipnet.evaluation.operating_point import OperatingPoint
from mipnet.evaluation.pose_figures import ALL_JOINTS
from mipnet.models.costs import count_parameters
from mipnet.registry.model_card import MAX_DESCRIPTION, CardFacts, description, model_card
from mipnet.training.checkpoint import model_from_config

TINY = preset("tiny")
STATE: dict[str, Any] = {
    "trained": {"steps": 6670, "best": {"step": 6500}},
    "seconds": {"training": 495.0, "evaluation": 17.0},
    "data": [
        {
            "name": "generated/train", "digest": "0123456789ab", "context": "training", "people": 26679,
            "images": 10500, "people_per_image": 2.54, "near": 0.701, "close": 0.302, "crowd_index": 0.456,
        }
    ],
    "mended": {"/labels": [f"/labels: {i} x area" for i in range(12)]},
}  # fmt: skip
METRICS = {"hard/det5/merged/AP": 0.347, "hard/det5/lambda0/AP": 0.313, "hard/gt/merged/AP": 0.376}
FIGURES = [
    {
        "split": "hard",
        "source": "det5",
        "people": 882,
        "all_poses": {"poses": 1200, "precision": 0.5, "recall": 0.75, "f1": 0.6},
        "kept": {"poses": 800, "precision": 0.8, "recall": 0.7, "f1": 0.747},
        "joints": {
            ALL_JOINTS: {"labelled": 9, "ap": 0.301, "error_px": None, "error_box": 0.042, "pck": 0.655}
        },
    }
]
POINT = OperatingPoint(0.312, 0.25, "det5")
FACTS = CardFacts("tiny-1", TINY, STATE, METRICS, FIGURES, POINT, 8_400_000)


def test_the_card_of_a_whole_run() -> None:
    card = model_card(FACTS, "models:/mipnet/3")
    lines = card.splitlines()
    assert lines[0] == "# tiny-1"
    parameters = count_parameters(model_from_config(TINY))
    assert f"- parameters: {parameters:,}" in lines
    assert "- weights: 8.4 MB" in lines
    assert "- training took: 8 min" in lines
    assert 'predictor = mipnet.load_predictor("models:/mipnet/3")' in lines
    row = "| generated/train | 0123456789ab | training | 26679 | 10500 | 2.5 | 70.1 % | 30.2 % | 0.46 |"
    assert row in lines
    assert lines[lines.index(row) - 1].count("|") == row.count("|")
    row = "| hard | det5 | 34.7 | 31.3 | 30.1 | 4.2 | 65.5 | 60.0 | 74.7 | 80.0 | 70.0 |"
    assert row in lines
    assert lines[lines.index(row) - 1].count("|") == lines[lines.index(row) - 2].count("|") == row.count("|")
    assert "| hard | gt | 37.6 | – | – | – | – | – | – | – | – |" in lines
    assert (
        "from score 0.312 on, joints drawn from 0.250 on: the best F1 on the split val in det5 boxes." in card
    )
    assert "- mended: /labels: 7 x area" in lines
    assert "- and 4 more, see summary.txt" in lines
    assert "- It was trained on rendered people alone; on photographs its figures are not known." in lines
    assert "at most 2 people in a box" in card


def test_what_is_not_known_is_left_out() -> None:
    config = replace(baseline(TINY), data=replace(TINY.data, root="/data/people", evaluate=("val",)))
    card = model_card(CardFacts("old", config, {"trained": {}}, {"val/gt/merged/AP": 0.5}), "old")
    lines = card.splitlines()
    assert "/data/people; the run kept no digests." in lines
    assert "| val | gt | 50.0 |" in lines
    assert "None: all poses are kept." in lines
    assert "- val also picked the checkpoint: its figures are a little too good." in lines
    assert "at most 1 person in a box" in card
    for absent in ("training took", "- weights:", "rendered", "F1", "nan"):
        assert absent not in card


@pytest.mark.parametrize("splits", [1, 200])
def test_a_description_is_what_mlflow_takes(splits: int) -> None:
    metrics = {f"split-{i}/det5/merged/AP": 0.5 for i in range(splits)}
    card = model_card(replace(FACTS, metrics=metrics, figures=()), "models:/mipnet/3")
    text = description(card)
    assert len(text) <= MAX_DESCRIPTION
    if splits == 1:
        assert text == card
    else:
        assert len(card) > MAX_DESCRIPTION
        assert text.endswith("The whole card is model-card.md among the version's artifacts.\n")
        assert "## Trained on" in text
        assert "## Limits" in text
        assert "## Results" not in text
