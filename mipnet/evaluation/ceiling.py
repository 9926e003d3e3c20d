"""Upper bound: the metrics of perfect heatmaps, i.e. what heatmap resolution and decoding alone lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mipnet.data.geometry import PADDING, box_to_crop, clip_box, crop_affine, transform_keypoints
from mipnet.evaluation.coco import Annotations, Sigmas, keypoint_results, load_annotations
from mipnet.evaluation.decoding import DecodeMethod, cells_to_image, decode_heatmaps
from mipnet.evaluation.protocols import Protocol, evaluate_poses
from mipnet.models.targets import TargetKind, heatmap_targets

PEOPLE_PER_CHUNK = 256  # their heatmaps take up to 120 MB


def ceiling(
    annotations: Annotations,
    sigmas: Sigmas,
    input_size: tuple[int, int],
    *,
    target: TargetKind = "rounded",
    sigma: float = 2.0,
    decoder: DecodeMethod = "quarter",
    stride: int = 4,
    padding: float = PADDING,
    protocol: Protocol = "coco",
) -> dict[str, float]:
    """The metrics of a network that predicts its targets exactly, from ground-truth boxes.

    The annotated keypoints go through crop, ``heatmap_targets``, ``decode_heatmaps`` and ``cells_to_image``.
    What is missing to 1 is lost by the heatmaps' resolution, kind and decoder and by keypoints outside the
    crop; training cannot recover it. Every pose has score 1; a keypoint without a target is put in the middle
    of the crop, because a perfect prediction says nothing about it.

    Args:
        annotations: a COCO keypoint data set, or the path of its JSON.
        sigmas: (K,) OKS constants.
        input_size: (w, h) of the network's input in px.
        target: kind of target, "rounded" or "subpixel".
        sigma: of the target, in heatmap px.
        decoder: as for ``decode_heatmaps``.
        stride: input px per heatmap px.
        padding: as for ``box_to_crop``.
        protocol: rules of the evaluation.

    Returns:
        the metrics of ``evaluate_poses``.

    Raises:
        DataError: as ``evaluate_keypoints``.
    """
    annotations = load_annotations(annotations)
    image_sizes = {image["id"]: (image["width"], image["height"]) for image in annotations["images"]}
    people = [p for p in annotations["annotations"] if p.get("num_keypoints") and not p.get("iscrowd")]
    heatmap_size = (input_size[0] // stride, input_size[1] // stride)
    results = []
    for start in range(0, len(people), PEOPLE_PER_CHUNK):
        chunk = people[start : start + PEOPLE_PER_CHUNK]
        keypoints_crop, centers, sizes = _crop_people(chunk, image_sizes, input_size, padding)
        targets, _ = heatmap_targets(keypoints_crop[:, None], input_size, heatmap_size, sigma, target)
        cells, scores = decode_heatmaps(targets[:, 0], decoder)  # (B, K, 2), (B, K)
        cells = torch.where(scores[..., None] > 0, cells, cells.new_tensor(heatmap_size) / 2)
        keypoints = cells_to_image(cells, centers, sizes, heatmap_size)
        poses = torch.cat([keypoints, scores[..., None]], dim=-1).numpy()  # (B, K, 3)
        image_ids = [person["image_id"] for person in chunk]
        results += keypoint_results(image_ids, poses, np.ones(len(chunk)), chunk[0]["category_id"])
    return evaluate_poses(protocol, annotations, results, sigmas)


def _crop_people(
    people: Sequence[Mapping[str, Any]],
    image_sizes: Mapping[Any, tuple[int, int]],
    input_size: tuple[int, int],
    padding: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keypoints (B, K, 3) in crop px, and the crops' centres (B, 2) and sizes (B, 2) in image px; float64."""
    boxes = np.stack([clip_box(person["bbox"], *image_sizes[person["image_id"]]) for person in people])
    centers, sizes = box_to_crop(boxes, input_size, padding)
    keypoints_crop = [
        transform_keypoints(
            crop_affine(center, size, 0.0, input_size),
            np.reshape(np.asarray(person["keypoints"], np.float64), (-1, 3)),
            input_size,
        )
        for person, center, size in zip(people, centers, sizes, strict=True)
    ]
    crop_px = torch.from_numpy(np.stack(keypoints_crop))
    return crop_px, torch.from_numpy(centers), torch.from_numpy(sizes)
