"""Whose rules a data set is judged by."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mipnet.config import Config
from mipnet.config.presets import DATASETS
from mipnet.config.schema import DataConfig
from mipnet.evaluation.ceiling import ceiling
from mipnet.evaluation.coco import evaluate_keypoints, keypoint_results
from mipnet.evaluation.crowdpose import evaluate_crowdpose
from mipnet.evaluation.overlap import overlapped_ap
from mipnet.evaluation.protocols import METRIC_DESCRIPTIONS, METRIC_NAMES, evaluate_poses
from mipnet.skeletons import COCO17, CROWDPOSE14


def test_the_layout_decides() -> None:
    protocols = {name: data.protocol for name, data in DATASETS.items()}
    assert protocols == {"coco": "coco", "crowdpose": "crowdpose", "ochuman": "coco"}
    assert DataConfig().protocol == "coco"
    assert set(METRIC_NAMES) == set(METRIC_DESCRIPTIONS)


@pytest.mark.shared
def test_crowdpose_by_its_own_rules(shared: Path) -> None:
    data = json.loads((shared / "data/crowdpose-sample/crowdpose_val.json").read_text())
    people = [p for p in data["annotations"] if p["num_keypoints"]][:600]
    data["annotations"] = people
    joints = np.array([p["keypoints"] for p in people], np.float64).reshape(-1, 14, 3)
    joints[..., :2] += np.random.default_rng(0).normal(0, 6, joints[..., :2].shape)
    found = keypoint_results([p["image_id"] for p in people], joints, np.linspace(0, 1, len(people)))
    metrics = evaluate_poses(DATASETS["crowdpose"], data, found)
    assert tuple(metrics) == METRIC_NAMES["crowdpose"]
    theirs = evaluate_crowdpose(data, found, CROWDPOSE14.sigmas)
    assert metrics == {name: theirs[name] for name in metrics}
    assert 0.1 < metrics["AP"] < 0.95


@pytest.mark.shared
def test_coco_with_the_overlapped_added(shared: Path) -> None:
    data = json.loads((shared / "data/coco-mini/annotations/person_keypoints_train2017.json").read_text())
    people = [p for p in data["annotations"] if p["num_keypoints"]]
    joints = np.array([p["keypoints"] for p in people], np.float64).reshape(-1, 17, 3)
    joints[..., :2] += np.random.default_rng(0).normal(0, 4, joints[..., :2].shape)
    found = keypoint_results([p["image_id"] for p in people], joints, np.linspace(0, 1, len(people)))
    metrics = evaluate_poses(DATASETS["coco"], data, found)
    assert tuple(metrics) == METRIC_NAMES["coco"]
    assert metrics.pop("AP_overlap") == overlapped_ap(data, found, COCO17.sigmas)
    assert metrics == evaluate_keypoints(data, found, COCO17.sigmas)


@pytest.mark.shared
def test_the_ceiling_of_crowdpose(shared: Path) -> None:
    """Its annotations have no area, which COCO's rules need."""
    data = json.loads((shared / "data/crowdpose-sample/crowdpose_sample.json").read_text())
    metrics = ceiling(data, replace(Config(), data=DATASETS["crowdpose"]))
    assert tuple(metrics) == METRIC_NAMES["crowdpose"]
    assert 0.8 < metrics["AP"] <= 1
