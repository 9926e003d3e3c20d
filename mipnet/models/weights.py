"""Model folders: weights and the description of the network that they belong to.

weights.safetensors   the state_dict, under the names of ``MIPNet``
model.json            {"format": 1, "architecture": arguments of build_model, "extra": anything}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mipnet.config.old_names import new_key
from mipnet.errors import UserError, first_few, reason_of
from mipnet.models.build import build_model
from mipnet.models.network import MIPNet

WEIGHTS_FILE = "weights.safetensors"
DESCRIPTION_FILE = "model.json"
DESCRIPTION_FORMAT = 1
MAX_NAMES_IN_MESSAGE = 20
"""Names of tensors in one message, at most."""
HEAD_PREFIX = "backbone.head."
"""Prefix of the names of a head's tensors; an encoder has none of them."""
HEATMAP_LAYER_TENSORS = tuple(HEAD_PREFIX + name for name in ("weight", "bias", "final.weight", "final.bias"))
"""The last convolution of HRNet, and of SimpleBaseline; dimension 0 is the keypoint."""


def save_model(folder: str | Path, model: MIPNet, extra: Mapping[str, Any] | None = None) -> Path:
    """Write ``model`` so that ``load_model`` can rebuild it from the folder alone.

    Args:
        folder: is made if it does not exist; files of an earlier model in it are replaced.
        model: made by ``build_model`` (or ``load_model``).
        extra: what else is needed to use the weights: input size, skeleton, decoder … (JSON values).

    Raises:
        ValueError: the model has no ``architecture`` because it was made by hand.
    """
    if model.architecture is None:
        raise ValueError("only a network made by build_model can be saved: this one has no architecture")
    return save_weights(folder, model.architecture, model.state_dict(), extra)


