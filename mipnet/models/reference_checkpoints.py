"""Convert checkpoints of the reference implementation into model folders, and back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mipnet.config import Config, preset, to_dict, validate
from mipnet.config.presets import DATASETS, PAPER_PRESETS, TRAINED_ON, baseline
from mipnet.config.schema import ModelConfig
from mipnet.config.skeleton_files import skeleton_of
from mipnet.errors import UserError
from mipnet.models import weights
from mipnet.models.initialization import describe_uninitialized
from mipnet.models.published_names import find_network
from mipnet.models.reference_names import from_reference, to_reference
from mipnet.models.torch_checkpoints import read_checkpoint
from mipnet.models.weights import HEAD_PREFIX, build_from_description
from mipnet.skeletons import COCO17, SKELETONS, Skeleton

DEFAULT_INPUT_SIZE = (192, 256)
"""(w, h) of most published weights, in px; checkpoints do not contain it."""


@dataclass(frozen=True)
class ImportedCheckpoint:
    """Result of an import.

    Attributes:
        folder: holds weights.safetensors and model.json.
        architecture: the arguments of ``build_model``.
        config: what to evaluate it with, or to train from it with.
        unused: names of tensors that a pose network does not have.
        uninitialized: modules that the checkpoint lacks and that stay random, as a line for the user.
        notes: what was decided about the file, one line each.
        dataset: that it was trained on; "" if the file does not say.
    """

    folder: Path
    architecture: dict[str, Any]
    config: Config
    unused: list[str]
    uninitialized: str
    notes: tuple[str, ...]
    dataset: str


def is_checkpoint(where: str) -> bool:
    """Whether ``where`` is a local file: models are folders, so a file is a checkpoint to import."""
    return "://" not in where and Path(where).expanduser().is_file()


def import_checkpoint(
    file: str | Path, out: str | Path, input_size: tuple[int, int] = DEFAULT_INPUT_SIZE, joints: str = ""
) -> ImportedCheckpoint:
    """Write a checkpoint of the reference implementation, or of one with its names, as a model folder.

    The network is inferred from names and shapes alone, whatever other projects put in front of the names.

    MIPNet, HRNet and SimpleBaseline checkpoints become models; ImageNet classifiers (HRNet, torchvision's
    ResNet) become encoders: folders without a head, to start a training from.

    Args:
        file: a ``state_dict``, bare or inside of a training checkpoint, see ``read_checkpoint``.
        out: folder to write; files of an earlier model in it are replaced.
        input_size: (w, h) of the crops that it was trained on, in px.
        joints: the skeleton, by name or as a YAML file; by default the known one with as many joints.

    Raises:
        UserError: a file that cannot be read, another network (with the unmatched names), or joints that
            belong to no skeleton.
    """
    file = Path(file).expanduser()
    wanted = skeleton_of(joints) if joints else COCO17
    read = read_checkpoint(file)
    try:
        network = find_network(read.state)
        found = from_reference(network.state, wanted.num_joints)
    except UserError as error:
        raise UserError(f"{file}: {error.what}", error.hint) from None
    people = _skeleton(found.architecture, joints, file)
    config = config_for(found.architecture, input_size, people)
    with torch.device("meta"):
        expected = build_from_description(found.architecture, file).state_dict()
    state = {name: tensor.clone() for name, tensor in found.state.items()}  # they may share memory
    extra = {"config": to_dict(config), "imported_from": file.name}
    folder = weights.save_weights(out, found.architecture, state, extra)
    missing = describe_uninitialized([name for name in expected if name not in state])
    unused, notes = found.unused + network.unused, (*read.notes, *network.notes)
    return ImportedCheckpoint(folder, found.architecture, config, unused, missing, notes, read.dataset)


def export_checkpoint(folder: str | Path, file: str | Path) -> list[str]:
    """Write the weights of a model folder under the names of the reference code, as one plain state_dict.

    Args:
        folder: holds weights.safetensors and model.json.
        file: to write with ``torch.save``; an old one is replaced once the new one is whole.

    Returns:
        The names, in the reference's order.

    Raises:
        UserError: a folder without a whole model, or a place that cannot be written to.
    """
    architecture, _ = weights.read_description(folder)
    with torch.device("meta"):
        expected = build_from_description(architecture, folder).state_dict()
    state = weights.read_weights(folder)
    if not any(name.startswith(HEAD_PREFIX) for name in state):  # an encoder
        expected = {name: tensor for name, tensor in expected.items() if not name.startswith(HEAD_PREFIX)}
    weights.check_state_dict(expected, state, str(folder))
    reference = to_reference(architecture, {name: state[name] for name in expected})
    file = Path(file).expanduser()
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(reference, part)
        os.replace(part, file)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"cannot write {file} ({reason})", "choose another place with --out") from None
    return list(reference)


def config_for(architecture: Mapping[str, Any], input_size: tuple[int, int], joints: Skeleton) -> Config:
    """The configuration of an imported network: the preset of the paper for it, or the most similar one.

    Raises:
        ConfigError: no crop of this size fits the network.
        UserError: a network that no configuration describes.
    """
    settings: dict[str, Any] = {n: tuple(a) if isinstance(a, list) else a for n, a in architecture.items()}
    del settings["num_keypoints"]
    count, channels = (settings.pop(name, None) for name in ("deconvs", "deconv_channels"))
    if architecture["backbone"] == "simplebaseline" and (count, channels) != (3, 256):
        what = f"this network has {count} deconvolutions of {channels} channels"
        raise UserError(what, "only 3 of 256, as published, can be configured")
    model = ModelConfig(**settings)
    data = next((name for name in TRAINED_ON if DATASETS[name].joints == joints), "coco")
    papers = [preset(name) for name, choice in PAPER_PRESETS.items() if choice[0] == data]
    fitting = (c for c in papers if c.input.size == input_size and _same_backbone(c.model, model))
    config = next(fitting, papers[0])
    width, height = input_size
    return validate(
        replace(
            baseline(config) if model.instances == 1 else config,
            model=model,
            input=replace(config.input, width=width, height=height),
            target=replace(config.target, sigma=width / 96),  # 2 cells at 192 px, 3 at 288, as published
            data=replace(config.data, skeleton=joints.name if joints.name in SKELETONS else joints),
        )
    )


def _same_backbone(a: ModelConfig, b: ModelConfig) -> bool:
    """Whether two networks have the same backbone."""
    return replace(a, instances=b.instances, mimb_stages=b.mimb_stages, reduction=b.reduction) == b


def _skeleton(architecture: Mapping[str, Any], joints: str, file: Path) -> Skeleton:
    """The skeleton of the heatmaps: the named one, else the one with as many joints."""
    count = architecture["num_keypoints"]
    if joints:
        wanted = skeleton_of(joints)
        if wanted.num_joints != count:
            what = f"{file} has heatmaps of {count} joints, but {joints} has {wanted.num_joints}"
            raise UserError(what, "leave --skeleton out, or name another")
        return wanted
    for known in SKELETONS.values():
        if known.num_joints == count:
            return known
    names = ", ".join(f"{known.name} ({known.num_joints})" for known in SKELETONS.values())
    hint = f"known are {names}; for another give --skeleton a YAML file"
    raise UserError(f"{file} has heatmaps of {count} joints, and no skeleton has as many", hint)
