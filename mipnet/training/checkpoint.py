"""Checkpoint folders: the state to resume from, and beside it the weights to evaluate.

training.pt          weights, optimizer, EMA, step (= position in the sample order), RNG
history.json         every row of metrics logged so far, so that none is lost with a process
weights.safetensors, model.json   the network as ``mipnet.models.weights`` reads it, with the configuration
manifest.json        size and SHA-256 of each of them: a checkpoint is whole if they agree
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from mipnet.config import Config, to_dict
from mipnet.errors import UserError, first_line, from_os_error
from mipnet.models.build import build_model
from mipnet.models.network import MIPNet
from mipnet.models.weights import DESCRIPTION_FILE, WEIGHTS_FILE, save_model
from mipnet.storage import Folder
from mipnet.training.step import TrainStep

TRAINING_STATE_FILE = "training.pt"
HISTORY_FILE = "history.json"
MANIFEST_FILE = "manifest.json"
STATE_FILES = TRAINING_STATE_FILE, HISTORY_FILE
MODEL_FILES = WEIGHTS_FILE, DESCRIPTION_FILE
HRNET_SETTINGS = ("width", "num_modules", "blocks", "stage1_blocks", "stem_channels")
"""Settings of the model that are arguments of ``HRNet``, under the same names."""


def model_from_config(config: Config) -> MIPNet:
    """A freshly initialized network as the configuration describes it."""
    m = config.model
    names = HRNET_SETTINGS if m.backbone == "hrnet" else ("depth",)
    arguments = {name: getattr(m, name) for name in names}
    num_keypoints = config.data.joints.num_joints
    return build_model(m.backbone, num_keypoints, m.instances, m.mimb_stages, m.reduction, **arguments)


def save_checkpoint(folder: Path, step: TrainStep, history: list[dict[str, float]]) -> None:
    """Write a checkpoint; ``TrainStep.all_reduce_bn_buffers`` has to be called before, on all ranks."""
    save_files(folder, step, history)
    write_manifest(folder)


def save_files(folder: Path, step: TrainStep, history: list[dict[str, float]]) -> None:
    """``save_checkpoint`` without the manifest, whose SHA-256 need not keep a training waiting."""
    torch.save(step.state_dict(), folder / TRAINING_STATE_FILE)
    (folder / HISTORY_FILE).write_text(json.dumps(history))
    save_weights(folder, step)


def save_weights(folder: Path, step: TrainStep) -> None:
    """Write the network to evaluate; for the rest see ``save_checkpoint``."""
    save_model(folder, evaluated_model(step), {"config": to_dict(step.config)})


def write_manifest(folder: Path) -> None:
    """Write the manifest of the files of ``save_files``."""
    saved, manifest = Folder.of(folder), {}
    for name in (*STATE_FILES, *MODEL_FILES):
        manifest[name] = {"size": saved.size(name), "sha256": saved.sha256(name)}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n")


def checkpoint_bytes(step: TrainStep) -> int:
    """About how large the files of a checkpoint are, in bytes."""
    return tensor_bytes(step.state_dict()) + tensor_bytes(step.model.state_dict())


def tensor_bytes(value: object) -> int:
    """Of all tensors in nested dictionaries and lists."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(map(tensor_bytes, inner))


def evaluated_model(step: TrainStep) -> MIPNet:
    """The network that a checkpoint holds to be evaluated: a copy, on the step's device.

    ``TrainStep.all_reduce_bn_buffers`` has to be called before, on all ranks.
    """
    with torch.device("meta"):  # draws no random numbers for weights that are replaced at once
        model = model_from_config(step.config)
    model.load_state_dict(step.ema_state_dict(), assign=True)
    return model


def load_checkpoint(folder: Path, step: TrainStep) -> list[dict[str, float]]:
    """Restore ``step`` and return the metric history.

    Raises:
        UserError: the checkpoint is damaged, cannot be read, or is of another network.
    """
    path = folder / TRAINING_STATE_FILE
    if damaged := damage(Folder.of(folder), STATE_FILES):
        raise UserError(
            f"cannot continue from {folder} ({damaged})", "the same command goes on from a whole one", 1
        )
    try:
        state = torch.load(path, map_location=step.device, weights_only=True)
        step.load_state_dict(state)
        history: list[dict[str, float]] = json.loads((folder / HISTORY_FILE).read_text())
    except Exception as error:  # broken bytes make the unpickler raise almost anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        what = f"cannot continue from {folder} ({reason})"
        raise UserError(what, "start another run with --new") from error
    return history


def read_manifest(folder: Folder) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of a checkpoint's files; empty if its manifest is damaged, or it is older."""
    try:
        manifest = json.loads(folder.read(MANIFEST_FILE))
        return {name: {"size": int(of["size"]), "sha256": str(of["sha256"])} for name, of in manifest.items()}
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def damage(folder: Folder, names: Sequence[str]) -> str:
    """What is wrong with these files of a checkpoint, as one clause; "" if they are whole.

    Without a manifest they are whole if they can be read.

    Raises:
        UserError: the storage does not answer, so nothing is known.
    """
    for name in names:
        try:
            manifest = read_manifest(folder)
            if name not in manifest:
                READ[name](folder.read(name))
            elif folder.sha256(name) != manifest[name]["sha256"]:
                return f"{name} is not what was saved: another SHA-256"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            hint = "the same command goes on when it can be read again"
            raise from_os_error(error, f"cannot read {folder.path(name)}", hint) from None
        except (ValueError, zipfile.BadZipFile, SafetensorError) as error:
            return f"{name} cannot be read: {first_line(error)}"
    return ""


def missing_files(folder: Folder) -> list[str]:
    """Files of a checkpoint that are not there, or of another size than they were saved with."""
    manifest, found = read_manifest(folder), folder.stats()
    return [
        name
        for name in (*STATE_FILES, *MODEL_FILES)
        if name not in found or (name in manifest and found[name].size != manifest[name]["size"])
    ]


def _check_zip(content: bytes) -> None:
    with zipfile.ZipFile(BytesIO(content)) as archive:
        if broken := archive.testzip():
            raise ValueError(f"{broken} is corrupt")


READ: dict[str, Callable[[bytes], object]] = {
    TRAINING_STATE_FILE: _check_zip,
    HISTORY_FILE: json.loads,
    WEIGHTS_FILE: safetensors.torch.load,
    DESCRIPTION_FILE: json.loads,
}
"""How to find out whether a file without a known SHA-256 is whole."""


def step_from_path(checkpoint_path: str) -> int:
    """The step in the name of a checkpoint folder (path or URI)."""
    return int(checkpoint_path.rstrip("/").rpartition("step-")[2])


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"