def save_weights(
    folder: str | Path,
    architecture: Mapping[str, Any],
    state: Mapping[str, Tensor],
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """``save_model`` for weights without their network; an encoder's may lack the head."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    known = {"architecture": dict(architecture), "extra": dict(extra or {})}
    description = {"format": DESCRIPTION_FORMAT, **known}
    text = json.dumps(description, indent=2) + "\n"  # before the weights: it may fail
    save_file({name: t.detach().contiguous() for name, t in state.items()}, folder / WEIGHTS_FILE)
    (folder / DESCRIPTION_FILE).write_text(text, encoding="utf-8")
    return folder


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> tuple[MIPNet, dict[str, Any]]:
    """The network of a folder, in eval mode, and its ``extra``.

    Raises:
        UserError: a file is missing or broken, the weights do not fit the architecture, or they are those
            of an encoder without a head.
    """
    architecture, extra = read_description(folder)
    with torch.device("meta"):  # initializes no weights, as they are overwritten at once
        model = build_from_description(architecture, folder)
    state = read_weights(folder, device)
    if state and not any(name.startswith(HEAD_PREFIX) for name in state):
        hint = "start a training from it: --train.init"
        raise UserError(f"{folder} holds an encoder, which has no heatmaps", hint)
    load_weights(model, state, str(Path(folder) / WEIGHTS_FILE))
    return model.eval(), extra


def read_description(folder: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(architecture, extra) of a folder.

    Raises:
        UserError: ``model.json`` is missing or broken, or of another format.
    """
    path = _existing(folder, DESCRIPTION_FILE)
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        found, architecture, extra = (description[key] for key in ("format", "architecture", "extra"))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not describe a model: {error}") from error
    if found != DESCRIPTION_FORMAT:
        raise UserError(f"{path} has format {found}, this version reads format {DESCRIPTION_FORMAT}")
    if not isinstance(architecture, dict) or not isinstance(extra, dict):
        raise UserError(f"{path} does not describe a model: architecture and extra must be objects")
    return {_NOT_SETTINGS.get(n, new_key("model", n)): value for n, value in architecture.items()}, extra


_NOT_SETTINGS = {"num_joints": "num_keypoints"}
"""Old name → new name of the arguments of ``build_model`` that are no settings."""


def build_from_description(architecture: Mapping[str, Any], source: str | Path) -> MIPNet:
    """``build_model`` with a message that names where the arguments came from."""
    try:
        return build_model(**architecture)
    except (TypeError, UserError) as error:
        raise UserError(f"{source} describes a network that cannot be built: {error}") from error


def read_weights(folder: str | Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """The state_dict of a folder.

    Raises:
        UserError: the file is missing or broken.
    """
    path = _existing(folder, WEIGHTS_FILE)
    try:
        path.open("rb").close()  # raises PermissionError, where safetensors says that there is no file
        state: dict[str, Tensor] = load_file(path, device=str(device))
        return state
    except OSError as error:
        raise UserError(f"cannot read {path} ({reason_of(error)})", "check its permissions") from error
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error


def load_weights(model: MIPNet, state: Mapping[str, Tensor], source: str = "the weights") -> None:
    """Replace all tensors of ``model`` by copies of those of ``state``, on their device.

    Copying into a network on "meta" instead would import PyTorch's symbolic shapes: half a second of a core.

    Raises:
        UserError: a name is missing or unexpected, or a shape differs; the model is then left as it was.
    """
    expected = model.state_dict()
    check_state_dict(expected, state, source)
    copies = {name: tensor.to(expected[name].dtype, copy=True) for name, tensor in state.items()}
    model.load_state_dict(copies, assign=True)


def warm_start(
    model: MIPNet,
    state: Mapping[str, Tensor],
    source: str = "the weights",
    keypoint_pairs: Sequence[tuple[int, int]] | None = None,
) -> list[str]:
    """Initialize a network from one with the same backbone, as the paper does from a single-instance network.

    The backbone's stages have to be there and fit. MIMBs that the source lacks, and MIMBs or a head of other
    shapes (other numbers of instances or keypoints), keep their random weights.

    Args:
        model: the network to fill.
        state: a state_dict of a ``MIPNet``; MIMBs that ``model`` does not have are an error.
        source: what to call it in messages.
        keypoint_pairs: for a source of another skeleton: pairs (keypoint of ``model``, keypoint of ``state``)
            of the same body part. Their heatmaps are copied, the others stay random.

    Returns:
        The names that stay random, wholly or, with ``keypoint_pairs``, for the other keypoints. Report them:
        there is no other message.

    Raises:
        UserError: a stage does not fit, or there are names that ``model`` does not have.
    """
    expected = model.state_dict()
    optional = {name for name in expected if name.startswith(("mimbs.", HEAD_PREFIX))}
    rows = {} if keypoint_pairs is None else _matching_rows(expected, state, keypoint_pairs)
    given = {**state, **rows}
    fitting = {n for n, tensor in given.items() if n in expected and tensor.shape == expected[n].shape}
    # A module is copied or stays random as a whole.
    left = {module_of(name) for name in optional - fitting}
    fresh = [name for name in expected if module_of(name) in left]
    copied = {name: t for name, t in given.items() if name not in fresh}
    check_state_dict({name: t for name, t in expected.items() if name not in fresh}, copied, source)
    model.load_state_dict({**expected, **copied})
    partly = {name for name, tensor in rows.items() if len(keypoint_pairs or ()) < len(tensor)}
    return [name for name in expected if name in fresh or name in partly]


def _matching_rows(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], keypoint_pairs: Sequence[tuple[int, int]]
) -> dict[str, Tensor]:
    """The heatmap layer of ``expected`` with the rows of ``state`` for the keypoints that both have."""
    rows = {}
    ours, theirs = ([pair[i] for pair in keypoint_pairs] for i in (0, 1))
    for name in HEATMAP_LAYER_TENSORS:
        if name in expected and name in state and state[name].shape[1:] == expected[name].shape[1:]:
            rows[name] = expected[name].clone()
            rows[name][ours] = state[name][theirs]
    return rows


def module_of(name: str) -> str:
    """The module of a MIMB or a head that a tensor belongs to, e.g. ``mimbs.3.0``, ``backbone.head.deconvs``.

    Of any other tensor it is the name itself.
    """
    parts = name.split(".")
    if name.startswith("mimbs.") or (name.startswith(HEAD_PREFIX) and len(parts) > 3):
        return ".".join(parts[:3])
    return HEAD_PREFIX.removesuffix(".") if name.startswith(HEAD_PREFIX) else name


def check_state_dict(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError unless ``state`` has exactly the names and shapes of ``expected``."""
    problems = []
    if missing := [name for name in expected if name not in state]:
        problems.append(f"lacks {first_few(missing, MAX_NAMES_IN_MESSAGE)}")
    if unexpected := [name for name in state if name not in expected]:
        problems.append(f"has unknown {first_few(unexpected, MAX_NAMES_IN_MESSAGE)}")
    if wrong := [
        f"{name} {list(state[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]:
        problems.append(f"has wrong shapes: {first_few(wrong, MAX_NAMES_IN_MESSAGE)}")
    if problems:
        raise UserError(f"{source} does not fit the network: it {' and '.join(problems)}")


def _existing(folder: str | Path, name: str) -> Path:
    path = Path(folder) / name
    if not path.is_file():
        raise UserError(f"there is no {name} in {folder}", "give a folder that holds a saved model")
    return path
