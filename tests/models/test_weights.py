from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mipnet.errors import UserError
from mipnet.models.backbone import Backbone, InsertionPoint
from mipnet.models.build import build_model
from mipnet.models.network import MIPNet
from mipnet.models.weights import (
    load_model,
    load_weights,
    read_weights,
    save_model,
    save_weights,
    warm_start,
)

TINY = {"backbone": "hrnet", "width": 8, "num_modules": (1, 1), "blocks": 1, "stem_channels": 8}


def _model(joints: int = 5, instances: int = 2, mimb_stages: tuple[int, ...] = (2, 3)) -> MIPNet:
    return build_model(num_keypoints=joints, instances=instances, mimb_stages=mimb_stages, **TINY)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model", _model(), {"input_size": [64, 96]})


def test_a_saved_model_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _model()
    images = torch.randn(2, 3, 64, 64)
    model.train()(images)  # running statistics that are not the initial ones
    model.to(memory_format=torch.channels_last).eval()
    extra = {"input_size": [64, 96], "skeleton": "coco"}
    again, found = load_model(save_model(tmp_path / "deep" / "model", model, extra))
    assert found == extra
    assert again.architecture == model.architecture
    assert not again.training
    assert all(p.requires_grad for p in again.parameters())
    state = again.state_dict()
    assert list(state) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor), name
    torch.testing.assert_close(again(images), model(images), rtol=1e-4, atol=1e-6)


def test_a_network_made_by_hand_cannot_be_saved(tmp_path: Path) -> None:
    class Toy(Backbone):
        def __init__(self) -> None:
            super().__init__()
            self.stages = torch.nn.ModuleList([torch.nn.Conv2d(3, 4, 1)])
            self.insertion_points = {1: InsertionPoint(0, (4,))}
            self.head = torch.nn.Conv2d(4, 2, 1)

    with pytest.raises(ValueError, match="build_model"):
        save_model(tmp_path, MIPNet(Toy(), 2, (1,)))


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_missing_and_broken_files(saved: Path, name: str) -> None:
    (saved / name).write_text("{}, no")
    with pytest.raises(UserError, match=name):
        load_model(saved)
    (saved / name).unlink()
    with pytest.raises(UserError, match=f"no {name} in"):
        load_model(saved)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "format 2"),
        ({"extra": None}, "must be objects"),
        ({"architecture": {"backbone": "hrnet", "colour": "red"}}, "colour"),
        ({"architecture": {"backbone": "vgg"}}, "unknown backbone 'vgg'"),
        ({"architecture": {}}, "cannot be built"),
    ],
)
def test_impossible_descriptions(saved: Path, change: dict, words: str) -> None:
    path = saved / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=words):
        load_model(saved)


def test_weights_that_do_not_fit(saved: Path) -> None:
    path = saved / "weights.safetensors"
    state = load_file(path)
    del state["backbone.head.bias"]
    state["backbone.tail.bias"] = torch.zeros(1)
    state["backbone.head.weight"] = torch.zeros(5, 7, 1, 1)
    save_file(state, path)
    with pytest.raises(UserError) as error:
        load_model(saved)
    message = str(error.value)
    assert str(path) in message
    assert "lacks backbone.head.bias" in message
    assert "unknown backbone.tail.bias" in message
    assert "backbone.head.weight [5, 7, 1, 1] instead of [5, 8, 1, 1]" in message


