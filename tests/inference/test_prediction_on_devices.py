"""From crops to poses on the CPU and on a GPU: the same as on the CPU, within rounding."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from mipnet.evaluation import decoding
from mipnet.evaluation.decoding import decode_heatmaps
from mipnet.inference.crop_predictor import CropPredictor
from mipnet.models.fold import fold_batch_norms
from mipnet.models.network import MIPNet
from mipnet.models.targets import heatmap_targets
from mipnet.training.checkpoint import model_from_config
from tests.helpers.networks import tiny

CPU = torch.device("cpu")
METHODS = ("argmax", "quarter", "dark", "parabola")


def network(device: torch.device = CPU) -> MIPNet:
    """With random weights large enough for its maps to have clear peaks."""
    torch.manual_seed(3)
    model = model_from_config(tiny())
    torch.nn.init.normal_(model.backbone.head.weight)
    return model.eval().to(device)


def predictor(device: torch.device, **settings: Any) -> CropPredictor:
    evaluation = dataclasses.replace(tiny().evaluation, **settings)
    return CropPredictor.of(network(device), tiny(), evaluation, device)


def crops(count: int = 3) -> np.ndarray:
    made = np.random.default_rng(0).integers(0, 256, (count, 48, 32, 3), np.uint8)
    made.flags.writeable = False  # as Ray hands them out
    return made


def noisy_maps() -> torch.Tensor:
    """(8, 2, 17, 64, 48): targets of many heights, with noise."""
    g = torch.Generator().manual_seed(0)
    joints = torch.rand(8, 2, 17, 3, generator=g) * torch.tensor([180.0, 240, 0]) + torch.tensor([5.0, 5, 1])
    maps, _ = heatmap_targets(joints, (192, 256), (48, 64), 2.0)
    heights = 0.2 + 0.8 * torch.rand(8, 2, 17, 1, 1, generator=g)
    return maps * heights + 0.01 * torch.randn(maps.shape, generator=g)


@pytest.mark.parametrize("method", METHODS)
def test_decoding(device: torch.device, method: Any) -> None:
    maps = noisy_maps()
    cells, scores = decode_heatmaps(maps.to(device), method)
    expected, expected_scores = decode_heatmaps(maps, method)
    assert cells.device == scores.device == device
    torch.testing.assert_close(cells.cpu(), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(scores.cpu(), expected_scores)


def test_dark_needs_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, here on the CPU."""
    maps = noisy_maps()
    expected, _ = decode_heatmaps(maps, "dark")
    monkeypatch.setattr(decoding, "dark_dtype", lambda device: torch.float32)
    cells, _ = decode_heatmaps(maps, "dark")
    assert not torch.equal(cells, expected)
    torch.testing.assert_close(cells, expected, rtol=0, atol=1e-4)
    maps[maps < 0.05] = 0  # so that values lie below the logarithm's floor
    single = decode_heatmaps(maps, "dark")[0]
    monkeypatch.undo()
    torch.testing.assert_close(single, decode_heatmaps(maps, "dark")[0], rtol=0, atol=1e-3)


def test_a_folded_network(device: torch.device) -> None:
    model, images = network(device), torch.rand(2, 3, 48, 32, device=device)
    with torch.no_grad():
        expected, found = model(images), fold_batch_norms(model, (48, 32))(images)
    assert (found - expected).abs().max() < 2e-3 * expected.abs().max()  # outside of a step a GPU takes TF32


@pytest.mark.parametrize(("precision", "part"), [("fp32", 1e-4), ("tf32", 1e-2), ("bf16", 0.1)])
def test_heatmaps(device: torch.device, precision: Any, part: float) -> None:
    expected = predictor(CPU, precision="fp32").heatmaps(torch.tensor(crops()))
    found = predictor(device, precision=precision).heatmaps(torch.tensor(crops(), device=device))
    assert found.dtype == torch.float32
    assert (found.cpu() - expected).abs().max() < part * expected.abs().max()


@pytest.mark.parametrize("decoder", METHODS)
def test_poses(device: torch.device, decoder: Any) -> None:
    centers = np.array([[10, 20], [300.5, 40], [7, 8]], np.float32)
    sizes = np.array([[32, 48], [64, 96], [16, 24]], np.float32)
    found = predictor(device, decoder=decoder)(crops(), centers, sizes)
    expected = predictor(CPU, decoder=decoder)(crops(), centers, sizes)
    assert (found.shape, found.dtype) == ((3, 2, 17, 3), np.float32)
    # Scores: rounding may move a peak between two cells that tie, and DARK's step where a map is flat.
    np.testing.assert_allclose(found[..., 2], expected[..., 2], rtol=1e-3, atol=1e-4)
    near = np.abs(found[..., :2] - expected[..., :2]).max(axis=-1) < 0.1
    assert near.mean() > 0.9
