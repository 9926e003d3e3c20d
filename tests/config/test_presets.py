"""The named starting points: the paper's recipe by data set, network and size, and their baselines."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from mipnet.cli.shared_options import read_flags
from mipnet.config import PRESETS, differences, from_dict, preset
from mipnet.config.presets import DATASETS, baseline, describe, missing_start
from mipnet.config.schema import AugmentConfig, ResourcesConfig

HRNET = {"hrnet-w32": 32, "hrnet-w48": 48}
SIMPLE = {"simplebaseline-r50": 50, "simplebaseline-r101": 101, "simplebaseline-r152": 152}
PAPER_PRESETS = sorted(set(PRESETS) - {"tiny", "small", "debug"})


def test_there_is_one_for_each_data_set_network_and_size() -> None:
    choices = itertools.product(("coco", "crowdpose"), {**HRNET, **SIMPLE}, ("256x192", "384x288"))
    assert sorted("-".join(choice) for choice in choices) == PAPER_PRESETS


@pytest.mark.parametrize("name", PAPER_PRESETS)
def test_the_papers_recipe(name: str) -> None:
    config = preset(name)
    data, _, network = name.partition("-")
    network, _, size = network.rpartition("-")
    large = size == "384x288"
    assert (config.input.height, config.input.width) == ((384, 288) if large else (256, 192))
    assert (config.target.kind, config.target.sigma) == ("rounded", 3.0 if large else 2.0)
    assert config.heatmap_size == ((72, 96) if large else (48, 64))
    assert config.data.joints.num_joints == {"coco": 17, "crowdpose": 14}[data]
    if network in HRNET:
        assert (config.model.backbone, config.model.width) == ("hrnet", HRNET[network])
        assert (config.model.num_modules, config.model.blocks) == ((1, 4, 3), 4)
    else:
        assert (config.model.backbone, config.model.depth) == ("simplebaseline", SIMPLE[network])
    assert (config.model.instances, config.model.mimb_stages, config.model.reduction) == (2, (3, 4), 4)
    train = config.train
    assert (train.optimizer, train.learning_rate, train.loss) == ("adam", 1e-3, "mse")
    assert (train.epochs, train.schedule, train.milestones, train.drop) == (110, "step", (70, 100), 0.1)
    assert train.batch_size == 128
    assert config.augment == AugmentConfig()
    assert (config.augment.rotation, config.augment.scale, config.augment.half_body) == (45, 0.35, 0.3)
    evaluation = config.evaluation
    assert (evaluation.discount, evaluation.oks_nms, evaluation.flip_test) == (0.9, 0.9, True)
    assert config.resources == ResourcesConfig()
    assert config.data == DATASETS[data]


@pytest.mark.parametrize("name", PRESETS)
def test_a_baseline_has_one_instance_no_place_and_the_recipe_from_imagenet(name: str) -> None:
    blocks = "[3, 4]" if name in PAPER_PRESETS else "[2, 3]"
    expected = ["model.instances: 2 -> 1", f"model.mimb_stages: {blocks} -> []"]
    if name in PAPER_PRESETS:
        expected += ["train.epochs: 110 -> 210", "train.milestones: [70.0, 100.0] -> [170.0, 200.0]"]
    assert differences(preset(name), baseline(preset(name))) == expected


def test_a_baseline_keeps_a_schedule_that_is_not_the_papers() -> None:
    mine = from_dict({"train": {"epochs": 9}}, preset("coco-hrnet-w32-256x192"))
    assert baseline(mine).train == mine.train


def test_flags_win_over_the_baselines_recipe(tmp_path: Path) -> None:
    argv = ["--preset", "coco-hrnet-w32-256x192", "--baseline"]
    assert read_flags("train", argv)[1].config == baseline(preset("coco-hrnet-w32-256x192"))
    config = read_flags("train", [*argv, "--epochs", "140"])[1].config
    assert (config.train.epochs, config.train.milestones) == (140, (170, 200))
    file = tmp_path / "some.yaml"
    file.write_text("preset: coco-hrnet-w32-256x192\ntrain: {epochs: 9}\n")
    config = read_flags("train", ["--config", str(file), "--baseline"])[1].config
    assert (config.train.epochs, config.model.instances) == (9, 1)


def test_a_start_from_random_weights_is_warned_about_once_in_one_line() -> None:
    config = preset("crowdpose-simplebaseline-r50-256x192")
    assert "the paper starts from a trained single-instance network" in missing_start(config)
    assert "ImageNet" in missing_start(baseline(config))
    assert "--train.init" in missing_start(config)
    assert "\n" not in missing_start(config)
    assert missing_start(from_dict({"train": {"init": "baseline"}}, config)) == ""
    assert missing_start(preset("tiny")) == ""


def test_all_are_described_in_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    text = describe()
    assert len(text.splitlines()) < 10
    for part in ("tiny", "debug", "coco", "crowdpose", *HRNET, *SIMPLE, "256x192", "384x288"):
        assert part in text
    with pytest.raises(SystemExit):
        read_flags("train", ["--help"])
    assert text in capsys.readouterr().out


def test_ones_own_data_need_no_more_than_its_folder() -> None:
    config = read_flags("train", ["--preset", "small", "--data", "/data/mine"])[1].config
    data = config.data
    assert (data.root, data.train, data.val, data.evaluate) == ("/data/mine", "train", "val", ("val",))
    assert (data.boxes, data.format, data.joints.num_joints) == (("gt",), "coco", 17)
    assert (config.input.width, config.input.height, config.train.epochs) == (96, 128, 60)
    assert config.model == preset("tiny").model
    assert read_flags("train", ["--preset", "small", "--baseline"])[1].config.model.instances == 1