def test_loading_a_network_is_quick(saved: Path) -> None:
    """What "meta" tensors are computed with takes seconds of a core to import, at every start."""
    program = (
        "import sys, torch\n"
        "from mipnet.models.fold import fold_batch_norms\n"
        "from mipnet.models.weights import load_model\n"
        f"fold_batch_norms(load_model({str(saved)!r})[0], (64, 64))(torch.zeros(1, 3, 64, 64))\n"
        "print(sorted({'sympy', 'torch._dynamo', 'torch._inductor'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_of_another_precision_gives_weights_of_the_networks(saved: Path) -> None:
    path = saved / "weights.safetensors"
    save_file({name: t.half() if t.is_floating_point() else t for name, t in load_file(path).items()}, path)
    assert {p.dtype for p in load_model(saved)[0].parameters()} == {torch.float32}


def test_a_refused_state_changes_nothing() -> None:
    model = _model()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = {name: torch.ones_like(t) for name, t in before.items()}
    state.pop("mimbs.3.0.embed.3.bias")
    with pytest.raises(UserError, match=r"lacks mimbs\.3\.0\.embed\.3\.bias"):
        load_weights(model, state)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def _values(model: MIPNet, value: float) -> dict[str, Tensor]:
    return {name: torch.full_like(t, value) for name, t in model.state_dict().items()}


def test_warm_start_from_a_single_instance_network() -> None:
    model = _model()
    fresh = warm_start(model, _values(_model(instances=1, mimb_stages=()), 7))
    assert fresh == [name for name in model.state_dict() if name.startswith("mimbs.")]
    assert all((t == 7).all() == (n not in fresh) for n, t in model.state_dict().items())


def test_warm_start_with_other_joints_and_instances() -> None:
    model = _model(joints=5, instances=3)
    fresh = warm_start(model, _values(_model(joints=4, instances=2), 7))
    assert {name.split(".")[0] for name in fresh} == {"backbone", "mimbs"}
    assert [name for name in fresh if name.startswith("backbone")] == [
        "backbone.head.weight",
        "backbone.head.bias",
    ]
    # Whole blocks stay fresh although only the embedding's first layer differs in shape.
    assert set(fresh) >= {name for name in model.state_dict() if name.startswith("mimbs.")}


def test_warm_start_of_the_same_network_leaves_nothing_fresh() -> None:
    model = _model()
    assert warm_start(model, _values(model, 7)) == []


def test_warm_start_refuses_another_backbone_and_lost_mimbs() -> None:
    state = _values(_model(), 7)
    with pytest.raises(UserError, match=r"unknown mimbs\.2"):
        warm_start(_model(instances=1, mimb_stages=()), state)
    state.pop("backbone.stages.0.conv1.weight")
    with pytest.raises(UserError, match=r"lacks backbone\.stages\.0\.conv1\.weight"):
        warm_start(_model(), state)


def test_warm_start_copies_the_joints_that_it_is_told_to() -> None:
    model = _model(joints=5)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    fresh = warm_start(model, _values(_model(joints=4), 7), keypoint_pairs=[(0, 3), (2, 1)])
    assert fresh == ["backbone.head.weight", "backbone.head.bias"]
    state = model.state_dict()
    for name in fresh:
        assert (state[name][[0, 2]] == 7).all()
        assert torch.equal(state[name][[1, 3, 4]], before[name][[1, 3, 4]])
    assert all((t == 7).all() for n, t in state.items() if n not in fresh)
    assert warm_start(_model(), _values(_model(), 7), keypoint_pairs=[(i, 4 - i) for i in range(5)]) == []


def test_a_head_is_taken_or_left_as_a_whole() -> None:
    model = build_model("simplebaseline", 5, 1, (), depth=18, deconv_channels=8)
    other = build_model("simplebaseline", 5, 1, (), depth=18, deconv_channels=8, deconvs=2)
    fresh = warm_start(
        model, {n: t for n, t in other.state_dict().items() if ".bias" not in n or "head" not in n}
    )
    assert fresh == [n for n in model.state_dict() if n.startswith("backbone.head.")]


def test_an_encoder_is_no_model(tmp_path: Path) -> None:
    model = _model()
    trunk = {n: t for n, t in model.state_dict().items() if not n.startswith("backbone.head.")}
    save_weights(tmp_path, model.architecture or {}, trunk)
    with pytest.raises(UserError, match=r"holds an encoder.+--train\.init"):
        load_model(tmp_path)
    assert warm_start(_model(), read_weights(tmp_path)) == ["backbone.head.weight", "backbone.head.bias"]
