"""Start a network from a model folder: a single-instance network, an encoder, another skeleton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mipnet.config.skeleton_files import skeleton_of
from mipnet.errors import ConfigError, UserError
from mipnet.models.network import MIPNet
from mipnet.models.weights import HEAD, HEATMAP_LAYER, block_of, read_description, read_weights, warm_start
from mipnet.skeletons import Skeleton

#: arguments of ``build_model`` that may differ between a network and the one it starts from
_MAY_DIFFER = ("num_joints", "instances", "places", "reduction")


def start_from_folder(model: MIPNet, folder: str | Path, joints: Skeleton, source: str) -> str:
    """``warm_start`` from a folder; if it is for another skeleton, joints of the same name are copied.

    Args:
        model: the network to fill, for ``joints``.
        folder: holds weights.safetensors and model.json.
        joints: the skeleton of ``model``.
        source: what to call the folder in messages.

    Returns:
        What stays random, as one line for the user; "" if nothing does.

    Raises:
        UserError: the folder cannot be read, or holds another backbone.
    """
    architecture, extra = read_description(folder)
    different = [
        f"{name} {architecture[name]}, not {ours}"
        for name, ours in (model.architecture or {}).items()
        if name in architecture and name not in _MAY_DIFFER and architecture[name] != ours
    ]
    if different:
        raise UserError(
            f"{source} holds weights of another network: {'; '.join(different)}",
            "choose the same with --model.…, or other weights",
        )
    state, theirs = read_weights(folder), known_skeleton(extra)
    with_head = any(name in state for name in HEATMAP_LAYER)
    if theirs is None or theirs.joints == joints.joints or not with_head:
        return in_words(warm_start(model, state, source))
    pairs = same_joints(joints, theirs)
    return in_words(warm_start(model, state, source, pairs), joints, theirs, pairs)


def known_skeleton(extra: Mapping[str, Any]) -> Skeleton | None:
    """The skeleton that a model folder's ``extra`` names or defines; None if it does neither."""
    try:
        return skeleton_of(extra["config"]["data"]["skeleton"])
    except (KeyError, TypeError, ConfigError):
        return None


def same_joints(ours: Skeleton, theirs: Skeleton) -> list[tuple[int, int]]:
    """Index pairs (ours, theirs) of the joints that both skeletons have, by name."""
    return [(i, theirs.joints.index(name)) for i, name in enumerate(ours.joints) if name in theirs.joints]


def in_words(
    names: Sequence[str],
    joints: Skeleton | None = None,
    theirs: Skeleton | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> str:
    """What ``warm_start`` left random, by module: hundreds of names say less.

    Args:
        names: as ``warm_start`` returns them.
        joints, theirs, pairs: the skeletons and their ``same_joints``, if they differ.
    """
    blocks = list(dict.fromkeys(block_of(name) for name in names))
    places = [block.split(".")[1] for block in blocks if block.startswith("mimbs.")]
    words = []
    if places:
        numbers = list(dict.fromkeys(places))
        at = f"place{'s' if len(numbers) > 1 else ''} {' and '.join(numbers)}"
        words.append(f"{len(places)} MIMB{'s' if len(places) > 1 else ''} at {at}")
    words += ["the deconvolutions"] if f"{HEAD}deconvs" in blocks else []
    if any(name in HEATMAP_LAYER for name in names):
        if joints is not None and theirs is not None and pairs:
            copied = {ours for ours, _ in pairs}
            new = [name for i, name in enumerate(joints.joints) if i not in copied]
            words.append(f"the heatmaps of {', '.join(new)} ({len(copied)} joints are {theirs.name}'s)")
        else:
            words.append("the heatmap layer")
    return ", ".join(words)
