"""Versions are only compared on data whose joints both predict."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from mipnet.config import Config
from mipnet.errors import ConfigError
from mipnet.experiment.comparison import config_on_same_data


def test_a_version_is_evaluated_on_the_others_data_with_its_own_settings(small_config: Config) -> None:
    own = replace(small_config, evaluation=replace(small_config.evaluation, discount=0.125))
    other = replace(small_config, data=replace(small_config.data, root="/elsewhere"))
    found = config_on_same_data(own, other, {}, SimpleNamespace(version=1))
    assert (found.data, found.evaluation) == (other.data, own.evaluation)
    given = {"data": {"root": "/elsewhere"}, "evaluation": {"discount": "0.25"}}
    assert config_on_same_data(own, other, given, SimpleNamespace(version=1)).evaluation.discount == 0.25


def test_versions_of_other_joints_cannot_be_compared(small_config: Config) -> None:
    other = replace(small_config, data=replace(small_config.data, skeleton="crowdpose14"))
    message = "version 3 predicts the 17 joints of coco17, the data has the 14 of crowdpose14; the two cannot"
    with pytest.raises(ConfigError, match=message):
        config_on_same_data(small_config, other, {}, SimpleNamespace(version=3))
