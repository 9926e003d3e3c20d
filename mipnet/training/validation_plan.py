"""Which checkpoints of a training are validated, and by whom: decided before it begins, from an estimate.

What is measured while a training runs decides nothing: the best weights would depend on the load of the
machine. A validation that takes longer than estimated makes the training wait instead (``ValidationWait``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mipnet.config import Config
from mipnet.errors import UserError

MAX_VALIDATION_SHARE = 0.2
"""Of the time of a training, as estimated; where it would be more, not every checkpoint is validated."""
FP32_FORWARD_COST = 3.0
"""Of a forward pass in bf16; 2.5 on a CPU (``mipnet bench inference``), estimated for GPUs."""


@dataclass(frozen=True)
class ValidationPlan:
    """Which checkpoints are validated, and by whom.

    Attributes:
        where: "inline": by the training processes, which train on afterwards; "beside": by a task of its own,
            except the checkpoint of the last step: the training's devices are free then.
        every: how many checkpoints there are to one that is validated; the last is always validated.
        checkpoint_steps: steps from one checkpoint to the next.
        end_step: the last step.
        beside_steps: steps of the training in the time of a validation beside it, as estimated.
    """

    where: Literal["inline", "beside"]
    every: int
    checkpoint_steps: int
    end_step: int
    beside_steps: float = 0.0

    def scheduled(self, step: int) -> bool:
        """Whether the checkpoint of a step is validated wherever the training ends."""
        return step % (self.every * self.checkpoint_steps) == 0

    def due(self, step: int) -> bool:
        """Whether the checkpoint of a step is validated."""
        return step == self.end_step or self.scheduled(step)

    def beside(self, step: int) -> bool:
        """Whether it is validated by a task of its own."""
        return self.where == "beside" and step != self.end_step and self.due(step)

    def inline(self, step: int) -> bool:
        """Whether it is validated by the training processes."""
        return self.due(step) and not self.beside(step)

    def line(self, num_boxes: int, gpu: bool) -> str:
        """The plan in words.

        Args:
            num_boxes: of the validation split.
            gpu: the training computes on GPUs.
        """
        often = "at every checkpoint"
        if self.every > 1:
            share = f"more would take over {MAX_VALIDATION_SHARE:.0%} of the time"
            often = f"at one checkpoint of {self.every}, and the last ({share})"
        who = "by the training processes"
        if self.where == "beside":
            who = "beside the training" + (", on a GPU that it leaves free" if gpu else "")
        return f"validation: {num_boxes} boxes {often}, {who}"


def validation_steps(config: Config, num_boxes: int) -> float:
    """Estimate the time of a validation on the devices of a training, in steps of the training.

    Of a step's sample, the backward pass takes twice the forward pass.

    Args:
        config: of the run.
        num_boxes: of the validation split in the box source that picks the best checkpoint.
    """
    train, evaluation = config.train, config.evaluation
    validated = num_boxes * (2 if evaluation.flip_test else 1)
    trained = train.batch_size * (4 if train.activation_checkpointing else 3)
    slower = evaluation.precision == "fp32" and train.precision != "fp32"
    return validated * (FP32_FORWARD_COST if slower else 1) / trained


def checkpoints_per_validation(config: Config, num_boxes: int) -> int:
    """How many checkpoints to make for one that is validated; depends on settings and data only.

    Args:
        config, num_boxes: as for ``validation_steps``.
    """
    steps = validation_steps(config, num_boxes) * (1 / MAX_VALIDATION_SHARE - 1)
    return max(math.ceil(steps / config.train.checkpoint_steps), 1)


def plan_validation(
    config: Config, num_boxes: int, end_step: int, *, every: int, spare_gpus: int, free_gpus: int
) -> ValidationPlan:
    """Where and how often to validate.

    Beside the training only on a GPU that it leaves free, and only if that keeps up. On CPUs, a task beside
    the training takes its cores, and time to start.

    Args:
        config: of the run, with ``resources.gpu`` resolved.
        num_boxes: as for ``validation_steps``.
        end_step: the last step.
        every: of the run, see ``checkpoints_per_validation``.
        spare_gpus: GPUs of the cluster beyond those of the workers.
        free_gpus: of them, those that nobody holds now.

    Raises:
        UserError: validation beside the training is asked for where all GPUs train.
    """
    resources, checkpoint_steps = config.resources, config.train.checkpoint_steps
    where, gpu = resources.validation, resources.gpu is True
    if where == "beside" and gpu and spare_gpus < 1:
        raise UserError(
            f"resources.validation: no GPU is left to validate on beside {resources.max_workers} worker(s)",
            "leave it at auto, or ask for fewer --workers",
        )
    beside_steps = validation_steps(config, num_boxes) * resources.max_workers
    if where == "auto":
        keeps_up = beside_steps <= every * checkpoint_steps
        where = "beside" if gpu and free_gpus >= 1 and keeps_up else "inline"
    return ValidationPlan(where, every, checkpoint_steps, end_step, beside_steps)
