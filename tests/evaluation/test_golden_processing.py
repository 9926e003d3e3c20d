"""Geometry, targets, decoding, suppression and CrowdPose's metrics against the reference implementation.

Which files there are is found by listing: a file that no check knows, or half of a pair, is a failure, not a
skip. What a file holds decides how much is compared: other people, images and joints go through the same
checks.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mipnet.data.geometry import (
    box_to_crop,
    clip_box,
    crop_affine,
    flip_center,
    flip_keypoints,
    mirrored_affine,
    transform_keypoints,
    warp_crop,
)
from mipnet.evaluation.crowdpose import evaluate_crowdpose
from mipnet.evaluation.decoding import cells_to_image, decode_heatmaps
from mipnet.evaluation.oks import oks_nms, soft_oks_nms
from mipnet.models.targets import heatmap_targets
from mipnet.skeletons import CROWDPOSE14, SKELETONS, Skeleton

pytestmark = [pytest.mark.shared, pytest.mark.golden]


Deviations = dict[str, float]


def find_person(shared: Path, case: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """The annotation of a case and its image, from whichever data set has both."""
    for file in sorted((shared / "data").glob("*/**/*.json")):
        folder = shared / "data" / file.relative_to(shared / "data").parts[0]
        for person in people_of(file):
            if (person["id"], person["image_id"]) == (case["annotation_id"], case["image_id"]):
                for image in folder.rglob(case["file_name"]):
                    return person, image
    raise AssertionError(f"no data set has person {case['annotation_id']} of {case['file_name']}")


@functools.cache
def people_of(annotations: Path) -> list[dict[str, Any]]:
    content = json.loads(annotations.read_text())
    return content["annotations"] if isinstance(content, dict) and "images" in content else []


def skeleton_of(joints: int) -> Skeleton:
    return next(s for s in SKELETONS.values() if s.num_joints == joints)


def check_geometry(file: Path, shared: Path) -> Deviations:
    cases = json.loads(file.read_text())
    arrays = np.load(file.with_suffix(".npz"))
    worst = {"center": 0.0, "size": 0.0, "affine": 0.0, "keypoints": 0.0, "target": 0.0, "crop": 0.0}
    assert cases
    assert set(arrays) == {f"{what}{case['case']}" for case in cases for what in ("target", "crop")}

    def note(what: str, ours: object, theirs: object, take: Callable = np.max) -> None:
        deviation = np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))
        worst[what] = max(worst[what], float(take(deviation)))

    for case in cases:
        person, picture = find_person(shared, case)
        image = cv2.imread(str(picture))[..., ::-1]
        height, width = image.shape[:2]
        input_size, heatmap_size = tuple(case["input_size_wh"]), tuple(case["heatmap_size_wh"])
        keypoints = np.reshape(person["keypoints"], (-1, 3)).astype(np.float64)
        box = clip_box(person["bbox"], width, height)
        if case["flip"]:
            keypoints = flip_keypoints(keypoints, width, skeleton_of(len(keypoints)).flip_permutation)
        center, size = box_to_crop(box, input_size)
        if case["flip"]:
            center = flip_center(center, width)
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
        # The reference computes affines in float32, so they agree relative to the largest coefficient.
        largest = np.abs(case["affine"]).max()
        note("affine", affine / largest, case["affine"] / largest)
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


def check_decode(file: Path, shared: Path) -> Deviations:
    golden = np.load(file)
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


def check_oks_nms(file: Path, shared: Path) -> Deviations:
    wrong = compared = 0
    for image in json.loads(file.read_text()):
        poses = np.array([pose["keypoints"] for pose in image["poses"]])
        scores = np.array([pose["score"] for pose in image["poses"]])
        areas = np.array([pose["area"] for pose in image["poses"]])
        sigmas = skeleton_of(poses.shape[1]).sigmas
        for suppress, answers in ((oks_nms, image["keep"]), (soft_oks_nms, image["soft_keep"])):
            assert answers
            for threshold, keep in answers.items():
                ours = suppress(poses, scores, areas, sigmas, float(threshold)).tolist()
                wrong, compared = wrong + (ours != keep), compared + 1
    assert compared
    return {"wrong lists": float(wrong)}


def check_crowdpose(file: Path, shared: Path) -> Deviations:
    name = file.name.removesuffix("_results.json")
    results = json.loads(file.read_text())
    golden = json.loads(file.with_name(f"{name}_metrics.json").read_text())
    annotations = shared / "data/crowdpose-sample" / f"{name}.json"
    metrics = evaluate_crowdpose(annotations, results, CROWDPOSE14.sigmas)
    assert set(metrics) == set(golden)
    return {"metrics": max(abs(metrics[name] - golden[name]) for name in golden)}


def check_partner(file: Path, shared: Path) -> Deviations:
    """The second file of a pair is read with the first; here it only must have one."""
    first = file.name.replace("_metrics.json", "_results.json").replace(".npz", ".json")
    assert file.with_name(first).is_file(), f"{file.name} without {first}"
    return {}


# Which check reads a file of that name, and the largest deviation that it allows.
CHECKS: list[tuple[str, Callable[[Path, Path], Deviations], Deviations]] = [
    (
        r"geometry.*\.json",
        check_geometry,
        {"center": 1e-3, "size": 1e-5, "affine": 2e-6, "keypoints": 0.02, "target": 2.0, "crop": 2.0},
    ),
    (r"geometry.*\.npz", check_partner, {}),
    (r"decode.*\.npz", check_decode, {"quarter": 0.05, "dark": 0.05, "scores": 1e-6}),
    (r"oks_nms.*\.json", check_oks_nms, {"wrong lists": 0.0}),
    (r"crowdpose.*_results\.json", check_crowdpose, {"metrics": 1e-6}),
    (r"crowdpose.*_metrics\.json", check_partner, {}),
]


def test_agrees_with_reference(
    golden_file: str, shared: Path, record_property: Callable[[str, object], None]
) -> None:
    known = [(check, allowed) for name, check, allowed in CHECKS if re.fullmatch(name, golden_file)]
    assert known, f"no check knows {golden_file}"
    check, allowed = known[0]
    worst = check(shared / "golden" / "processing" / golden_file, shared)
    for what, value in worst.items():
        record_property("golden", f"processing/{golden_file} {what}: {value:.1e} (allowed {allowed[what]:g})")
    assert set(worst) == set(allowed)
    assert {what: value for what, value in worst.items() if not value <= allowed[what]} == {}
