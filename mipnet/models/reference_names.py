"""Weights under the names of the published MIPNet, HRNet and SimpleBaseline code, and under ours.

Names and shapes alone tell which network a ``state_dict`` belongs to; the values are carried over untouched.
Instances need no translation: the published code calls the primary person λ = 1 and feeds [λ, 1 − λ], so its
[1, 0] is our one-hot of index 0. (Its networks trained for three or four people still have this two-wide
input and arrive here with two instances.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from mipnet.errors import UserError
from mipnet.models.build import build_model
from mipnet.models.simplebaseline import RESNETS
from mipnet.models.weights import check_fit

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


def from_reference(state: Mapping[str, Tensor]) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Recognise a published network and rename its weights.

    The ``module.`` that data-parallel wrappers put before every name is dropped, and batch counters
    (``num_batches_tracked``), which old files lack and nothing here reads, are made up as 0 where missing.

    Args:
        state: the reference's state_dict.

    Returns:
        The arguments of ``build_model`` and the state_dict of that model.

    Raises:
        UserError: not such a network, or names or shapes that do not fit the one recognised.
    """
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError("this is not a state_dict: some values are not tensors", "pick the entry that is")
    architecture = _recognise({name: tuple(tensor.shape) for name, tensor in state.items()})
    with torch.device("meta"):
        expected = build_model(**architecture).state_dict()  # type: ignore[arg-type]
    names = {ours: _reference_name(str(architecture["backbone"]), ours) for ours in expected}
    counters = {
        theirs: torch.tensor(0) for theirs in names.values() if theirs.endswith("num_batches_tracked")
    }
    state = {**counters, **state}
    check_fit(
        {names[ours]: t for ours, t in expected.items()}, state, f"this {architecture['backbone']} network"
    )
    return architecture, {ours: state[theirs] for ours, theirs in names.items()}


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


def _recognise(shapes: Shapes) -> dict[str, object]:
    """The arguments of ``build_model``, from what the names count and the shapes say."""
    try:
        joints, features = shapes["final_layer.weight"][:2]
        if "transition1.0.0.weight" in shapes:
            body = _recognise_hrnet(shapes, features)
        elif "deconv_layers.0.weight" in shapes:
            body = _recognise_simplebaseline(shapes, features)
        else:
            raise UserError("these weights belong neither to HRNet nor to SimpleBaseline")
        return {**body, "num_joints": joints, **_recognise_mimbs(shapes)}
    except KeyError as error:
        raise UserError(f"these weights belong to no published pose network: they lack {error}") from error
    except (ValueError, IndexError) as error:
        raise UserError(
            "these weights belong to no published pose network: their shapes are foreign"
        ) from error


def _recognise_hrnet(shapes: Shapes, features: int) -> dict[str, object]:
    stages = _indices(r"stage(\d+)\.", shapes)
    return {
        "backbone": "hrnet",
        "width": features,
        "modules": [len(_indices(rf"stage{i}\.(\d+)\.", shapes)) for i in stages],
        "blocks": len(_indices(r"stage2\.0\.branches\.0\.(\d+)\.", shapes)),
        "stem_channels": shapes["conv1.weight"][0],
        "stage1_blocks": len(_indices(r"layer1\.(\d+)\.", shapes)),
    }


def _recognise_simplebaseline(shapes: Shapes, features: int) -> dict[str, object]:
    counts = tuple(len(_indices(rf"layer{i}\.(\d+)\.", shapes)) for i in range(1, 5))
    expansion = 4 if "layer1.0.conv3.weight" in shapes else 1
    for depth, (block, blocks) in RESNETS.items():
        if (block.expansion, blocks) == (expansion, counts):
            deconvs = sum(name.startswith("deconv_layers.") and len(s) == 4 for name, s in shapes.items())
            return {
                "backbone": "simplebaseline",
                "depth": depth,
                "deconvs": deconvs,
                "deconv_channels": features,
            }
    raise UserError(f"no ResNet has layers of {counts} residual blocks")


def _recognise_mimbs(shapes: Shapes) -> dict[str, object]:
    excite = re.compile(r"(?:stage|layer)(\d+)_se\.se_layers\.\d+\.fc\.0\.weight")
    found = [(int(m[1]), *shapes[name]) for name in shapes if (m := excite.fullmatch(name))]
    if not found:
        return {"instances": 1, "places": [], "reduction": 4}
    embed = [shape for name, shape in shapes.items() if name.endswith("fc_lambda.0.weight")]
    # C // r = hidden leaves r open when C is no multiple of r; take the least that fits all blocks.
    fitting = [r for r in range(1, found[0][2] + 1) if all(c // r == hidden for _, hidden, c in found)]
    if not embed or not fitting:
        raise UserError("these weights have modulation blocks without an embedding, or of foreign shapes")
    return {
        "instances": embed[0][1],
        "places": sorted({place for place, _, _ in found}),
        "reduction": fitting[0],
    }


def _indices(pattern: str, names: Iterable[str]) -> list[int]:
    """The different numbers that ``pattern``'s group takes at the start of the names, sorted."""
    return sorted({int(m[1]) for name in names if (m := re.match(pattern, name))})
