"""Geometry, targets, decoding, suppression and CrowdPose's metrics against the reference implementation.

Which files there are is found by listing: a folder with a file that no check knows, or without one that a
check needs, is a failure, not a skip.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mipnet.data.geometry import (
    box_to_crop,
    clip_box,
    crop_affine,
    flip_box,
    flip_keypoints,
    mirrored_affine,
    transform_keypoints,
    warp_crop,
)
from mipnet.evaluation.crowdpose import evaluate_crowdpose
from mipnet.evaluation.decoding import cells_to_image, decode_heatmaps
from mipnet.evaluation.oks import oks_nms, soft_oks_nms
from mipnet.models.targets import heatmap_targets
from mipnet.skeletons import COCO17, CROWDPOSE14

pytestmark = [pytest.mark.shared, pytest.mark.golden]


def check_geometry(folder: Path, shared: Path) -> dict[str, float]:
    cases = json.loads((folder / "geometry.json").read_text())
    arrays = np.load(folder / "geometry.npz")
    data = json.loads((shared / "data/coco-mini/annotations/person_keypoints_train2017.json").read_text())
    people = {person["id"]: person for person in data["annotations"]}
    worst = {"center": 0.0, "size": 0.0, "affine": 0.0, "keypoints": 0.0, "target": 0.0, "crop": 0.0}
    assert len(cases) == 24
    assert set(arrays) == {f"{what}{case['case']}" for case in cases for what in ("target", "crop")}

    def note(what: str, ours: object, theirs: object, take: Callable = np.max) -> None:
        deviation = np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))
        worst[what] = max(worst[what], float(take(deviation)))

    for case in cases:
        image = cv2.imread(str(shared / "data/coco-mini/train2017" / case["file_name"]))[..., ::-1]
        height, width = image.shape[:2]
        input_size, heatmap_size = tuple(case["input_size_wh"]), tuple(case["heatmap_size_wh"])
        person = people[case["annotation_id"]]
        keypoints = np.reshape(person["keypoints"], (-1, 3)).astype(np.float64)
        box = clip_box(person["bbox"], width, height)
        if case["flip"]:
            keypoints = flip_keypoints(keypoints, width, COCO17.flip_permutation)
            box = flip_box(box, width)
        center, size = box_to_crop(box, input_size)
        size = size * case["scale_factor"]
        affine = crop_affine(center, size, case["rotation_deg"], input_size)
        joints = transform_keypoints(affine, keypoints, input_size)
        visible = np.array(case["visible"])
        # The whole image mirrored, and the mirror folded into the affine, are both compared.
        mirrored = np.ascontiguousarray(image[:, ::-1] if case["flip"] else image)
        crops = [warp_crop(mirrored, affine, input_size)]
        if case["flip"]:
            crops.append(warp_crop(np.ascontiguousarray(image), mirrored_affine(affine, width), input_size))

        note("center", center, case["center"])
        note("size", size / 200, case["scale_over_200px"])
        note("affine", affine, case["affine"])
        assert ((joints[:, 2] > 0) == (visible > 0)).all(), case["case"]
        note("keypoints", joints[visible > 0, :2], np.array(case["keypoints_xy"])[visible > 0])
        assert (joints[visible == 0] == 0).all(), case["case"]
        targets, weights = heatmap_targets(
            torch.from_numpy(joints)[None, None], input_size, heatmap_size, case["sigma"], "rounded"
        )
        assert weights[0, 0].tolist() == case["target_weight"], case["case"]
        note("target", targets[0, 0].numpy() * 255, arrays[f"target{case['case']}"])
        for crop in crops:
            small = cv2.resize(crop, (input_size[0] // 8, input_size[1] // 8), interpolation=cv2.INTER_AREA)
            note("crop", small, arrays[f"crop{case['case']}"], np.mean)
    return worst


def check_decode(folder: Path, shared: Path) -> dict[str, float]:
    golden = np.load(folder / "decode.npz")
    heatmaps = torch.from_numpy(golden["heatmaps"])
    center, size = torch.from_numpy(golden["center"]), torch.from_numpy(golden["scale_over_200px"]) * 200
    heatmap_size = (heatmaps.shape[-1], heatmaps.shape[-2])
    worst = {}

    def in_image(maps: torch.Tensor, method: str) -> tuple[np.ndarray, np.ndarray]:
        cells, scores = decode_heatmaps(maps, method)
        return cells_to_image(cells, center, size, heatmap_size).numpy(), scores.numpy()

    points, scores = in_image(heatmaps, "quarter")
    worst["quarter"] = float(np.abs(points - golden["keypoints_quarter_offset"]).max())
    worst["scores"] = float(np.abs(scores - golden["scores"][..., 0]).max())
    heatmaps = heatmaps.clone()
    heatmaps[0, 0] = heatmaps[0, 1]
    points, _ = in_image(heatmaps, "dark")
    worst["dark"] = float(np.abs(points - golden["keypoints_dark"]).max())
    return worst


def check_oks_nms(folder: Path, shared: Path) -> dict[str, float]:
    images = json.loads((folder / "oks_nms.json").read_text())
    assert len(images) == 12
    wrong = compared = 0
    for image in images:
        poses = np.array([pose["keypoints"] for pose in image["poses"]])
        scores = np.array([pose["score"] for pose in image["poses"]])
        areas = np.array([pose["area"] for pose in image["poses"]])
        for suppress, answers in ((oks_nms, image["keep"]), (soft_oks_nms, image["soft_keep"])):
            for threshold, keep in answers.items():
                ours = suppress(poses, scores, areas, COCO17.sigmas, float(threshold)).tolist()
                wrong, compared = wrong + (ours != keep), compared + 1
    assert compared == 12 * 5
    return {"oks_nms": float(wrong)}


def check_crowdpose(folder: Path, shared: Path) -> dict[str, float]:
    results = json.loads((folder / "crowdpose_val_results.json").read_text())
    golden = json.loads((folder / "crowdpose_val_metrics.json").read_text())
    metrics = evaluate_crowdpose(
        shared / "data/crowdpose-sample/crowdpose_val.json", results, CROWDPOSE14.sigmas
    )
    assert set(metrics) == set(golden)
    return {"crowdpose": max(abs(metrics[name] - golden[name]) for name in golden)}


# Which check reads which files, and the largest deviation that it allows.
CHECKS: dict[str, tuple[Callable[[Path, Path], dict[str, float]], set[str], dict[str, float]]] = {
    "geometry": (
        check_geometry,
        {"geometry.json", "geometry.npz"},
        {"center": 1e-3, "size": 1e-5, "affine": 1e-3, "keypoints": 0.02, "target": 2.0, "crop": 2.0},
    ),
    "decode": (check_decode, {"decode.npz"}, {"quarter": 0.05, "dark": 0.05, "scores": 1e-6}),
    "oks_nms": (check_oks_nms, {"oks_nms.json"}, {"oks_nms": 0.0}),
    "crowdpose": (
        check_crowdpose,
        {"crowdpose_val_results.json", "crowdpose_val_metrics.json"},
        {"crowdpose": 1e-6},
    ),
}


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "golden" / "processing"


def test_every_golden_file_has_its_check(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == set().union(
        *(files for _, files, _ in CHECKS.values())
    )


@pytest.mark.parametrize("name", CHECKS)
def test_agrees_with_reference(name: str, folder: Path, shared: Path) -> None:
    check, _, allowed = CHECKS[name]
    worst = check(folder, shared)
    print(name, worst)  # shown by pytest -rP: how far off we are
    assert set(worst) == set(allowed)
    assert {what: value for what, value in worst.items() if not value <= allowed[what]} == {}
