"""From crops to poses with a saved network."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mipnet.config import Config, to_dict
from mipnet.data.geometry import crop_affine, transform_points, warp_crop
from mipnet.errors import UserError
from mipnet.evaluation.decoding import cells_to_image, decode_heatmaps
from mipnet.inference.crop_predictor import CropPredictor, DivergedError
from mipnet.models.normalization import IMAGENET_MEAN, IMAGENET_STD, normalize
from mipnet.models.precision import native_bf16
from mipnet.models.weights import DESCRIPTION_FILE, load_model, save_model
from mipnet.training.checkpoint import model_from_config
from tests.helpers.networks import tiny


def save(folder: Path, instances: int = 2) -> Config:
    """A network with random weights large enough for its maps to have clear peaks."""
    config = tiny(model={"instances": instances, "mimb_stages": [1, 2] if instances > 1 else []})
    torch.manual_seed(3)
    model = model_from_config(config)
    torch.nn.init.normal_(model.backbone.head.weight)
    save_model(folder, model, {"config": to_dict(config)})
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save(path)
    return path


def with_settings(folder: Path, **settings: Any) -> CropPredictor:
    return CropPredictor.load(folder, dataclasses.replace(tiny().evaluation, **settings))


def crops(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 48, 32, 3), np.uint8)


def test_load_gives_a_network_in_eval_mode_with_its_configuration(folder: Path) -> None:
    predictor = CropPredictor.load(folder)
    assert not any(m.training for m in predictor.model.modules())
    assert predictor.config == tiny()
    assert predictor.evaluation == tiny().evaluation
    other = dataclasses.replace(tiny().evaluation, decoder="argmax")
    assert CropPredictor.load(str(folder), other).evaluation.decoder == "argmax"


def test_normalise_by_hand() -> None:
    pixels = torch.from_numpy(crops(1))
    expected = (pixels[0, 5, 7].double() / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    torch.testing.assert_close(normalize(pixels)[0, :, 5, 7].double(), expected, rtol=1e-5, atol=1e-5)
    assert normalize(pixels).shape == (1, 3, 48, 32)


def test_flip_test_is_the_average_with_the_mirrored_crop(folder: Path) -> None:
    pixels = torch.from_numpy(crops())
    plain = with_settings(folder, flip_test=False).heatmaps(pixels)
    mirrored = with_settings(folder, flip_test=False).heatmaps(pixels.flip(2)).numpy()
    pairs = tiny().data.joints.flip_permutation
    back = mirrored[:, :, list(pairs), :, ::-1]
    shifted = back.copy()
    shifted[..., 1:] = back[..., :-1]  # one cell to the right; the first column stays
    both = with_settings(folder, flip_test=True).heatmaps(pixels)
    np.testing.assert_allclose(both.numpy(), (plain.numpy() + shifted) / 2, rtol=1e-4, atol=1e-5)
    assert both.shape == (3, 2, 17, 12, 8)
    assert both.dtype == torch.float32
    assert not torch.allclose(both, plain, atol=1e-3)


@pytest.mark.parametrize("flip_test", [False, True])
def test_a_folded_network_gives_the_heatmaps_of_the_saved_one(folder: Path, flip_test: bool) -> None:
    """Within 1e-4 of the largest, and no batch norm is left to compute."""
    folded = with_settings(folder, flip_test=flip_test)
    saved = dataclasses.replace(folded, model=load_model(folder)[0])
    pixels = torch.from_numpy(crops())
    expected, found = saved.heatmaps(pixels), folded.heatmaps(pixels)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    norms = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in p.model.modules()) for p in (saved, folded)]
    assert norms[0] > 0
    assert norms[1] == 0


def test_precision(folder: Path) -> None:
    pixels = torch.from_numpy(crops())
    full, half, auto = (with_settings(folder, precision=p).heatmaps(pixels) for p in ("fp32", "bf16", "auto"))
    assert half.dtype == torch.float32
    difference = (half - full).abs().max() / full.abs().max()
    assert 0 < difference < 0.1
    assert torch.equal(auto, half if native_bf16(torch.device("cpu")) else full)


@pytest.mark.parametrize("decoder", ["argmax", "quarter", "dark", "parabola"])
def test_poses_are_the_decoded_heatmaps_in_the_image(folder: Path, decoder: str) -> None:
    predictor = with_settings(folder, decoder=decoder)
    centers = np.array([[10, 20], [300.5, 40], [7, 8]], np.float32)
    sizes = np.array([[32, 48], [64, 96], [16, 24]], np.float32)
    poses = predictor(crops(), centers, sizes)
    assert poses.shape == (3, 2, 17, 3)
    assert poses.dtype == np.float32
    maps = predictor.heatmaps(torch.from_numpy(crops()))
    cells, scores = decode_heatmaps(maps, decoder)  # type: ignore[arg-type]
    np.testing.assert_array_equal(poses[..., 2], scores.numpy())
    for b in range(3):
        back = cv2.invertAffineTransform(crop_affine(centers[b], sizes[b], 0.0, (8, 12)))  # heatmap -> image
        np.testing.assert_allclose(poses[b, ..., :2], transform_points(back, cells[b].numpy()), atol=1e-3)


def test_argmax_by_hand(folder: Path) -> None:
    predictor = with_settings(folder, decoder="argmax", flip_test=False)
    maps = predictor.heatmaps(torch.from_numpy(crops(1)))[0, 1, 4]
    row, column = divmod(int(maps.argmax()), 8)
    pose = predictor(crops(1), np.array([[16, 24]]), np.array([[32, 48]]))[0, 1, 4]
    np.testing.assert_allclose(pose, [4 * column, 4 * row, maps.max()], rtol=1e-5)


def test_instances_differ_and_rows_do_not_depend_on_their_neighbours(folder: Path) -> None:
    predictor = CropPredictor.load(folder)
    centers, sizes = np.full((3, 2), 20.0), np.full((3, 2), 48.0)
    together = predictor(crops(), centers, sizes)
    alone = predictor(crops()[1:2], centers[:1], sizes[:1])
    # Scores, not places: rounding may move a peak between two cells that tie.
    np.testing.assert_allclose(together[1:2, ..., 2], alone[..., 2], rtol=1e-4, atol=1e-5)
    assert np.abs(together[:, 0, :, 2] - together[:, 1, :, 2]).max() > 1e-3


def test_an_empty_batch(folder: Path) -> None:
    poses = CropPredictor.load(folder)(crops(0), np.zeros((0, 2)), np.zeros((0, 2)))
    assert poses.shape == (0, 2, 17, 3)
    assert poses.dtype == np.float32


def test_inputs_are_not_changed_and_may_be_read_only(folder: Path) -> None:
    pixels, centers, sizes = crops(), np.full((3, 2), 20.0), np.full((3, 2), 48.0)
    for array in (pixels, centers, sizes):
        array.flags.writeable = False  # as Ray hands them out
    CropPredictor.load(folder)(pixels, centers, sizes)
    np.testing.assert_array_equal(pixels, crops())


def test_the_baseline_predicts_too(tmp_path: Path) -> None:
    save(tmp_path, instances=1)
    poses = CropPredictor.load(tmp_path)(crops(), np.full((3, 2), 20.0), np.full((3, 2), 48.0))
    assert poses.shape == (3, 1, 17, 3)


class Spot(torch.nn.Module):
    """In the place of a network: the brightness of the crop as everybody's heatmaps."""

    instances = 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        gray = images.mean(1, keepdim=True)
        cells = torch.nn.functional.avg_pool2d(gray - gray.amin(), 5, 4, 2)
        return cells[:, None].expand(-1, 2, 17, -1, -1)


