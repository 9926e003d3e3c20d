"""Find a network among the tensors of a file, whatever other projects put in front of its names.

mmpose writes ``backbone.`` and ``keypoint_head.`` or ``head.``, Lightning ``model.``, wrappers of PyTorch
``module.`` and ``_orig_mod.``, in any order. So the network is found by a tensor that only it has; what
precedes the name of that tensor precedes those of all the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mipnet.errors import UserError, first_few
from mipnet.models.foreign_checkpoints import SUPPORTED, network_kind
from mipnet.models.normalization import IMAGENET_MEAN, IMAGENET_STD
from mipnet.models.reference_names import to_reference
from mipnet.models.weights import MAX_NAMES_IN_MESSAGE

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of names that PyTorch's wrappers put anywhere: they say nothing."""
_OURS = "backbone.stages.0.conv1.weight"
_LANDMARKS = ("transition1.0.0.weight", "layer4.0.conv1.weight", _OURS)
"""A tensor of every HRNet, of every ResNet, and of both under our names."""
_BODIES = ("backbone", "encoder", "trunk", "body")
_AVERAGES = {"ema", "swa", "averaged"}
_BESIDE = re.compile(
    r"(^|\.)(data_preprocessor|criterion|(\w+_)?loss(_fn)?|(\w+_)?metrics?|n_averaged|steps"
    r"|(pixel_)?mean|(pixel_)?std)(\.|$)"
)
"""Tensors of losses, metrics, averages and preprocessing, which are not the network's."""
_CLASSIFIER = re.compile(r"((cls_)?head|fc|classifier|neck)\.")


class FoundNetwork(NamedTuple):
    """The tensors of a network under the reference's names.

    Attributes:
        state: name → tensor.
        unused: full names of tensors that belong to something else.
        notes: what was decided, one line each.
    """

    state: dict[str, Tensor]
    unused: list[str]
    notes: list[str]


def find_network(state: Mapping[str, Tensor]) -> FoundNetwork:
    """The network in a state_dict, without prefixes, copies and what training scripts keep beside it.

    Of a network and its moving average in one state_dict the average is taken, if it is whole. A state_dict
    without any landmark comes back as it is: ``from_reference`` says what is missing.

    Raises:
        UserError: a network that is not supported, two networks, or tensors that nothing explains.
    """
    state = _without_wrappers(state)
    notes = _preprocessing_notes(state)
    unused = [name for name in state if _BESIDE.search(name)]
    state = {name: tensor for name, tensor in state.items() if not _BESIDE.search(name)}
    trunks = [n.removesuffix(mark) for n in state for mark in _LANDMARKS if _ends_with(n, mark)]
    trunk = _one_of(trunks, "networks", state)
    outer = re.sub(rf"(^|\.)((\w+_)?({'|'.join(_BODIES)})\.)+$", r"\1", trunk or "")
    if kind := network_kind(name for name in state if name.startswith(outer)):
        raise UserError(f"this is {kind}, which is not supported yet", SUPPORTED)
    if trunk is None:
        return FoundNetwork(dict(state), unused, notes)
    averaged = _is_average(trunk)
    copies = [name for name in state if _is_average(name) != averaged]
    if copies:
        which = ("the moving average is used, the last weights are", "a moving average of the weights is")
        notes.append(f"{which[not averaged]} not used ({len(copies)} tensors such as {copies[0]})")
    state = {name: tensor for name, tensor in state.items() if _is_average(name) == averaged}
    if f"{trunk}{_OURS}" in state:
        return FoundNetwork(_from_our_names(state, trunk, unused), unused, notes)
    found, others = _reference_part(state, trunk)
    with_head = any(name.startswith("final_layer.") for name in found)
    for name in others:
        if name.startswith(outer) and (with_head or not _CLASSIFIER.match(name.removeprefix(outer))):
            what = f"has more than a pose network: {first_few(others, MAX_NAMES_IN_MESSAGE)}"
            raise UserError(f"this state_dict {what}", SUPPORTED)
    return FoundNetwork(found, unused + others, notes)


def _without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    short: dict[str, Tensor] = {}
    for name, tensor in state.items():
        bare = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if bare in short and not (short[bare].dtype == tensor.dtype and torch.equal(short[bare], tensor)):
            raise UserError(
                f"two tensors are called {bare} and differ", "save the network's state_dict alone"
            )
        short[bare] = tensor
    return short


def _reference_part(state: Mapping[str, Tensor], trunk: str) -> tuple[dict[str, Tensor], list[str]]:
    """The trunk and its head, wherever that is, without prefixes; names of the other tensors."""
    found = {name.removeprefix(trunk): t for name, t in state.items() if name.startswith(trunk)}
    others = [name for name in state if not name.startswith(trunk)]
    heads = [n.removesuffix("final_layer.weight") for n in others if _ends_with(n, "final_layer.weight")]
    head = None if "final_layer.weight" in found else _one_of(heads, "heads", state)
    if head is not None:
        layers = (f"{head}final_layer.", f"{head}deconv_layers.")
        found |= {name.removeprefix(head): state[name] for name in others if name.startswith(layers)}
        others = [name for name in others if not name.startswith(layers)]
    return found, others


def _from_our_names(state: Mapping[str, Tensor], trunk: str, unused: list[str]) -> dict[str, Tensor]:
    """The reference's names of a ``MIPNet``; appends what else there is to ``unused``."""
    unused += [name for name in state if not name.startswith(trunk)]
    ours = {name.removeprefix(trunk): t for name, t in state.items() if name.startswith(trunk)}
    backbone = "hrnet" if any(".exchanges." in name for name in ours) else "simplebaseline"
    return to_reference({"backbone": backbone}, ours)


def _one_of(prefixes: list[str], what: str, names: Iterable[str]) -> str | None:
    """The only prefix, or of two the moving average's, if it is whole; None if there is none."""
    last, averaged = (tuple(p for p in prefixes if _is_average(p) == kind) for kind in (False, True))
    if len(last) == len(averaged) == 1:
        known = [name for name in names if not name.endswith("num_batches_tracked")]
        whole = sum(n.startswith(last) for n in known if not _is_average(n))
        return (last if sum(n.startswith(averaged) for n in known) < whole else averaged)[0]
    if len(prefixes) > 1:
        names = first_few([prefix.rstrip(".") or "without prefix" for prefix in prefixes])
        raise UserError(f"this state_dict has {len(prefixes)} {what}: {names}", "save that of one of them")
    return prefixes[0] if prefixes else None


def _is_average(name: str) -> bool:
    """Whether a part of a name says that it is of a moving average: ``ema_model.``, ``ema_conv1``."""
    return any(_AVERAGES & set(part.split("_")) for part in name.split("."))


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _preprocessing_notes(state: Mapping[str, Tensor]) -> list[str]:
    """A line for each mean or standard deviation of the pixels that differs from ours."""
    notes = []
    for kind, ours in {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}.items():
        for name, tensor in state.items():
            if name.rpartition(".")[2] not in (kind, f"pixel_{kind}") or tensor.numel() != 3:
                continue
            theirs = tensor.flatten().double()
            wanted = torch.tensor(ours).double() * (255 if theirs.max() > 1 else 1)
            if not torch.allclose(theirs, wanted, rtol=0.02):
                shown = ", ".join(f"{value:g}" for value in theirs.tolist())
                notes.append(f"trained on pixels of {kind} {shown}, not on ImageNet's, which is used here")
    return notes
