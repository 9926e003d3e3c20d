"""Every preset and its baseline: built, counted, summarised, and trained for one step on real people."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from mipnet.cli.models_summary import network_summary
from mipnet.config import PRESETS, Config, from_dict, preset, to_yaml
from mipnet.config.presets import PAPER_PRESETS, baseline
from mipnet.config.validation import validate
from mipnet.data.coco import PersonAnnotations
from mipnet.data.crops import crop_settings
from mipnet.data.dataset_formats import open_split
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.data.stream import CropLoader
from mipnet.models.costs import count_parameters
from mipnet.storage import Folder
from mipnet.training.checkpoint import model_from_config
from mipnet.training.step import TrainStep

BATCH = 2
# Of 17 joints: the single-instance network's, and MIPNet's.
PARAMETERS = {
    "coco-hrnet-w32-256x192": (28_536_113, 28_603_313),
    "coco-hrnet-w48-256x192": (63_595_745, 63_746_081),
    "coco-hrnet-w48-384x288": (63_595_745, 63_746_081),
    "coco-simplebaseline-r50-256x192": (33_999_697, 34_986_193),
    "coco-simplebaseline-r101-384x288": (None, 53_978_321),
}


def both(name: str) -> list[Config]:
    """The baseline and the preset."""
    return [baseline(preset(name)), preset(name)]


def parameters(config: Config) -> int:
    with torch.device("meta"):
        return count_parameters(model_from_config(config))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_references(name: str) -> None:
    for config, expected in zip(both(name), PARAMETERS[name], strict=True):
        assert expected in (parameters(config), None)


@pytest.mark.parametrize("name", ["coco-hrnet-w32-256x192", "coco-simplebaseline-r152-384x288"])
def test_three_joints_less_are_three_maps_less(name: str) -> None:
    fewer = parameters(preset(name)) - parameters(preset(name.replace("coco", "crowdpose")))
    channels = 32 if "w32" in name else 256
    assert fewer == 3 * (channels + 1)


@pytest.fixture(scope="module")
def people(shared: Path) -> dict[str, PersonAnnotations]:
    """Some of the real people for each data set, crowded images first."""
    data = shared / "data"
    coco = replace(preset("coco-hrnet-w32-256x192").data, root=str(data / "coco-mini"))
    crowdpose = replace(
        preset("crowdpose-hrnet-w32-256x192").data,
        root=str(data / "crowdpose-sample"),
        annotations="crowdpose_{split}.json",
    )
    splits = {"coco": (coco, "train2017"), "crowdpose": (crowdpose, "sample")}
    return {
        name: open_split(config, Folder.of(config.root), split).people()
        for name, (config, split) in splits.items()
    }


# The smallest and the largest of each backbone, and CrowdPose's smallest; all others when asked for.
ALWAYS = (
    "coco-hrnet-w32-256x192",
    "coco-hrnet-w48-384x288",
    "coco-simplebaseline-r50-256x192",
    "coco-simplebaseline-r152-384x288",
    "crowdpose-hrnet-w32-256x192",
    "crowdpose-simplebaseline-r50-256x192",
)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ALWAYS else [pytest.mark.drill]) for n in PAPER_PRESETS]
)
def test_one_real_step_of_every_preset(name: str, people: dict[str, PersonAnnotations]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        screen = network_summary(preset(name))  # shows the baseline's figures beside the preset's
        for config in both(name):
            assert validate(config) is config
            assert from_dict(yaml.safe_load(to_yaml(config))) == config
            step = take_a_step(config, people[name.partition("-")[0]])
            assert f"{count_parameters(step.model):,}" in screen
    finally:
        torch.set_num_threads(threads)


def take_a_step(config: Config, people: PersonAnnotations) -> TrainStep:
    schedule = SampleSchedule(people.image_offsets, config.train.seed, 1, BATCH, 1)
    block = CropLoader(people, schedule, crop_settings(config)).load(0)
    assert not block["corrupt"].any()
    images, joints = torch.from_numpy(block["image"]), torch.from_numpy(block["keypoints"])
    size = (config.input.height, config.input.width)
    assert images.shape == (BATCH, *size, 3)
    assert joints.shape == (BATCH, config.model.instances, config.data.joints.num_joints, 3)
    assert (joints[..., 2] > 0).any()
    torch.manual_seed(config.train.seed)
    step = TrainStep(model_from_config(config), config, schedule.total_steps, torch.device("cpu"), "fp32")
    step(images, joints)
    metrics = step.read_metrics()
    assert metrics["skipped"] == 0
    assert math.isfinite(metrics["loss"])
    assert metrics["loss"] > 0
    with torch.no_grad():
        after = step.loss(images, joints)[0].item()
    assert math.isfinite(after)
    assert after != pytest.approx(metrics["loss"], rel=1e-6)
    return step


def test_the_papers_are_among_the_presets() -> None:
    assert set(PAPER_PRESETS) == set(PRESETS) - {"tiny", "debug", "small"}
