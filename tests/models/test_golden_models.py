"""Our networks against outputs of the reference implementation, through import and export.

Every ``models/NAME.json`` of the golden folder is one network; which there are is found by listing.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mipnet.models.costs import count_parameters
from mipnet.models.reference_checkpoints import export_checkpoint, import_checkpoint
from mipnet.models.weights import load_model, read_weights
from mipnet.skeletons import CROWDPOSE14

pytestmark = [pytest.mark.shared, pytest.mark.golden, pytest.mark.slow]
State = dict[str, Tensor]


def fill(name: str, shape: list[int]) -> Tensor:
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


def read_golden(shared: Path, name: str) -> tuple[dict, State]:
    description = json.loads((shared / "golden" / "models" / f"{name}.json").read_text())
    return description, {tensor: fill(tensor, shape) for tensor, shape, _ in description["state_dict"]}


def prefixed(state: State) -> State:
    return {f"module.{name}": tensor for name, tensor in state.items()}


OPTIMIZER = {
    "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(3)}},
    "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "params": [0]}],
}
# As training scripts of the reference and others write checkpoints; the name under "model" is a trap.
WRAPPERS: dict[str, Callable[[State], dict]] = {
    "bare": lambda s: s,
    "data parallel": prefixed,
    "latest of MIPNet": lambda s: {
        "epoch": 110,
        "model": "pose_mipnet",
        "latest_state_dict": prefixed(s),
        "best_state_dict": {name: tensor[:0] for name, tensor in s.items() if tensor.ndim},
        "perf": np.float64(0.7),
        "optimizer": OPTIMIZER,
    },
    "state_dict of HRNet": lambda s: {
        "epoch": 210,
        "model": "pose_hrnet",
        "state_dict": prefixed(s),
        "perf": np.float64(0.7),
        "optimizer": OPTIMIZER,
    },
    "model": lambda s: {"model": s, "optimizer": OPTIMIZER, "epoch": 1},
    "state_dict inside of model": lambda s: {"model": {"state_dict": prefixed(s)}},
    "without counters": lambda s: {n: t for n, t in s.items() if not n.endswith("num_batches_tracked")},
}


def same(a: State, b: State) -> bool:
    """Names in order, types and every bit."""
    return list(a) == list(b) and all(
        a[name].dtype == tensor.dtype and torch.equal(a[name], tensor) for name, tensor in b.items()
    )


def test_imported_weights_give_the_references_heatmaps(
    golden_model: str, shared: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    description, reference = read_golden(shared, golden_model)
    torch.save(reference, tmp_path / "published.pth")
    size = tuple(description["image_size_wh"])
    imported = import_checkpoint(tmp_path / "published.pth", tmp_path / "model", size)
    assert (imported.unused, imported.uninitialized) == ([], "")
    assert imported.config.input.size == size
    if reference["final_layer.weight"].shape[0] == 14:
        assert imported.config.data.joints == CROWDPOSE14
    model, _ = load_model(tmp_path / "model")
    assert count_parameters(model) == description["parameters"]

    rng = np.random.default_rng(zlib.crc32(b"input"))
    images = torch.from_numpy(rng.standard_normal((2, 3, size[1], size[0])).astype(np.float32))
    with torch.inference_mode():
        heatmaps = model(images)
    expected = np.load(shared / "golden" / "models" / f"{golden_model}.npz")
    instance_of = {"plain": 0} if model.instances == 1 else {f"lambda{i}": i for i in range(model.instances)}
    assert set(expected.files) == set(instance_of)
    errors = {}
    for name, i in instance_of.items():
        wanted = torch.from_numpy(expected[name])
        assert wanted.shape == heatmaps[:, i].shape
        errors[name] = ((heatmaps[:, i] - wanted).abs().max() / wanted.abs().max()).item()
        record_property("golden", f"models/{golden_model} {name}: {errors[name]:.1e} of the largest value")
    assert max(errors.values()) <= 1e-4


def test_every_wrapping_comes_back_bit_by_bit(golden_model: str, shared: Path, tmp_path: Path) -> None:
    _, reference = read_golden(shared, golden_model)
    file, folder, back = tmp_path / "published.pth", tmp_path / "model", tmp_path / "back.pth"
    first: State = {}
    for kind, wrap in WRAPPERS.items():
        # HRNet's in the format of 2019, from before checkpoints were zip archives.
        torch.save(wrap(reference), file, _use_new_zipfile_serialization="HRNet" not in kind)
        import_checkpoint(file, folder)
        state = read_weights(folder)
        first = first or state
        assert same(state, first), kind
        if kind in ("bare", "without counters"):
            export_checkpoint(folder, back)
            assert same(torch.load(back, weights_only=True), reference), kind
