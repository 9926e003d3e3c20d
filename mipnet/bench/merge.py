"""Synthetic poses and heatmaps for timing what follows the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mipnet.bench import plain
from mipnet.bench.device import wait
from mipnet.evaluation.decoding import DecodeMethod, decode_heatmaps
from mipnet.evaluation.merging import Merged, merge_data_set, pose_scores
from mipnet.models.targets import heatmap_targets

PLAIN = "plain loops"


class Crowd(NamedTuple):
    """Poses of many boxes: image (P,), poses (P, N, K, 3), scores (P, N), areas (P,)."""

    image: np.ndarray
    poses: np.ndarray
    scores: np.ndarray
    areas: np.ndarray


def crowd(images: int, poses: int, instances: int, joints: int, seed: int) -> Crowd:
    """``poses`` poses in each image, in boxes of N.

    A box's λ = 0 is its own person, λ > 0 half of the time a neighbour, whom that one's box has too, and else
    the same person again: near-duplicates are what merging is there for. Some scores tie.
    """
    rng = np.random.default_rng(seed)
    boxes = max(poses // instances, 1)
    people = rng.uniform(0, 600, (images, boxes, 1, 2)) + rng.normal(0, 40, (images, boxes, joints, 2))
    found = np.empty((images, boxes, instances, joints, 3), np.float32)
    for i in range(instances):
        other = np.where(rng.random(boxes) < 0.5, (np.arange(boxes) + i) % boxes, np.arange(boxes))
        noise = rng.choice([1.0, 6.0, 20.0], (images, boxes, 1, 1))
        found[:, :, i, :, :2] = people[:, other] + noise * rng.normal(size=(images, boxes, joints, 2))
        found[:, :, i, :, 2] = rng.random((images, boxes, joints))
    flat = found.reshape(-1, instances, joints, 3)
    scores = pose_scores(np.ones(len(flat)), flat[..., 2]).round(2)
    return Crowd(np.repeat(np.arange(images), boxes), flat, scores, rng.uniform(8e3, 6e4, len(flat)))


def merge_ways(
    people: Crowd, sigmas: tuple[float, ...], discount: float, threshold: float
) -> dict[str, Callable[[], Merged]]:
    """Ways to merge a data set, the plain one first."""

    def loops() -> Merged:
        parts = []
        for image in np.unique(people.image):
            members = np.flatnonzero(people.image == image)
            one = (people.poses[members], people.scores[members], people.areas[members])
            kept = plain.merge(*one, sigmas, discount, threshold)
            parts.append(kept._replace(boxes=members[kept.boxes]))
        return Merged(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def matrices() -> Merged:
        return merge_data_set(
            people.image, people.poses, people.scores, people.areas, sigmas, discount, threshold
        )

    return {PLAIN: loops, "OKS matrices": matrices}


def same_poses(a: Merged, b: Merged) -> bool:
    """Whether the same poses were kept, in the same order."""
    return np.array_equal(a.boxes, b.boxes) and np.array_equal(a.instances, b.instances)


def maps(count: int, joints: int, size: tuple[int, int], device: torch.device, seed: int = 0) -> Tensor:
    """Heatmaps (count, K, h, w) float32 of random joints, with noise."""
    g = torch.Generator().manual_seed(seed)
    width, height = size
    places = torch.rand(count, 1, joints, 3, generator=g) * torch.tensor([4 * width, 4 * height, 0.0])
    peaks, _ = heatmap_targets(
        places + torch.tensor([0, 0, 2.0]), (4 * width, 4 * height), size, 2.0, "subpixel"
    )
    noise = 0.01 * torch.randn(peaks.shape, generator=g)
    return (peaks + noise)[:, 0].to(device)


def decode_ways(
    heatmaps: Tensor, method: DecodeMethod
) -> dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]]:
    """Ways to decode heatmaps, the plain one first; all return arrays, so a GPU's have to come over."""

    def loops() -> tuple[np.ndarray, np.ndarray]:
        return plain.decode(heatmaps.cpu().numpy(), method)

    def tensors() -> tuple[np.ndarray, np.ndarray]:
        cells, scores = decode_heatmaps(heatmaps, method)
        wait(heatmaps.device)
        return cells.cpu().numpy(), scores.cpu().numpy()

    return {PLAIN: loops, "all joints at once": tensors}
