"""Checkpoint folders: the whole state to go on from, and beside it the weights to evaluate.

training.pt          weights, optimiser, moving average, step (= the stream's position), RNG
history.json         every logged row of metrics up to here, so that none is lost with a process
weights.safetensors, model.json   the network as ``mipnet.models.weights`` reads it, with the configuration
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from mipnet.config import Config, to_dict
from mipnet.errors import UserError
from mipnet.models.build import build_model
from mipnet.models.network import MIPNet
from mipnet.models.weights import save_model
from mipnet.training.step import TrainStep

TRAINING = "training.pt"
HISTORY = "history.json"


def model_from_config(config: Config) -> MIPNet:
    """A freshly initialised network as the configuration describes it."""
    m = config.model
    arguments: dict[str, Any] = (
        {
            "width": m.width,
            "modules": m.modules,
            "blocks": m.blocks,
            "stage1_blocks": m.stage1_blocks,
            "stem_channels": m.stem_channels,
        }
        if m.backbone == "hrnet"
        else {"depth": m.depth}
    )
    joints = config.data.joints.num_joints
    return build_model(m.backbone, joints, m.instances, m.places, m.reduction, **arguments)


def save_checkpoint(folder: Path, step: TrainStep, history: list[dict[str, float]]) -> None:
    """Write a checkpoint; the statistics of the ranks must be synchronised before."""
    torch.save(step.state_dict(), folder / TRAINING)
    (folder / HISTORY).write_text(json.dumps(history))
    with torch.device("meta"):  # neither time nor random numbers for weights that are replaced at once
        evaluated = model_from_config(step.config)
    evaluated.load_state_dict(step.evaluated_state(), assign=True)
    save_model(folder, evaluated, {"config": to_dict(step.config)})


def load_checkpoint(folder: Path, step: TrainStep) -> list[dict[str, float]]:
    """Restore ``step`` and return the metric history.

    Raises:
        UserError: the checkpoint cannot be read or is of another network.
    """
    path = folder / TRAINING
    try:
        state = torch.load(path, map_location=step.device, weights_only=True)
        step.load_state_dict(state)
        return json.loads((folder / HISTORY).read_text())
    except Exception as error:  # broken bytes make the unpickler raise almost anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"cannot continue from {folder} ({reason})", "start another run with --new"
        ) from error


def step_of(checkpoint_path: str) -> int:
    """The step that a checkpoint folder's name tells."""
    return int(checkpoint_path.rstrip("/").rpartition("step-")[2])


def folder_name(step: int) -> str:
    return f"step-{step:08d}"