@pytest.mark.parametrize("flip_test", [False, True])
def test_a_mark_in_the_image_is_found_where_it_is(flip_test: bool) -> None:
    """Cut, mirror, decode and send back: no half pixel may be lost on the way."""
    config = tiny()
    evaluation = dataclasses.replace(config.evaluation, decoder="quarter", flip_test=flip_test)
    predictor = CropPredictor(Spot(), config, evaluation, torch.device("cpu"))  # type: ignore[arg-type]
    image = np.zeros((200, 200, 3), np.uint8)
    image[90:95, 110:115] = 255  # its middle is (112, 92)
    center, size = np.array([104.0, 100.0]), np.array([64.0, 96.0])
    crop = warp_crop(image, crop_affine(center, size, 0.0, (32, 48)), (32, 48))
    pose = predictor(crop[None], center[None], size[None])
    assert np.abs(pose[0, :, :, :2] - [112, 92]).max() <= 4.01  # half a cell, which is 8 px of the image


def without_config(content: dict[str, Any]) -> None:
    del content["extra"]["config"]


def with_unknown_setting(content: dict[str, Any]) -> None:
    content["extra"]["config"]["train"]["gone"] = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_config, "model.json has no 'config'"),
        (with_unknown_setting, "train.gone: unknown setting"),
    ],
)
def test_a_model_whose_crops_are_unknown(tmp_path: Path, change: Any, message: str) -> None:
    save(tmp_path)
    content = json.loads((tmp_path / DESCRIPTION_FILE).read_text())
    change(content)
    (tmp_path / DESCRIPTION_FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        CropPredictor.load(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_no_model_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no model\.json"):
        CropPredictor.load(tmp_path)


def test_cells_to_image_is_used_with_the_maps_own_size(folder: Path) -> None:
    """The middle of the heatmap is the middle of the crop, whatever the stride."""
    middle = torch.tensor([[[[4.0, 6.0]]]])
    found = cells_to_image(middle, torch.tensor([[50.0, 60.0]]), torch.tensor([[64.0, 96.0]]), (8, 12))
    assert found.flatten().tolist() == [50.0, 60.0]


@pytest.mark.parametrize("factor", [1e12, -1e12, float("nan"), float("inf")])
def test_heatmaps_of_exploded_weights_are_no_poses(factor: float, folder: Path) -> None:
    predictor = CropPredictor.load(folder)
    arguments = np.full((2, 48, 32, 3), 99, np.uint8), np.full((2, 2), 20.0), np.full((2, 2), 40.0)
    assert np.isfinite(predictor(*arguments)).all()
    with torch.no_grad():
        for parameter in predictor.model.parameters():
            parameter.mul_(factor)
    with pytest.raises(DivergedError, match="its training has diverged; train it again with a lower"):
        predictor(*arguments)
