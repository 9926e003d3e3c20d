"""What a perfect prediction scores: the loss in accuracy of the heatmaps themselves."""

from __future__ import annotations

import numpy as np
import torch

from mipnet.data.geometry import PADDING, box_to_crop, clip_box, crop_affine, transform_keypoints
from mipnet.evaluation.coco import Annotations, Sigmas, keypoint_results, load_annotations
from mipnet.evaluation.decoding import DecodeMethod, cells_to_image, decode_heatmaps
from mipnet.evaluation.protocols import Protocol, evaluate_poses
from mipnet.models.targets import TargetKind, heatmap_targets

CHUNK = 256  # people at a time: their heatmaps take up to 120 MB


def ceiling(
    annotations: Annotations,
    sigmas: Sigmas,
    input_size: tuple[int, int],
    target: TargetKind = "rounded",
    sigma: float = 2.0,
    decoder: DecodeMethod = "quarter",
    stride: int = 4,
    padding: float = PADDING,
    protocol: Protocol = "coco",
) -> dict[str, float]:
    """The metrics of a network that predicts its targets exactly, from ground-truth boxes.

    The annotated joints go through crop, ``heatmap_targets``, ``decode_heatmaps`` and ``cells_to_image``:
    what is missing to 1 is lost by the heatmaps' resolution, kind and decoder and by joints outside the crop,
    and no training gets it back. Every pose has score 1; a joint without a target, about which a perfect
    prediction says nothing, is put in the middle of the crop.

    Args:
        annotations: a COCO keypoint data set, or the path of its JSON.
        sigmas: (K,) OKS constants.
        input_size: (w, h) of the network's input in px.
        target: kind of target, "rounded" or "subpixel".
        sigma: of the target, in heatmap px.
        decoder: as for ``decode_heatmaps``.
        stride: input px per heatmap px.
        padding: as for ``box_to_crop``.
        protocol: whose rules.

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
    for start in range(0, len(people), CHUNK):
        chunk = people[start : start + CHUNK]
        boxes = np.stack([clip_box(person["bbox"], *image_sizes[person["image_id"]]) for person in chunk])
        centers, sizes = box_to_crop(boxes, input_size, padding)
        joints = [
            transform_keypoints(
                crop_affine(center, size, 0.0, input_size),
                np.reshape(np.asarray(person["keypoints"], np.float64), (-1, 3)),
                input_size,
            )
            for person, center, size in zip(chunk, centers, sizes, strict=True)
        ]
        targets, _ = heatmap_targets(
            torch.from_numpy(np.stack(joints))[:, None], input_size, heatmap_size, sigma, target
        )
        cells, scores = decode_heatmaps(targets[:, 0], decoder)
        cells = torch.where(scores[..., None] > 0, cells, cells.new_tensor(heatmap_size) / 2)
        points = cells_to_image(cells, torch.from_numpy(centers), torch.from_numpy(sizes), heatmap_size)
        poses = torch.cat([points, scores[..., None]], dim=-1).numpy()
        image_ids = [person["image_id"] for person in chunk]
        results += keypoint_results(image_ids, poses, np.ones(len(chunk)), chunk[0]["category_id"])
    return evaluate_poses(protocol, annotations, results, sigmas)
