"""Our networks against outputs of the reference implementation, through the name adapter."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from mipnet.models.build import build_model, count_parameters
from mipnet.models.reference_names import from_reference, to_reference
from mipnet.models.weights import load_weights


def _fill(name: str, shape: list[int]) -> torch.Tensor:
    """A tensor by the rule of the golden folder's README."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif name.endswith(("running_mean", ".bias")):
        values = 0.1 * rng.standard_normal(shape)
    elif len(shape) == 1:
        values = rng.uniform(0.5, 1.0, shape)
    else:
        values = rng.standard_normal(shape) * np.sqrt(1 / np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def _golden_files(shared: Path) -> list[Path]:
    files = sorted((shared / "golden" / "models").glob("*.json"))
    assert files, "the shared folder has no golden models"
    return files


@pytest.mark.shared
@pytest.mark.golden
@pytest.mark.slow
def test_every_golden_model(shared: Path, subtests: pytest.Subtests) -> None:
    for path in _golden_files(shared):
        with subtests.test(path.stem):
            _check(path)


def _check(path: Path) -> None:
    description = json.loads(path.read_text())
    reference = {name: _fill(name, shape) for name, shape, _ in description["state_dict"]}
    architecture, state = from_reference(reference)
    with torch.device("meta"):
        model = build_model(**architecture).to_empty(device="cpu").eval()
    load_weights(model, state)
    assert count_parameters(model) == description["parameters"]

    back = to_reference(architecture, model.state_dict())
    assert list(back) == list(reference)
    for name, tensor in reference.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor), name

    width, height = description["image_size_wh"]
    rng = np.random.default_rng(zlib.crc32(b"input"))
    images = torch.from_numpy(rng.standard_normal((2, 3, height, width)).astype(np.float32))
    with torch.inference_mode():
        heatmaps = model(images)
    expected = np.load(path.with_suffix(".npz"))
    instance_of = {"plain": 0} if model.instances == 1 else {f"lambda{i}": i for i in range(model.instances)}
    assert set(expected.files) == set(instance_of)
    for name, i in instance_of.items():
        wanted = torch.from_numpy(expected[name])
        error = ((heatmaps[:, i] - wanted).abs().max() / wanted.abs().max()).item()
        print(f"{path.stem} {name}: largest error / largest value = {error:.1e}")
        assert error <= 1e-4
