"""Checkpoint folders: the state to resume from, and beside it the weights to evaluate.

training.pt          weights, optimizer, EMA, step (= position in the sample order), RNG
history.json         every row of metrics logged so far, so that none is lost with a process
weights.safetensors, model.json   the network as ``mipnet.models.weights`` reads it, with the configuration
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from mipnet.config import Config, to_dict
from mipnet.errors import UserError
from mipnet.models.build import build_model
from mipnet.models.network import MIPNet
from mipnet.models.weights import save_model
from mipnet.training.step import TrainStep

TRAINING_STATE_FILE = "training.pt"
HISTORY_FILE = "history.json"
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
    torch.save(step.state_dict(), folder / TRAINING_STATE_FILE)
    (folder / HISTORY_FILE).write_text(json.dumps(history))
    with torch.device("meta"):  # draws no random numbers for weights that are replaced at once
        model = model_from_config(step.config)
    model.load_state_dict(step.ema_state_dict(), assign=True)
    save_model(folder, model, {"config": to_dict(step.config)})


def load_checkpoint(folder: Path, step: TrainStep) -> list[dict[str, float]]:
    """Restore ``step`` and return the metric history.

    Raises:
        UserError: the checkpoint cannot be read or is of another network.
    """
    path = folder / TRAINING_STATE_FILE
    try:
        state = torch.load(path, map_location=step.device, weights_only=True)
        step.load_state_dict(state)
        history: list[dict[str, float]] = json.loads((folder / HISTORY_FILE).read_text())
    except Exception as error:  # broken bytes make the unpickler raise almost anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        what = f"cannot continue from {folder} ({reason})"
        raise UserError(what, "start another run with --new") from error
    return history


def step_from_path(checkpoint_path: str) -> int:
    """The step in the name of a checkpoint folder (path or URI)."""
    return int(checkpoint_path.rstrip("/").rpartition("step-")[2])


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"
