from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mipnet.errors import UserError
from mipnet.models.build import build_model
from mipnet.models.reference_names import from_reference, to_reference

W32 = {"width": 32, "num_modules": [1, 4, 3], "blocks": 4, "stem_channels": 64, "stage1_blocks": 4}
W48 = {**W32, "width": 48}
TINY = {"width": 8, "num_modules": [1, 2], "blocks": 1, "stem_channels": 12, "stage1_blocks": 2}
R50 = {"depth": 50, "deconvs": 3, "deconv_channels": 256}


def _architecture(
    backbone: str,
    mimb_stages: list[int],
    joints: int = 17,
    instances: int = 2,
    reduction: int = 4,
    **body: object,
) -> dict[str, object]:
    instances = instances if mimb_stages else 1
    shape = {
        "num_keypoints": joints,
        "instances": instances,
        "mimb_stages": mimb_stages,
        "reduction": reduction,
    }
    return {"backbone": backbone, **shape, **body}


@pytest.mark.parametrize(
    "architecture",
    [
        _architecture("hrnet", [], **W32),
        _architecture("hrnet", [3, 4], **W48),
        _architecture("hrnet", [1, 2, 3, 4], joints=14, **W32),
        _architecture("hrnet", [4], instances=3, reduction=1, **W32),
        _architecture("hrnet", [1, 3], reduction=3, **TINY),
        _architecture("hrnet", [2], instances=1, **TINY),
        _architecture("simplebaseline", [], joints=14, **R50),
        _architecture("simplebaseline", [1, 2, 3, 4], reduction=2, **R50),
        _architecture("simplebaseline", [3, 4], **{**R50, "depth": 101}),
        _architecture("simplebaseline", [3, 4], **{**R50, "depth": 152}),
        _architecture("simplebaseline", [2], depth=18, deconvs=2, deconv_channels=32),
        _architecture("simplebaseline", [2], depth=34, deconvs=1, deconv_channels=64),
    ],
    ids=lambda a: "-".join(str(v) for v in a.values()),
)
def test_names_and_shapes_tell_the_architecture(architecture: dict[str, object]) -> None:
    with torch.device("meta"):
        state = build_model(**architecture).state_dict()  # type: ignore[arg-type]
    reference = to_reference(architecture, state)
    assert len(reference) == len(state)
    found, back, unused = from_reference(reference)
    assert found == architecture
    assert unused == []
    assert list(back) == list(state)
    assert all(back[name] is tensor for name, tensor in state.items())


def _reference() -> dict[str, Tensor]:
    architecture = _architecture("hrnet", [2, 3], **TINY)
    return to_reference(architecture, build_model(**architecture).state_dict())  # type: ignore[arg-type]


def test_some_names_spelled_out() -> None:
    names = set(_reference())
    assert names >= {
        "conv1.weight",
        "layer1.0.downsample.0.weight",
        "transition1.0.0.weight",
        "transition1.1.0.0.weight",
        "transition2.2.0.1.running_var",
        "stage3.1.fuse_layers.0.2.0.weight",
        "stage3.0.fuse_layers.2.0.1.0.weight",
        "stage2_se.se_layers.2.fc.2.weight",
        "stage3_se.se_layers.0.fc_lambda.1.num_batches_tracked",
        "final_layer.bias",
    }
    assert "stage3.1.fuse_layers.1.0.0.0.weight" not in names  # the last module has one output


def test_old_files_without_counters() -> None:
    reference = _reference()
    old = {n: t for n, t in reference.items() if not n.endswith("num_batches_tracked")}
    architecture, state, _ = from_reference(old)
    again = to_reference(architecture, state)
    assert list(again) == list(reference)
    assert all(torch.equal(again[n], t) for n, t in reference.items())


def test_unmatched_names_are_listed() -> None:
    reference = _reference()
    reference["stage3.0.extra.weight"] = torch.zeros(1)
    reference["classifier.bias"] = torch.zeros(1)
    del reference["stage2.0.branches.1.0.conv2.weight"]
    with pytest.raises(UserError) as error:
        from_reference(reference)
    for name in ("stage3.0.extra.weight", "classifier.bias", "stage2.0.branches.1.0.conv2.weight"):
        assert name in str(error.value)


