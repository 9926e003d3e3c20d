"""Sharding and batch size never move a keypoint by more than 1e-4 px.

Sums of floating-point numbers come out differently in batches of different sizes, by 1e-7 of a heatmap's
values or so. What the decoders make of that depends on the maps: in those of a network that has learned
something it stays below the bound, in those of random weights nothing is a peak, and a Newton step may go
anywhere.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mipnet.config import Config, to_dict
from mipnet.data.dataset_formats import open_split
from mipnet.inference.crop_predictor import CropPredictor
from mipnet.inference.pipeline import predict_poses
from mipnet.models.normalization import normalize
from mipnet.models.targets import heatmap_targets
from mipnet.models.weights import save_model
from mipnet.storage import Folder
from mipnet.training.checkpoint import model_from_config
from tests.helpers.networks import tiny

ALLOWED = 1e-4  # px
CROPS = 24


def config() -> Config:
    wider = {"width": 16, "stem_channels": 16}
    return tiny(model=wider, input={"width": 48, "height": 64})


def crops(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a red and a blue square, and where their middles are: (B, 64, 48, 3) and (B, 2, 2) x, y."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 100, (count, 64, 48, 3), np.uint8)
    places = rng.integers([10, 10], [38, 54], (count, 2, 2))
    for image, (red, blue) in zip(pixels, places, strict=True):
        for (x, y), channel in ((red, 0), (blue, 2)):
            image[y - 4 : y + 5, x - 4 : x + 5, channel] = 255
    return pixels, places


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose joints are the red square's middle for λ = 0, the blue one's for λ = 1."""
    torch.manual_seed(0)
    model = model_from_config(config()).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(120):
        pixels, places = crops(8, step)
        joints = torch.ones(8, 2, 17, 3)
        joints[..., :2] = torch.from_numpy(places)[:, :, None]
        targets, _ = heatmap_targets(joints, (48, 64), (12, 16), 1.25, "subpixel")
        loss = ((model(normalize(torch.from_numpy(pixels))) - targets).square() * (1 + 10 * targets)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("trained")
    return save_model(folder, model, {"config": to_dict(config())})


def predictor(folder: Path, decoder: str) -> CropPredictor:
    return CropPredictor.load(folder, dataclasses.replace(config().evaluation, decoder=decoder))  # type: ignore[arg-type]


def boxes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres and sizes of crops; up to 6 image px for one of the crop."""
    rng = np.random.default_rng(1)
    return rng.uniform(0, 600, (count, 2)), rng.uniform(48, 288, (count, 1)) * [1, 4 / 3]


@pytest.mark.parametrize("decoder", ["quarter", "dark", "parabola"])
def test_the_network_has_learned_something(trained: Path, decoder: str) -> None:
    pixels, places = crops(CROPS, 1000)
    centers, sizes = np.full((CROPS, 2), [24, 32]), np.full((CROPS, 2), [48, 64])
    poses = predictor(trained, decoder)(pixels, centers, sizes)
    off = np.linalg.norm(poses[..., :2] - places[:, :, None], axis=-1)
    assert np.mean(off < 4) > 0.8


@pytest.mark.parametrize("decoder", ["quarter", "dark", "parabola"])
def test_any_division_into_batches_in_any_order(trained: Path, decoder: str) -> None:
    ours = predictor(trained, decoder)
    pixels, _ = crops(CROPS, 1000)
    centers, sizes = boxes(CROPS)
    together = ours(pixels, centers, sizes)

    @settings(deadline=None, derandomize=True, max_examples=10)
    @given(st.permutations(range(CROPS)), st.sets(st.integers(1, CROPS - 1)))
    def divide(order: list[int], cuts: set[int]) -> None:
        for rows in np.split(np.array(order), sorted(cuts)):
            part = ours(pixels[rows], centers[rows], sizes[rows])
            assert np.abs(part[..., :2] - together[rows][..., :2]).max() <= ALLOWED
            np.testing.assert_allclose(part[..., 2], together[rows][..., 2], atol=1e-5)

    divide()


@pytest.mark.ray
@pytest.mark.slow
def test_any_number_of_processes_and_any_batch_size(
    trained: Path, small_coco: Folder, ray_session: None
) -> None:
    listed = open_split(config().data, small_coco, "train").ground_truth_boxes()
    found = []
    for workers, batch_size in ((1, 64), (2, 3), (2, 1)):
        evaluation = dataclasses.replace(config().evaluation, decoder="quarter", batch_size=batch_size)
        resources = dataclasses.replace(config().resources, predict_workers=workers, gpu=False)
        reading = dataclasses.replace(config(), evaluation=evaluation)
        found.append(predict_poses(listed, Folder.of(trained), reading, resources).keypoints)
    assert not np.isnan(found[0]).any()
    for other in found[1:]:
        assert np.abs(other[..., :2] - found[0][..., :2]).max() <= ALLOWED
