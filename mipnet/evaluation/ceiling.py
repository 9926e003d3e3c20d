"""Upper bound: the metrics of perfect heatmaps, i.e. what heatmap resolution and decoding alone lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mipnet.config import Config
from mipnet.data.geometry import box_to_crop, clip_box, crop_affine, transform_keypoints
from mipnet.evaluation.coco import Annotations, keypoint_results, load_annotations
from mipnet.evaluation.decoding import cells_to_image, decode_heatmaps
from mipnet.evaluation.protocols import evaluate_poses
from mipnet.models.targets import heatmap_targets

PEOPLE_PER_CHUNK = 256  # their heatmaps take up to 120 MB


def ceiling(annotations: Annotations, config: Config) -> dict[str, float]:
    """The metrics of a network that predicts its targets exactly, from ground-truth boxes.

    The annotated keypoints go through crop, ``heatmap_targets``, ``decode_heatmaps`` and ``cells_to_image``.
    What is missing to 1 is lost by the heatmaps' resolution, kind and decoder and by keypoints outside the
    crop; training cannot recover it. Every pose has score 1; a keypoint without a target is put in the middle
    of the crop, because a perfect prediction says nothing about it.

    Args:
        annotations: a COCO keypoint data set, or the path of its JSON.
        config: the data set's protocol and skeleton; size, padding and stride of input and heatmaps; kind of
            target; decoder.

    Returns:
        the metrics of ``evaluate_poses``.

    Raises:
        DataError: as ``evaluate_keypoints``.
    """
    annotations = load_annotations(annotations)
    image_sizes = {image["id"]: (image["width"], image["height"]) for image in annotations["images"]}
    people = [p for p in annotations["annotations"] if p.get("num_keypoints") and not p.get("iscrowd")]
    input_size, target = config.input.size, config.target
    heatmap_size = (input_size[0] // config.model.stride, input_size[1] // config.model.stride)
    results = []
    for start in range(0, len(people), PEOPLE_PER_CHUNK):
        chunk = people[start : start + PEOPLE_PER_CHUNK]
        keypoints_crop, centers, sizes = _crop_people(chunk, image_sizes, input_size, config.input.padding)
        crop_px = keypoints_crop[:, None]
        targets, _ = heatmap_targets(crop_px, input_size, heatmap_size, target.sigma, target.kind)
        cells, scores = decode_heatmaps(targets[:, 0], config.evaluation.decoder)  # (B, K, 2), (B, K)
        cells = torch.where(scores[..., None] > 0, cells, cells.new_tensor(heatmap_size) / 2)
        keypoints = cells_to_image(cells, centers, sizes, heatmap_size)
        poses = torch.cat([keypoints, scores[..., None]], dim=-1).numpy()  # (B, K, 3)
        image_ids = [person["image_id"] for person in chunk]
        results += keypoint_results(image_ids, poses, np.ones(len(chunk)), chunk[0]["category_id"])
    return evaluate_poses(config.data, annotations, results)


def _crop_people(
    people: Sequence[Mapping[str, Any]],
    image_sizes: Mapping[Any, tuple[int, int]],
    input_size: tuple[int, int],
    padding: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keypoints (B, K, 3) in crop px, and the crops' centres (B, 2) and sizes (B, 2) in image px; float64."""
    boxes = np.stack([clip_box(person["bbox"], *image_sizes[person["image_id"]]) for person in people])
    centers, sizes = box_to_crop(boxes, input_size, padding)
    keypoints_crop = []
    for person, center, size in zip(people, centers, sizes, strict=True):
        keypoints = np.reshape(np.asarray(person["keypoints"], np.float64), (-1, 3))
        affine = crop_affine(center, size, 0.0, input_size)
        keypoints_crop.append(transform_keypoints(affine, keypoints, input_size))
    crop_px = torch.from_numpy(np.stack(keypoints_crop))
    return crop_px, torch.from_numpy(centers), torch.from_numpy(sizes)
