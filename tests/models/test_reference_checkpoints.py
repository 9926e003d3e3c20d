"""Import and export of networks of every kind; the golden files do the same with the published ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from mipnet.config import preset
from mipnet.config.presets import baseline
from mipnet.errors import ConfigError, UserError
from mipnet.inference.crop_predictor import CropPredictor
from mipnet.models.build import build_model
from mipnet.models.initialization import warm_start_from_folder
from mipnet.models.reference_checkpoints import (
    config_for,
    export_checkpoint,
    import_checkpoint,
    is_checkpoint,
)
from mipnet.models.reference_names import to_reference
from mipnet.models.weights import load_model, read_weights
from mipnet.skeletons import COCO17, CROWDPOSE14
from mipnet.training.checkpoint import model_from_config
from tests.helpers.networks import HRNET

State = dict[str, Tensor]


def network(joints: int = 17, instances: int = 2, mimb_stages: tuple[int, ...] = (1, 2), **body) -> State:
    """A random small network under the reference's names."""
    torch.manual_seed(0)
    model = build_model("hrnet", joints, instances, mimb_stages, **{**HRNET, **body})
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running" in name:
                tensor.uniform_(0.5, 1.5)
    return to_reference(model.architecture, model.state_dict())


def saved(state: State, folder: Path) -> Path:
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"


def test_weights_for_a_skeleton_of_ones_own(tmp_path: Path) -> None:
    joints = [f"joint_{i}" for i in range(16)]
    definition = {"joints": joints, "sigmas": [0.05] * 16, "flip_pairs": []}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(definition))
    file = saved(network(16), tmp_path)
    done = import_checkpoint(file, tmp_path / "model", joints=str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").unlink()
    predictor = CropPredictor.load(tmp_path / "model")
    assert predictor.config.data.joints.joints == tuple(joints)
    assert predictor.config == done.config
    model = model_from_config(done.config)
    assert warm_start_from_folder(model, tmp_path / "model", done.config.data.joints, "model") == ""


@pytest.mark.parametrize(
    ("joints", "instances", "mimb_stages"), [(17, 2, (1, 2)), (14, 3, (2,)), (14, 1, ()), (17, 1, (1,))]
)
def test_the_round_trip_is_bit_exact(
    joints: int, instances: int, mimb_stages: tuple[int, ...], tmp_path: Path
) -> None:
    state = network(joints, instances, mimb_stages)
    done = import_checkpoint(saved(state, tmp_path), tmp_path / "model")
    assert (done.unused, done.uninitialized) == ([], "")
    assert done.config.data.joints == (COCO17 if joints == 17 else CROWDPOSE14)
    assert export_checkpoint(tmp_path / "model", tmp_path / "sub" / "back.pth") == list(state)
    back = torch.load(tmp_path / "sub" / "back.pth", weights_only=True)
    assert type(back) is dict
    assert list(back) == list(state)
    assert all(back[n].dtype == t.dtype and torch.equal(back[n], t) for n, t in state.items())
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["back.pth"]


def test_an_imported_model_says_how_to_run_it(tmp_path: Path) -> None:
    done = import_checkpoint(saved(network(), tmp_path), tmp_path / "model", (64, 96))
    predictor = CropPredictor.load(tmp_path / "model")
    assert predictor.config == done.config
    assert predictor.config.input.size == (64, 96)
    assert predictor.evaluation.decoder == "quarter"
    with torch.device("meta"):
        rebuilt = model_from_config(done.config)
    assert rebuilt.architecture == load_model(tmp_path / "model")[0].architecture
    description = json.loads((tmp_path / "model" / "model.json").read_text())
    assert description["extra"]["imported_from"] == "weights.pth"
    assert description["extra"]["config"]["data"]["skeleton"] == "coco17"


def test_tensors_that_share_memory(tmp_path: Path) -> None:
    state = network()
    flat = torch.cat([t.flatten() for t in state.values() if t.is_floating_point()])
    views, start = {}, 0
    for name, tensor in state.items():
        views[name] = tensor
        if tensor.is_floating_point():
            views[name] = flat[start : start + tensor.numel()].view(tensor.shape)
            start += tensor.numel()
    import_checkpoint(saved(views, tmp_path), tmp_path / "model")
    export_checkpoint(tmp_path / "model", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert all(torch.equal(back[n], t) for n, t in state.items())


@pytest.mark.parametrize("joints", ["", "crowdpose14"])
def test_an_encoder_is_no_model_yet(joints: str, tmp_path: Path) -> None:
    state = network(instances=1, mimb_stages=())
    trunk = {name: t for name, t in state.items() if not name.startswith("final_layer.")}
    file = saved({**trunk, "classifier.bias": torch.zeros(9)}, tmp_path)
    done = import_checkpoint(file, tmp_path / "model", joints=joints)
    assert done.unused == ["classifier.bias"]
    assert done.uninitialized == "the heatmap layer"
    assert done.architecture["num_keypoints"] == (14 if joints else 17)
    with pytest.raises(UserError, match="holds an encoder, which has no heatmaps"):
        load_model(tmp_path / "model")
    export_checkpoint(tmp_path / "model", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(back) == list(trunk)
    assert all(torch.equal(back[n], t) for n, t in trunk.items())


def test_a_torchvision_resnet_is_an_encoder(tmp_path: Path) -> None:
    model = build_model("simplebaseline", 17, 1, (), depth=18)
    state = to_reference(model.architecture, model.state_dict())
    trunk = {name: t for name, t in state.items() if not name.startswith(("deconv_layers.", "final_layer."))}
    done = import_checkpoint(saved({**trunk, "fc.bias": torch.zeros(9)}, tmp_path), tmp_path / "model")
    assert (done.config.model.backbone, done.config.model.depth) == ("simplebaseline", 18)
    assert done.uninitialized == "the deconvolutions, the heatmap layer"
    assert len(read_weights(tmp_path / "model")) == len(trunk)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {**s, "neck.weight": torch.zeros(1)}, "has unknown neck.weight"),
        (lambda s: {n: t for n, t in s.items() if n != "bn1.bias"}, "lacks bn1.bias"),
        (lambda s: {**s, "conv1.weight": torch.zeros(8, 3, 5, 5)}, "conv1.weight [8, 3, 5, 5] instead of"),
        (lambda s: {"x": torch.zeros(1)}, "neither to HRNet nor to a ResNet: x"),
        (
            lambda s: {**s, **{n: t[:16] for n, t in s.items() if "final_layer" in n}},
            "heatmaps of 16 joints, and no skeleton has as many; known are coco17 (17), crowdpose14 (14)",
        ),
    ],
)
def test_other_networks_are_refused_with_what_does_not_fit(change, message: str, tmp_path: Path) -> None:
    file = saved(change(network()), tmp_path)
    with pytest.raises(UserError) as caught:
        import_checkpoint(file, tmp_path / "model")
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(file))
    assert not (tmp_path / "model").exists()


