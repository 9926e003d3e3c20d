"""What ``mipnet evaluate`` makes of its flags."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mipnet.cli.main import main
from mipnet.config import preset
from mipnet.config.presets import DATASETS
from mipnet.errors import ConfigError
from mipnet.experiment.datasets import config_on_dataset

TRAINED = preset("coco-hrnet-w32-256x192")


@pytest.mark.parametrize("name", ["coco", "ochuman"])
def test_a_coco_model_is_scored_on_a_named_data_set(name: str) -> None:
    config = config_on_dataset(name, {"data": {"root": "/somewhere"}}, TRAINED)
    assert config.data.root == "/somewhere"
    assert config.data.format == name
    assert config.data.evaluate == DATASETS[name].evaluate
    assert replace(config, data=TRAINED.data) == TRAINED


def test_flags_win_over_the_named_data_set() -> None:
    settings = {"data": {"evaluate": ["ochuman"], "boxes": ["gt", "det=/d.json"]}}
    config = config_on_dataset("ochuman", settings, TRAINED)
    assert (config.data.evaluate, config.data.boxes) == (("ochuman",), ("gt", "det=/d.json"))


def test_without_a_name_it_is_the_models_own_data() -> None:
    assert config_on_dataset("", {}, TRAINED) == TRAINED


def test_other_joints_are_refused_in_one_line() -> None:
    for name, settings in (("crowdpose", {}), ("", {"data": {"skeleton": "crowdpose14"}})):
        with pytest.raises(ConfigError) as caught:
            config_on_dataset(name, settings, TRAINED)
        assert str(caught.value) == (
            "the model predicts the 17 joints of coco17, the data has the 14 of crowdpose14; "
            "evaluate on data with coco17"
        )
    assert (
        config_on_dataset("crowdpose", {}, preset("crowdpose-hrnet-w32-256x192")).data
        == DATASETS["crowdpose"]
    )


def test_a_misspelt_data_set_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"--dataset: 'ochumann' is unknown; did you mean 'ochuman'\?"):
        config_on_dataset("ochumann", {}, TRAINED)


def test_robustness_without_confidences_is_said_at_once(
    small_models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["evaluate", str(small_models[0]), "--robustness", "--storage", str(tmp_path)]
    assert main([*argv, "--data.boxes", "gt"]) == 2
    assert "--robustness: ground-truth boxes have no confidence" in capsys.readouterr().err
    assert main(["evaluate", "--robustness", "--results", "a=b.json"]) == 2
    assert "have no boxes to leave out; name a model" in capsys.readouterr().err
