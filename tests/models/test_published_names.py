"""Checkpoints of other projects: the network in them is found, or the file is named in one line."""

from __future__ import annotations

import argparse
import io
import pickle
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mipnet.errors import UserError
from mipnet.models.build import build_model
from mipnet.models.published_names import find_network
from mipnet.models.reference_checkpoints import ImportedCheckpoint, import_checkpoint
from mipnet.models.reference_names import from_reference, to_reference
from mipnet.models.torch_checkpoints import read_checkpoint
from mipnet.models.weights import load_model
from tests.helpers.networks import HRNET

State = dict[str, Tensor]
MEAN, STD = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])


def network(instances: int = 1, seed: int = 0) -> State:
    """A random small network under the reference's names."""
    torch.manual_seed(seed)
    model = build_model("hrnet", 17, instances, (2,) if instances > 1 else (), **HRNET)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running" in name:
                tensor.uniform_(0.5, 1.5)
    return to_reference(model.architecture, model.state_dict())


STATE, OTHER = network(), network(seed=1)
PLAIN = from_reference(STATE).state
"""Under our names."""


def prefixed(before: str, state: State) -> State:
    return {before + name: tensor for name, tensor in state.items()}


def mmpose(state: State, head: str = "keypoint_head.", backbone: str = "backbone.") -> State:
    heads = ("final_layer.", "deconv_layers.")
    return {(head if name.startswith(heads) else backbone) + name: t for name, t in state.items()}


def ours() -> State:
    return {name: tensor.clone() for name, tensor in PLAIN.items()}