def test_the_skeleton_must_fit_the_heatmaps(tmp_path: Path) -> None:
    file = saved(network(), tmp_path)
    with pytest.raises(UserError, match="heatmaps of 17 joints, but crowdpose14 has 14"):
        import_checkpoint(file, tmp_path / "model", joints="crowdpose14")
    with pytest.raises(ConfigError, match="did you mean 'coco17'"):
        import_checkpoint(file, tmp_path / "model", joints="coco")


def test_a_crop_size_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"input\.width: 190"):
        import_checkpoint(saved(network(), tmp_path), tmp_path / "model", (190, 256))


@pytest.mark.parametrize(
    ("name", "alone"),
    [
        ("coco-hrnet-w48-384x288", False),
        ("crowdpose-hrnet-w32-256x192", True),
        ("coco-simplebaseline-r101-384x288", True),
        ("crowdpose-simplebaseline-r50-256x192", False),
    ],
)
def test_the_papers_networks_get_the_papers_preset(name: str, alone: bool) -> None:
    wanted = baseline(preset(name)) if alone else preset(name)
    with torch.device("meta"):
        architecture = dict(model_from_config(wanted).architecture or {})
    architecture |= {"deconvs": 3, "deconv_channels": 256}
    assert config_for(architecture, wanted.input.size, wanted.data.joints) == wanted


def test_a_network_of_another_size_gets_the_papers_recipe() -> None:
    wanted = preset("coco-hrnet-w32-256x192")
    model = replace(wanted.model, width=18, instances=3, mimb_stages=(4,), reduction=2)
    with torch.device("meta"):
        architecture = model_from_config(replace(wanted, model=model)).architecture or {}
    found = config_for(architecture, (96, 128), COCO17)
    assert found.model == model
    assert found.target.sigma == 1.0
    assert found.train == wanted.train


def test_a_head_that_cannot_be_configured() -> None:
    model = build_model("simplebaseline", depth=18, mimb_stages=(3,), deconvs=2, deconv_channels=64)
    with pytest.raises(UserError, match="2 deconvolutions of 64 channels"):
        config_for(model.architecture or {}, (192, 256), COCO17)


def test_export_refuses_damaged_folders_and_places(tmp_path: Path) -> None:
    import_checkpoint(saved(network(), tmp_path), tmp_path / "model")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        export_checkpoint(tmp_path / "model", tmp_path / "file" / "back.pth")
    with pytest.raises(UserError, match=r"no model\.json"):
        export_checkpoint(tmp_path, tmp_path / "back.pth")
    weights = tmp_path / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(UserError, match="not a readable safetensors file"):
        export_checkpoint(tmp_path / "model", tmp_path / "back.pth")
    assert not (tmp_path / "back.pth").exists()


def test_files_are_checkpoints_and_folders_are_not(tmp_path: Path) -> None:
    file = saved(network(), tmp_path)
    assert is_checkpoint(str(file))
    assert not is_checkpoint(str(tmp_path))
    assert not is_checkpoint("models:/mipnet@candidate")
    assert not is_checkpoint("s3://bucket/model")