def test_wrong_shapes_are_listed() -> None:
    reference = _reference()
    reference["layer1.0.conv2.weight"] = torch.zeros(12, 12, 1, 1)
    with pytest.raises(UserError, match=r"\[12, 12, 1, 1\] instead of \[12, 12, 3, 3\]"):
        from_reference(reference)


@pytest.mark.parametrize(
    "broken",
    [
        lambda r: {},
        lambda r: {"epoch": 3, "state_dict": r},
        lambda r: {"final_layer.weight": r["final_layer.weight"]},
        lambda r: {n: t for n, t in r.items() if n != "conv1.weight"},
        lambda r: {n: t for n, t in r.items() if "fc_lambda" not in n},
        lambda r: {n: t for n, t in r.items() if ".fc." not in n},
        lambda r: {n: t for n, t in r.items() if not n.startswith("stage2.")},
        lambda r: {**r, "stage3_se.se_layers.0.fc.0.weight": torch.zeros(9, 8)},
        lambda r: {**r, "final_layer.weight": torch.zeros(3)},
    ],
)
def test_foreign_weights_are_refused(broken) -> None:
    with pytest.raises(UserError):
        from_reference(broken(_reference()))


def _bottleneck(prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}.conv1.weight": torch.zeros(8, 8, 1, 1), f"{prefix}.bn1.weight": torch.zeros(8)}


def _classifier(backbone: str) -> dict[str, Tensor]:
    """What ImageNet classifiers have instead of heatmaps: HRNet's of two generations, and ResNet's."""
    if backbone == "resnet":
        return {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    fusion = {"stage3.1.fuse_layers.1.0.0.0.weight": torch.zeros(16, 8, 3, 3)}
    if backbone == "early hrnet":
        return {**fusion, **_bottleneck("head.0.0.0"), "fc.weight": torch.zeros(1000, 2048)}
    return {
        **fusion,
        **_bottleneck("incre_modules.0.0"),
        "downsamp_modules.0.0.weight": torch.zeros(16, 8, 3, 3),
        "final_layer.0.weight": torch.zeros(2048, 1024, 1, 1),
        "final_layer.1.running_mean": torch.zeros(2048),
        "classifier.weight": torch.zeros(1000, 2048),
    }


@pytest.mark.parametrize("kind", ["hrnet", "early hrnet", "resnet", "bare resnet"])
def test_classifiers_give_their_encoder(kind: str) -> None:
    body = (
        _architecture("hrnet", [], **TINY) if "hrnet" in kind else _architecture("simplebaseline", [], **R50)
    )
    with torch.device("meta"):
        expected = build_model(**body).state_dict()  # type: ignore[arg-type]
    names = to_reference(body, expected)
    pose = ("final_layer.", "deconv_layers.")
    trunk = {name: torch.rand(t.shape) for name, t in names.items() if not name.startswith(pose)}
    classifier = {} if "bare" in kind else _classifier(kind)
    architecture, state, unused = from_reference({**trunk, **classifier})
    assert architecture == body
    assert unused == list(classifier)
    assert list(state) == [name for name in expected if not name.startswith("backbone.head.")]
    assert all(back is trunk[name] for name, back in to_reference(body, state).items())
    assert from_reference(trunk, 14).architecture["num_keypoints"] == 14

    del trunk["conv1.weight"]
    with pytest.raises(UserError, match="lack"):
        from_reference({**trunk, **classifier})


def test_an_encoder_with_something_else_is_refused_with_its_name() -> None:
    trunk = {name: t for name, t in _reference().items() if not name.startswith("final_layer.")}
    assert from_reference(trunk).unused == []
    with pytest.raises(UserError, match=r"has unknown decoder\.weight"):
        from_reference({**trunk, "decoder.weight": torch.zeros(1)})


def test_half_a_head_is_no_encoder() -> None:
    half = {name: t for name, t in _reference().items() if name != "final_layer.bias"}
    with pytest.raises(UserError, match=r"lacks final_layer\.bias"):
        from_reference(half)


def test_weights_of_neither_network_are_listed() -> None:
    with pytest.raises(UserError, match=r"neither to HRNet nor to a ResNet: features\.0\.weight, x"):
        from_reference({"features.0.weight": torch.zeros(3, 3), "x": torch.zeros(1)})