class HistoryBuffer:
    """Stands for mmengine's, whose pickle calls getattr."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
LIGHTNING = {
    "epoch": 3,
    "pytorch-lightning_version": "2.4.0",
    "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.7), "path": Path("x")}},
    "optimizer_states": [OPTIMIZER],
    "hyper_parameters": argparse.Namespace(lr=0.1),
}
CONVENTIONS: dict[str, tuple[Any, str]] = {
    "mmpose 0.x": ({"meta": {"epoch": 210}, "state_dict": mmpose(STATE), "optimizer": OPTIMIZER}, ""),
    "mmpose 1.x": (
        {"meta": {}, "state_dict": {**mmpose(STATE, "head."), "data_preprocessor.mean": MEAN[:, None, None]}},
        "",
    ),
    "mmpose trained in BGR": (
        {"state_dict": {**mmpose(STATE, "head."), "data_preprocessor.mean": MEAN.flip(0)}},
        "trained on pixels of mean 103.53, 116.28, 123.675",
    ),
    "mmengine with EMA and its objects": (
        {
            "meta": {"mmengine_version": "0.10.4"},
            "state_dict": mmpose(STATE, "head."),
            "ema_state_dict": {"steps": torch.tensor(9), **prefixed("module.", mmpose(OTHER, "head."))},
            "message_hub": {"log_scalars": defaultdict(dict, {"loss": HistoryBuffer()})},
        },
        "weights of 'state_dict' are used, not those of 'ema_state_dict'",
    ),
    "mmcv with copies of the EMA hook": (
        {
            "state_dict": {
                **mmpose(STATE),
                **{f"ema_{name.replace('.', '_')}": t for name, t in mmpose(OTHER).items()},
            }
        },
        "a moving average of the weights is not used",
    ),
    "Lightning": ({**LIGHTNING, "state_dict": prefixed("model.", STATE)}, ""),
    "Lightning with a loss and a metric": (
        {
            "state_dict": {
                **prefixed("net.", STATE),
                "criterion.weight": torch.ones(17),
                "val_oks.sum": torch.ones(1),
                "perceptual.features.0.weight": torch.ones(1),
            }
        },
        "",
    ),
    "Lightning, compiled, on mmpose's network": (
        {**LIGHTNING, "state_dict": prefixed("model._orig_mod.", mmpose(STATE))},
        "",
    ),
    "compiled in data-parallel": (prefixed("module._orig_mod.", STATE), ""),
    "only the backbone wrapped": (mmpose(STATE, backbone="backbone.module."), ""),
    "module. on every second name": (
        {("module." if i % 2 else "") + name: t for i, (name, t) in enumerate(STATE.items())},
        "",
    ),
    "EMA beside": (
        {"state_dict": OTHER, "state_dict_ema": prefixed("module.", STATE)},
        "weights of 'state_dict_ema' are used, not those of 'state_dict'",
    ),
    "EMA in the same state_dict": (
        {"state_dict": {**prefixed("model.", OTHER), **prefixed("ema_model.module.", STATE)}},
        "the moving average is used",
    ),
    "EMA of mmpose's network in the same state_dict": (
        {**mmpose(OTHER), **mmpose(STATE, "ema_keypoint_head.", "ema_backbone.")},
        "the moving average is used",
    ),
    "EMA of the parameters alone": (
        {"model": STATE, "model_ema": {n: t for n, t in OTHER.items() if "running" not in n}},
        "weights of 'model' are used, not those of 'model_ema'",
    ),
    "EMA of the parameters alone, in the same state_dict": (
        {
            **prefixed("model.", STATE),
            **{f"ema_model.{n}": t for n, t in OTHER.items() if "running" not in n},
        },
        "a moving average of the weights is not used",
    ),
    "torch's AveragedModel": ({"n_averaged": torch.tensor(3), **prefixed("module.", STATE)}, ""),
    "under model, with the optimizer": (
        {"model": STATE, "optimizer": OPTIMIZER, "best": np.float64(0.7)},
        "",
    ),
    "under a key of its own": ({"pose_net": {"params": STATE}, "optimizer": OPTIMIZER}, ""),
    "without counters": ({n: t for n, t in STATE.items() if "num_batches" not in n}, ""),
    "all branches fused at the end": (
        {**mmpose(STATE), "backbone.stage2.0.fuse_layers.1.0.0.0.weight": torch.zeros(16, 8, 3, 3)},
        "",
    ),
    "our names": (ours(), ""),
    "our names in Lightning, compiled": ({"state_dict": prefixed("model._orig_mod.", ours())}, ""),
}


def saved(content: Any, folder: Path) -> Path:
    torch.save(content, folder / "weights.pth")
    return folder / "weights.pth"


def heatmaps(done: ImportedCheckpoint) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        found: Tensor = load_model(done.folder)[0](torch.rand(2, 3, 48, 32, generator=generator))
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    folder = tmp_path_factory.mktemp("plain")
    return heatmaps(import_checkpoint(saved(STATE, folder), folder / "model"))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_network_is_found(convention: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, note = CONVENTIONS[convention]
    monkeypatch.chdir(tmp_path)
    read = read_checkpoint(saved(content, tmp_path))
    found = find_network(read.state)
    again = from_reference(found.state).state
    assert list(again) == list(PLAIN)
    assert all(
        torch.equal(tensor, PLAIN[name]) for name, tensor in again.items() if "num_batches" not in name
    )
    notes = read.notes + found.notes
    assert (len(notes) == 1 and note in notes[0]) if note else notes == []
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("convention", ["mmpose 1.x", "Lightning, compiled, on mmpose's network"])
def test_the_network_computes_the_same(convention: str, expected: Tensor, tmp_path: Path) -> None:
    done = import_checkpoint(saved(CONVENTIONS[convention][0], tmp_path), tmp_path / "model")
    assert torch.equal(heatmaps(done), expected)
    assert done.uninitialized == ""


@pytest.mark.parametrize(
    ("dtype", "format"),
    [(torch.float16, "torch"), (torch.bfloat16, "safetensors"), (torch.float64, "torch")],
)
def test_other_precisions_and_safetensors(dtype: torch.dtype, format: str, tmp_path: Path) -> None:
    rounded = {n: t.to(dtype) if t.is_floating_point() else t for n, t in mmpose(STATE).items()}
    file = tmp_path / "weights.x"
    save_file(rounded, file) if format == "safetensors" else torch.save(rounded, file)
    done = import_checkpoint(file, tmp_path / "model")
    plain = {n: t.to(dtype).float() if t.is_floating_point() else t for n, t in STATE.items()}
    assert torch.equal(
        heatmaps(done), heatmaps(import_checkpoint(saved(plain, tmp_path), tmp_path / "plain"))
    )
    assert done.notes == (f"weights are stored as {str(dtype)[6:]}; they are used as float32",)


def test_a_mipnet_of_another_project(tmp_path: Path) -> None:
    state = network(instances=2)
    done = import_checkpoint(saved({"state_dict": prefixed("model.", state)}, tmp_path), tmp_path / "model")
    plain = import_checkpoint(saved(state, tmp_path), tmp_path / "plain")
    assert done.architecture == plain.architecture
    assert done.architecture["instances"] == 2
    assert torch.equal(heatmaps(done), heatmaps(plain))


@pytest.mark.parametrize("head", ["keypoint_head.", "head."])
def test_simplebaseline_of_mmpose(head: str) -> None:
    with torch.device("meta"):
        model = build_model("simplebaseline", 17, 1, (), depth=50)
    state = to_reference(model.architecture, model.state_dict())
    found = find_network(mmpose(state, head))
    assert {name: id(t) for name, t in found.state.items()} == {name: id(t) for name, t in state.items()}
    assert (found.unused, found.notes) == ([], [])


@pytest.mark.parametrize("extra", ["head.fc.weight", "neck.increase_layers.0.weight", "fc.bias"])
def test_a_classifier_gives_its_encoder(extra: str, tmp_path: Path) -> None:
    trunk = {name: t for name, t in STATE.items() if not name.startswith("final_layer.")}
    file = saved({**prefixed("backbone.", trunk), extra: torch.zeros(3, 4)}, tmp_path)
    done = import_checkpoint(file, tmp_path / "model")
    assert done.uninitialized == "the heatmap layer"
    assert done.unused == [extra]


def archive(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name in names:
            file.writestr(name, "")
    return content.getvalue()


def tensors(*names: str) -> State:
    return {name: torch.zeros(2) for name in names}


class PoseModel:
    __module__ = "ultralytics.nn.tasks"


def pickled(kind: type, monkeypatch: pytest.MonkeyPatch) -> Any:
    import sys
    import types

    for name in ("ultralytics", "ultralytics.nn", "ultralytics.nn.tasks"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["ultralytics.nn.tasks"], "PoseModel", kind, raising=False)
    kind.__qualname__ = "PoseModel"
    return kind()


VIT = tensors("backbone.patch_embed.proj.weight", "backbone.blocks.0.attn.qkv.weight")
ENDLESS: dict[str, Any] = {"state_dict": {}}
ENDLESS["state_dict"]["model"] = ENDLESS
FOREIGN: dict[str, tuple[Any, str]] = {
    "a mapping in itself": (ENDLESS, "holds no state_dict but"),
    "ViTPose": ({"state_dict": VIT}, "ViTPose or another ViT, which is not supported yet"),
    "ViT, compiled, in Lightning": (prefixed("model._orig_mod.", VIT), "ViTPose or another ViT"),
    "YOLO's state_dict": (tensors("model.0.conv.weight", "model.22.cv2.0.0.conv.weight"), "Ultralytics"),
    "torchvision's detector": (
        {**prefixed("backbone.body.", STATE), "roi_heads.box_head.fc6.weight": torch.zeros(1)},
        "this is a detector",
    ),
    "mmdet's detector": ({"state_dict": {**mmpose(STATE), **tensors("rpn_head.x.weight")}}, "a detector"),
    "RTMPose": (tensors("backbone.stem.0.conv.weight", "head.gau.uv.weight"), "SimCC head"),
    "HigherHRNet": ({**STATE, **tensors("final_layers.0.weight")}, "a bottom-up network"),
    "SimCC on HRNet": ({**mmpose(STATE, "head."), **tensors("head.cls_x.weight")}, "SimCC head"),
    "two networks": ({**prefixed("a.", STATE), **prefixed("b.", OTHER)}, "has 2 networks: a, b"),
    "a name twice": (
        {**STATE, "module.conv1.weight": STATE["conv1.weight"] + 1},
        "two tensors are called conv1.weight and differ",
    ),
    "more than a network": (
        {**mmpose(STATE), **tensors("neck.0.weight")},
        "has more than a pose network: neck.0.weight",
    ),
    "quantised": (
        {n: (t * 9).to(torch.int8) if t.is_floating_point() else t for n, t in STATE.items()},
        "whole numbers, as of a quantised network",
    ),
    "an optimizer state": (OPTIMIZER, "an optimizer state, without weights"),
    "an optimizer state with its epoch": ({"optimizer": OPTIMIZER, "epoch": 3}, "an optimizer state"),
    "sparse": ({"a": torch.zeros(2, 2).to_sparse()}, "quantised, sparse or empty: a"),
    "meta": ({"a": torch.zeros(2, device="meta")}, "quantised, sparse or empty: a"),
    "NumPy arrays": ({"model": {"a": np.zeros(2)}}, "NumPy arrays as pickled objects"),
    "TorchScript": (archive("m/constants.pkl", "m/data.pkl", "m/code/x.py"), "a TorchScript archive"),
    "npz": (archive("a.npy"), "an archive of NumPy arrays"),
    "a ZIP archive": (archive("readme.txt"), "a ZIP archive"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x1a\x032.4", "an ONNX file"),
    "Keras": (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras)"),
    "TensorFlow Lite": (b"\x1c\x00\x00\x00TFL3", "a TensorFlow Lite model"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "gzip": (b"\x1f\x8b\x08\x00", "a gzip archive"),
    "safetensors, cut off": (b"\x10\x00\x00\x00\x00\x00\x00\x00{" + b" " * 20, "no whole safetensors file"),
    "YOLO, pickled plainly": (b"\x80\x04\x8c\x14ultralytics.nn.tasks\x8c\tPoseModel\x93.", "Ultralytics"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_such_network_is_named_in_one_line(kind: str, tmp_path: Path) -> None:
    content, message = FOREIGN[kind]
    file = tmp_path / "weights.pth"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(UserError) as caught:
        import_checkpoint(file, tmp_path / "model")
    said = str(caught.value)
    assert message in said
    assert said.startswith(str(file))
    assert len(said.splitlines()) == 1
    assert len(said) < 400 + len(str(file))
    assert not (tmp_path / "model").exists()


def test_a_detector_of_ultralytics_as_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved({"model": pickled(PoseModel, monkeypatch), "epoch": -1, "train_args": {}}, tmp_path)
    with pytest.raises(UserError, match=r"a network of Ultralytics \(YOLO\) as pickled objects \(ultraly"):
        import_checkpoint(file, tmp_path / "model")
    file.write_bytes(pickle.dumps({"model": PoseModel()}))
    with pytest.raises(UserError, match="Ultralytics"):
        import_checkpoint(file, tmp_path / "model")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda: {"state_dict": STATE, "hook": HistoryBuffer()},
        lambda: {
            "state_dict": STATE,
            "nested": [{"deep": (HistoryBuffer(), argparse.Namespace(a=Path("x")))}],
        },
    ],
)
@pytest.mark.parametrize("new_format", [True, False])
def test_objects_beside_the_weights_are_neither_made_nor_called(
    wrap: Callable[[], Any],
    new_format: bool,
    expected: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(wrap(), "x.pth", _use_new_zipfile_serialization=new_format)
    assert torch.equal(heatmaps(import_checkpoint("x.pth", tmp_path / "model")), expected)
    assert not (tmp_path / "executed").exists()
