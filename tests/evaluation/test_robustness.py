"""AP as boxes of low confidence are left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mipnet.config import preset
from mipnet.config.schema import DataConfig
from mipnet.data.dataset_formats import open_split
from mipnet.evaluation.predicted_poses import Predictions
from mipnet.evaluation.robustness import robustness_curves, robustness_table
from mipnet.storage import Folder
from mipnet.visualization.robustness_plot import robustness_picture


def test_ap_falls_with_the_boxes_and_only_for_lambda_0_if_the_other_finds_them(small_coco: Folder) -> None:
    """λ = 0 is each box's own person, λ = 1 another of the image: every box names two of them."""
    file = open_split(DataConfig(), small_coco, "train")
    boxes = file.ground_truth_boxes()
    boxes = replace(boxes, scores=np.linspace(0.05, 1, len(boxes)))
    people = file.people()
    n = len(people)
    first = np.repeat(people.image_offsets[:-1], people.people_per_image)
    count = np.repeat(people.people_per_image, people.people_per_image)
    next_one = first + (np.arange(n) - first + 1) % count
    keypoints = np.stack([people.keypoints, people.keypoints[next_one]], axis=1).astype(np.float32)
    keypoints[..., 2] = 0.9
    poses = Predictions(boxes, keypoints, [])
    config = replace(preset("tiny"), data=DataConfig(root="x"))

    found = {("train", "gt"): poses, ("train", "det"): poses}
    (curve,) = robustness_curves(found, config, {"train": file}, (0, 0.5, 1))
    assert (curve.split, curve.source, curve.confidence) == ("train", "det", (0, 0.5, 1))
    assert curve.kept == (1, sum(boxes.scores >= 0.5) / n, 1 / n)
    merged, alone = curve.ap["merged"], curve.ap["lambda0"]
    assert merged[0] == pytest.approx(1, abs=0.02)
    assert alone[0] == pytest.approx(1)
    assert 0 < alone[2] < alone[1] < alone[0]
    assert merged[1] > alone[1]
    assert merged[2] > alone[2]

    lines = robustness_table([curve]).splitlines()
    assert lines[0].split() == ["split", "boxes", "least", "confidence", "0", "0.5", "1"]
    assert lines[1].split()[-3:] == ["100.0", f"{100 * curve.kept[1]:.1f}", f"{100 / n:.1f}"]
    assert len(lines) == 4
    assert robustness_picture([curve, curve]).startswith(b"\x89PNG")


def test_without_a_detector_there_is_no_curve() -> None:
    assert robustness_curves({}, preset("tiny"), {}) == []
    assert robustness_table([]) == ""
