"""Which checkpoints are validated, and where: a function of settings, data and devices alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mipnet.config import Config, preset
from mipnet.errors import UserError
from mipnet.training.trainer import end_step
from mipnet.training.validation_plan import (
    ValidationPlan,
    checkpoints_per_validation,
    plan_validation,
    validation_steps,
)
from tests.helpers.networks import tiny

COCO = preset("coco-hrnet-w32-256x192")
GT, DETECTED = 6_352, 104_125
"""People of val2017, and the boxes of the usual detector's file."""


def test_the_time_of_a_validation_in_steps() -> None:
    """A forward pass for each box, twice with the flip test; a step is three for each sample."""
    config = tiny(train={"batch_size": 10, "precision": "fp32"}, evaluation={"flip_test": False})
    assert validation_steps(config, 300) == pytest.approx(300 / 30)
    flipped = tiny(train={"batch_size": 10, "precision": "fp32"})
    assert validation_steps(flipped, 300) == pytest.approx(600 / 30)
    recomputed = {"batch_size": 10, "precision": "fp32", "activation_checkpointing": True}
    assert validation_steps(tiny(train=recomputed), 300) == pytest.approx(600 / 40)
    assert validation_steps(tiny(train={"batch_size": 10, "precision": "bf16"}), 300) > 600 / 30


@pytest.mark.parametrize(
    ("config", "boxes", "every"),
    [
        (preset("debug"), 24, 1),
        (preset("tiny"), 1050, 1),
        (COCO, 0, 1),
        (COCO, GT, 1),
        (preset("coco-hrnet-w48-384x288"), GT, 1),
        (COCO, DETECTED, 4),
        (replace(COCO, train=replace(COCO.train, checkpoint_steps=8000)), DETECTED, 1),
    ],
)
def test_all_are_validated_where_that_takes_a_fifth_of_the_time(
    config: Config, boxes: int, every: int
) -> None:
    assert checkpoints_per_validation(config, boxes) == every
    share = validation_steps(config, boxes) / config.train.checkpoint_steps
    assert share / (share + every) <= 0.2
    other = replace(config, resources=replace(config.resources, workers=2, gpu=True, validation="inline"))
    assert checkpoints_per_validation(other, boxes) == every  # so a run may go on elsewhere


def test_every_third_and_the_last() -> None:
    plan = ValidationPlan("inline", every=3, checkpoint_steps=10, end_step=95)
    checkpoints = [*range(10, 95, 10), 95]
    assert [step for step in checkpoints if plan.due(step)] == [30, 60, 90, 95]
    assert [step for step in checkpoints if plan.inline(step)] == [30, 60, 90, 95]
    beside = replace(plan, where="beside")
    assert [step for step in checkpoints if beside.beside(step)] == [30, 60, 90]
    assert [step for step in checkpoints if beside.inline(step)] == [95]


def on(gpu: bool, workers: int = 1, validation: str = "auto") -> Config:
    resources = replace(COCO.resources, gpu=gpu, workers=workers, validation=validation)  # type: ignore[arg-type]
    return replace(COCO, resources=resources)


@pytest.mark.parametrize(
    ("config", "spare", "free", "boxes", "where"),
    [
        (on(gpu=False), -1, -1, GT, "inline"),
        (on(gpu=False), 8, 8, GT, "inline"),  # GPUs that were not asked for
        (on(gpu=True, workers=8), 0, 0, GT, "inline"),
        (on(gpu=True, workers=7), 1, 1, GT, "beside"),
        (on(gpu=True, workers=7), 1, 0, GT, "inline"),  # another job holds it
        (on(gpu=True, workers=7, validation="beside"), 1, 0, GT, "beside"),
        (on(gpu=True, workers=4), 4, 4, DETECTED, "beside"),
        (on(gpu=True, workers=8), 8, 8, DETECTED, "inline"),  # one GPU would not keep up with eight
        (on(gpu=True, workers=8, validation="beside"), 8, 8, DETECTED, "beside"),
        (on(gpu=True, workers=4, validation="inline"), 4, 4, GT, "inline"),
        (on(gpu=False, validation="beside"), -1, -1, GT, "beside"),
    ],
)
def test_beside_the_training_on_a_gpu_that_is_free(
    config: Config, spare: int, free: int, boxes: int, where: str
) -> None:
    every = checkpoints_per_validation(config, boxes)
    plan = plan_validation(config, boxes, 95, every=every, spare_gpus=spare, free_gpus=free)
    assert (plan.where, plan.every) == (where, every)
    assert (plan.checkpoint_steps, plan.end_step) == (config.train.checkpoint_steps, 95)
    assert plan.beside_steps == validation_steps(config, boxes) * config.resources.max_workers


def test_there_is_no_beside_where_all_gpus_train() -> None:
    config = on(gpu=True, workers=8, validation="beside")
    with pytest.raises(UserError, match=r"no GPU is left .* beside 8 worker\(s\); leave it at auto"):
        plan_validation(config, GT, 95, every=1, spare_gpus=0, free_gpus=0)


def test_the_plan_in_words() -> None:
    plan = ValidationPlan("inline", every=1, checkpoint_steps=10, end_step=95)
    said = "validation: 24 boxes at every checkpoint, by the training processes"
    assert plan.line(24, gpu=False) == said
    other = replace(plan, where="beside", every=4).line(24, gpu=True)
    assert other == (
        "validation: 24 boxes at one checkpoint of 4, and the last (more would take over 20% of the time), "
        "beside the training, on a GPU that it leaves free"
    )


def test_a_training_to_some_epochs_ends_within_the_schedule(small_people) -> None:  # type: ignore[no-untyped-def]
    from mipnet.training.trainer import make_schedule

    schedule = make_schedule(tiny(train={"epochs": 4, "batch_size": 7}), small_people)
    assert end_step(schedule, 0) == end_step(schedule, 4) == end_step(schedule, 9) == schedule.total_steps
    assert 0 < end_step(schedule, 1) < end_step(schedule, 2) < schedule.total_steps
