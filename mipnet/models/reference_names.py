"""Translate tensor names of the published MIPNet, HRNet, SimpleBaseline and ResNet code into ours, and back.

The network is inferred from names and shapes alone; the values stay as they are.
λ needs no translation: the published code calls the primary person λ = 1 and feeds [λ, 1 − λ], so its [1, 0]
is our one-hot of index 0. (Its networks for three or four people have the same input of width two and become
networks with two instances.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mipnet.errors import UserError, first_few
from mipnet.models.build import build_model
from mipnet.models.simplebaseline import RESNET_LAYERS
from mipnet.models.weights import HEAD_PREFIX, MAX_NAMES_IN_MESSAGE, check_state_dict

#: our name → the reference's, first match wins; the rest of a name stays as it is
_RENAMES: dict[str, list[tuple[str, str]]] = {
    "hrnet": [
        (r"backbone\.stages\.0\.", r""),
        (r"backbone\.stages\.1\.blocks\.", r"layer1."),
        # A new branch (number i behind stage i) is a list of convolutions there, though always of one.
        (r"backbone\.stages\.(\d+)\.transition\.\1\.", r"transition\1.\1.0."),
        (r"backbone\.stages\.(\d+)\.transition\.", r"transition\1."),
        (r"backbone\.stages\.(\d+)\.exchanges\.(\d+)\.branches\.", r"stage\1.\2.branches."),
        (r"backbone\.stages\.(\d+)\.exchanges\.(\d+)\.fusion\.", r"stage\1.\2.fuse_layers."),
        (r"backbone\.head\.", r"final_layer."),
        (r"mimbs\.(\d+)\.(\d+)\.excite\.", r"stage\1_se.se_layers.\2.fc."),
        (r"mimbs\.(\d+)\.(\d+)\.embed\.", r"stage\1_se.se_layers.\2.fc_lambda."),
    ],
    "simplebaseline": [
        (r"backbone\.stages\.0\.", r""),
        (r"backbone\.stages\.(\d+)\.", r"layer\1."),
        (r"backbone\.head\.deconvs\.", r"deconv_layers."),
        (r"backbone\.head\.final\.", r"final_layer."),
        (r"mimbs\.(\d+)\.(\d+)\.excite\.", r"layer\1_se.se_layers.\2.fc."),
        (r"mimbs\.(\d+)\.(\d+)\.embed\.", r"layer\1_se.se_layers.\2.fc_lambda."),
    ],
}


#: tensors of published classifiers that no pose network has, by backbone
_CLASSIFIER: dict[str, str] = {
    # two generations of classifiers
    "hrnet": r"incre_modules\.|downsamp_modules\.|final_layer\.\d|classifier\.|head\.|fc\.",
    "simplebaseline": r"fc\.",
}
_UNREAD_FUSION = r"{last}\.fuse_layers\.[1-9]"
"""Where the last exchange module fuses every branch; a pose network reads the highest resolution only."""


class RecognizedNetwork(NamedTuple):
    """A network of the reference implementation, under our names.

    Attributes:
        architecture: the arguments of ``build_model``.
        state: the state_dict of that model; without ``backbone.head.`` if it comes from a classifier.
        unused: the reference's names of tensors that the model does not have: a classifier's head.
    """

    architecture: dict[str, object]
    state: dict[str, Tensor]
    unused: list[str]


def from_reference(state: Mapping[str, Tensor], num_keypoints: int = 17) -> RecognizedNetwork:
    """Infer the architecture of a published network and rename its weights.

    Pose networks (MIPNet, HRNet, SimpleBaseline) have to match in every name. ImageNet classifiers (HRNet,
    torchvision's ResNet) and bare encoders give everything but the head. ``num_batches_tracked``, which old
    files lack and nothing reads, is 0 where it is missing.

    Args:
        state: the reference's state_dict.
        num_keypoints: K of a network without a head.

    Raises:
        UserError: not such a network, or names or shapes that do not fit the one recognised.
    """
    if others := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        what = f"this is not a state_dict: {first_few(others, MAX_NAMES_IN_MESSAGE)} is not a tensor"
        raise UserError(what, "pick the entry that is one")
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    architecture = _infer_architecture(shapes, num_keypoints)
    backbone = str(architecture["backbone"])
    with torch.device("meta"):
        expected = build_model(**architecture).state_dict()  # type: ignore[arg-type]
    names = {ours: _reference_name(backbone, ours) for ours in expected}
    last = [theirs for theirs in names.values() if ".fuse_layers." in theirs]
    surplus = _UNREAD_FUSION.format(last=last[-1].partition(".fuse")[0]) if last else "$^"
    if not any(theirs in state for ours, theirs in names.items() if ours.startswith(HEAD_PREFIX)):
        names = {ours: theirs for ours, theirs in names.items() if not ours.startswith(HEAD_PREFIX)}
        surplus += f"|{_CLASSIFIER[backbone]}"
    unused = [name for name in state if re.match(surplus, name)]
    counters = {name: torch.tensor(0) for name in names.values() if name.endswith("num_batches_tracked")}
    state = {**counters, **{name: state[name] for name in state.keys() - set(unused)}}
    wanted = {theirs: expected[ours] for ours, theirs in names.items()}
    check_state_dict(wanted, state, f"the state_dict of this {backbone}")
    whole = [n for n, t in wanted.items() if t.is_floating_point() and not state[n].is_floating_point()]
    if whole:
        what = f"these weights are whole numbers, as of a quantised network: {first_few(whole)}"
        raise UserError(what, "give those in floating point")
    return RecognizedNetwork(architecture, {ours: state[theirs] for ours, theirs in names.items()}, unused)


def to_reference(architecture: Mapping[str, object], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of ``from_reference``: our state_dict under the reference's names, in its order."""
    return {_reference_name(str(architecture["backbone"]), name): tensor for name, tensor in state.items()}


def _reference_name(backbone: str, name: str) -> str:
    for pattern, replacement in _RENAMES[backbone]:
        renamed, count = re.subn("^" + pattern, replacement, name)
        if count:
            return renamed
    raise UserError(f"{name!r} has no name in the reference code")


Shapes = Mapping[str, tuple[int, ...]]


def _infer_architecture(shapes: Shapes, num_keypoints: int) -> dict[str, object]:
    """The arguments of ``build_model``, from the indices in the names and from the shapes."""
    try:
        if "transition1.0.0.weight" in shapes:
            body = _infer_hrnet(shapes)
        elif "layer4.0.conv1.weight" in shapes:
            body = _infer_simplebaseline(shapes)
        else:
            names = first_few(list(shapes), MAX_NAMES_IN_MESSAGE)
            raise UserError(f"these weights belong neither to HRNet nor to a ResNet: {names}")
        joints = shapes.get("final_layer.weight", (num_keypoints,))[0]
        return {**body, "num_keypoints": joints, **_infer_mimbs(shapes)}
    except KeyError as error:
        raise UserError(f"these weights belong to no published network: they lack {error}") from error
    except (ValueError, IndexError) as error:
        raise UserError("these weights belong to no published network: their shapes are foreign") from error


def _infer_hrnet(shapes: Shapes) -> dict[str, object]:
    stages = _indices(r"stage(\d+)\.", shapes)
    return {
        "backbone": "hrnet",
        "width": shapes["stage2.0.branches.0.0.conv1.weight"][0],
        "num_modules": [len(_indices(rf"stage{i}\.(\d+)\.", shapes)) for i in stages],
        "blocks": len(_indices(r"stage2\.0\.branches\.0\.(\d+)\.", shapes)),
        "stem_channels": shapes["conv1.weight"][0],
        "stage1_blocks": len(_indices(r"layer1\.(\d+)\.", shapes)),
    }


def _infer_simplebaseline(shapes: Shapes) -> dict[str, object]:
    counts = tuple(len(_indices(rf"layer{i}\.(\d+)\.", shapes)) for i in range(1, 5))
    expansion = 4 if "layer1.0.conv3.weight" in shapes else 1
    deconvs = [s for name, s in shapes.items() if name.startswith("deconv_layers.") and len(s) == 4]
    for depth, (block, blocks) in RESNET_LAYERS.items():
        if (block.expansion, blocks) == (expansion, counts):
            count, channels = (len(deconvs), deconvs[0][1]) if deconvs else (3, 256)
            body = {"backbone": "simplebaseline", "depth": depth}
            return {**body, "deconvs": count, "deconv_channels": channels}
    raise UserError(f"no ResNet has layers of {counts} residual blocks")


def _infer_mimbs(shapes: Shapes) -> dict[str, object]:
    excite = re.compile(r"(?:stage|layer)(\d+)_se\.se_layers\.\d+\.fc\.0\.weight")
    found = [(int(m[1]), *shapes[name]) for name in shapes if (m := excite.fullmatch(name))]
    if not found:
        return {"instances": 1, "mimb_stages": [], "reduction": 4}
    embed = [shape for name, shape in shapes.items() if name.endswith("fc_lambda.0.weight")]
    # C // r = hidden leaves r open when C is no multiple of r; take the least that fits all blocks.
    fitting = [r for r in range(1, found[0][2] + 1) if all(c // r == hidden for _, hidden, c in found)]
    if not embed or not fitting:
        raise UserError("these weights have modulation blocks without an embedding, or of foreign shapes")
    stages = sorted({stage for stage, _, _ in found})
    return {"instances": embed[0][1], "mimb_stages": stages, "reduction": fitting[0]}


def _indices(pattern: str, names: Iterable[str]) -> list[int]:
    """The distinct numbers that the group of ``pattern`` matches at the start of names, sorted."""
    return sorted({int(m[1]) for name in names if (m := re.match(pattern, name))})
