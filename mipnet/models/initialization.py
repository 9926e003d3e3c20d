"""Warm start from a model folder: of a single-instance network, an encoder, or another skeleton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mipnet.config.skeleton_files import skeleton_of
from mipnet.errors import ConfigError, UserError
from mipnet.models import weights
from mipnet.models.network import MIPNet
from mipnet.models.weights import HEAD_PREFIX, HEATMAP_LAYER_TENSORS, warm_start
from mipnet.skeletons import Skeleton

#: arguments of ``build_model`` that may differ between a network and its source
_MAY_DIFFER = ("num_keypoints", "instances", "mimb_stages", "reduction")


def warm_start_from_folder(model: MIPNet, folder: str | Path, skeleton: Skeleton, source: str) -> str:
    """``warm_start`` from a folder; of another skeleton, the keypoints with the same names are copied.

    Args:
        model: the network to fill, with heatmaps for ``skeleton``.
        folder: holds weights.safetensors and model.json.
        skeleton: of ``model``.
        source: what to call the folder in messages.

    Returns:
        What stays random, as one line for the user; "" if nothing does.

    Raises:
        UserError: the folder cannot be read, or holds another backbone.
    """
    architecture, extra = weights.read_description(folder)
    different = [
        f"{name} {architecture[name]}, not {ours}"
        for name, ours in (model.architecture or {}).items()
        if name in architecture and name not in _MAY_DIFFER and architecture[name] != ours
    ]
    if different:
        hint = "choose the same with --model.…, or other weights"
        raise UserError(f"{source} holds weights of another network: {'; '.join(different)}", hint)
    state, theirs = weights.read_weights(folder), known_skeleton(extra)
    with_head = any(name in state for name in HEATMAP_LAYER_TENSORS)
    if theirs is None or theirs.joints == skeleton.joints or not with_head:
        return describe_uninitialized(warm_start(model, state, source))
    pairs = matching_keypoints(skeleton, theirs)
    return describe_uninitialized(warm_start(model, state, source, pairs), skeleton, theirs, pairs)


def known_skeleton(extra: Mapping[str, Any]) -> Skeleton | None:
    """The skeleton that a model folder's ``extra`` names or defines; None if it does neither."""
    try:
        return skeleton_of(extra["config"]["data"]["skeleton"])
    except (KeyError, TypeError, ConfigError):
        return None


def matching_keypoints(ours: Skeleton, theirs: Skeleton) -> list[tuple[int, int]]:
    """Index pairs (ours, theirs) of the keypoints that both skeletons have, by name."""
    return [(i, theirs.joints.index(name)) for i, name in enumerate(ours.joints) if name in theirs.joints]


def describe_uninitialized(
    names: Sequence[str],
    skeleton: Skeleton | None = None,
    theirs: Skeleton | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> str:
    """One line for the user: the modules that ``warm_start`` left random, instead of hundreds of names.

    Args:
        names: as ``warm_start`` returns them.
        skeleton, theirs, pairs: the skeletons and their ``matching_keypoints``, if they differ.
    """
    modules = list(dict.fromkeys(weights.module_of(name) for name in names))
    stages = [module.split(".")[1] for module in modules if module.startswith("mimbs.")]
    words = []
    if stages:
        numbers = list(dict.fromkeys(stages))
        at = f"place{'s' if len(numbers) > 1 else ''} {' and '.join(numbers)}"
        words.append(f"{len(stages)} MIMB{'s' if len(stages) > 1 else ''} at {at}")
    words += ["the deconvolutions"] if f"{HEAD_PREFIX}deconvs" in modules else []
    if any(name in HEATMAP_LAYER_TENSORS for name in names):
        if skeleton is not None and theirs is not None and pairs:
            copied = {ours for ours, _ in pairs}
            new = [name for i, name in enumerate(skeleton.joints) if i not in copied]
            words.append(f"the heatmaps of {', '.join(new)} ({len(copied)} joints are {theirs.name}'s)")
        else:
            words.append("the heatmap layer")
    return ", ".join(words)
