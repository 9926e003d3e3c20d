"""Settings under their names of earlier versions, and what commit 3205fb3 wrote with them.

``written_by_3205fb3/`` has the text files of ``mipnet train --preset debug`` and of ``tune/search.py --preset
debug --space instances --trials 2``, with their absolute paths replaced.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from mipnet.cli.shared_options import read_flags
from mipnet.config import Config, differences, from_dict, preset, read_yaml, to_dict, to_yaml
from mipnet.config.old_names import ADDED, NEW_NAMES, with_new_names, with_old_names
from mipnet.errors import ConfigError
from mipnet.registry.resolve import model_config
from mipnet.run_folder import default_name, load_run, open_run
from mipnet.storage import Folder
from mipnet.synthetic.generate import benchmark_name, plan_scenes
from tune.trial_folders import open_search, read_trials, search_name

WRITTEN = Path(__file__).with_name("written_by_3205fb3")
RUN, SEARCH = "debug-efd4837f", "debug-instances-86e1ea89"


@pytest.fixture
def storage(tmp_path: Path) -> Folder:
    """A storage with the run and the search of that commit."""
    shutil.copytree(WRITTEN, tmp_path / "storage")
    return Folder.of(tmp_path / "storage")


@pytest.fixture
def debug() -> Config:
    """What ``mipnet train --preset debug`` trains."""
    return read_flags("train", ["--preset", "debug"])[1].config


def test_every_new_name_is_a_setting_and_no_old_one_is() -> None:
    names = {
        f"{section.name}.{field.name}"
        for section in dataclasses.fields(Config)
        if section.name != "preset"
        for field in dataclasses.fields(getattr(Config(), section.name))
    }
    assert set(NEW_NAMES.values()) <= names
    assert not set(NEW_NAMES) & names
    assert len(set(NEW_NAMES.values())) == len(NEW_NAMES)


OLD_FLAGS = [
    ("--model.places", ["1", "2"], "model.mimb_stages", (1, 2)),
    ("--model.modules", ["1", "2"], "model.num_modules", (1, 2)),
    ("--augment.half-body-min-joints", ["5"], "augment.half_body_min_keypoints", 5),
    ("--augment.half_body_min_joints", ["5"], "augment.half_body_min_keypoints", 5),
    ("--data.layout", ["ochuman"], "data.format", "ochuman"),
    ("--data.tune", ["easy"], "data.val", "easy"),
    ("--train.accumulate", ["4"], "train.gradient_accumulation_steps", 4),
    ("--train.recompute", [], "train.activation_checkpointing", True),
    ("--evaluation.joint-threshold", ["0.5"], "evaluation.keypoint_threshold", 0.5),
]


@pytest.mark.parametrize(("flag", "values", "name", "value"), OLD_FLAGS, ids=[f[0] for f in OLD_FLAGS])
def test_flags_work_under_old_names_and_one_line_tells_the_new_one(
    flag: str, values: list[str], name: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    section, _, key = name.partition(".")
    config = read_flags("train", [flag, *values])[1].config
    assert getattr(getattr(config, section), key) == value
    told = capsys.readouterr()
    new = f"--{name.replace('_', '-')}"
    assert told.out == ""
    assert told.err == f"note: renamed settings: {flag.replace('_', '-')} is now {new}\n"
    same = read_flags("train", [new, *values])[1].config
    assert same == config
    assert capsys.readouterr().err == ""


def test_an_old_flag_with_equals_sign() -> None:
    assert read_flags("train", ["--train.accumulate=4"])[1].config.train.gradient_accumulation_steps == 4


@pytest.mark.parametrize(
    "new", ["--train.gradient-accumulation-steps", "--train.gradient_accumulation_steps=2"]
)
def test_a_flag_under_both_names_is_an_error_in_one_line(new: str) -> None:
    argv = ["--train.accumulate", "4", new, *([] if "=" in new else ["2"])]
    with pytest.raises(ConfigError) as caught:
        read_flags("train", argv)
    assert str(caught.value) == (
        "--train.gradient-accumulation-steps: is given twice, once under its old name --train.accumulate; "
        "give --train.gradient-accumulation-steps only"
    )


def test_yaml_works_under_old_names_and_one_line_tells_the_new_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("preset: debug\nmodel: {places: [3]}\ntrain: {accumulate: 4, recompute: yes}\n")
    config = read_flags("train", ["--config", str(path), "--model.mimb-stages", "1"])[
        1
    ].config  # flags win over the file
    assert config.model.mimb_stages == (1,)
    assert (config.train.gradient_accumulation_steps, config.train.activation_checkpointing) == (4, True)
    assert capsys.readouterr().err == (
        "note: renamed settings: model.places is now model.mimb_stages, "
        "train.accumulate is now train.gradient_accumulation_steps, "
        "train.recompute is now train.activation_checkpointing\n"
    )


def test_a_setting_under_both_names_is_an_error_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    path.write_text("data: {tune: a, val: a}\n")
    for reading in (lambda: read_yaml(path), lambda: from_dict({"data": {"tune": "a", "val": "a"}})):
        with pytest.raises(ConfigError) as caught:
            reading()
        assert str(caught.value) == (
            "data.val: is given twice, once under its old name data.tune; give data.val only"
        )


def test_old_and_new_names_are_each_others_inverse() -> None:
    values = {k: v for k, v in to_dict(preset("coco-hrnet-w32-256x192")).items() if k != "preset"}
    old = with_new_names(with_old_names(values))
    for name, default in ADDED.items():
        section, _, key = name.partition(".")
        assert key not in old[section]
        old[section][key] = default
    assert old == values
    assert "category" in with_old_names(values | {"data": values["data"] | {"category": "rider"}})["data"]
    assert list(with_old_names(values)["model"])[2] == "places"


def test_old_split_of_the_generated_benchmark() -> None:
    old = {"data": {"tune": "tune", "evaluate": ["tune", "hard"]}}
    config = from_dict(old)
    assert (config.data.val, config.data.evaluate) == ("val", ("val", "hard"))
    other = from_dict({"data": {**old["data"], "root": "/data/mine"}})
    assert (other.data.val, other.data.evaluate) == ("tune", ("tune", "hard"))


def test_the_benchmark_has_the_same_scenes_in_another_folder() -> None:
    scenes = preset("debug").scenes
    kept = [(s.split, s.difficulty, s.start, s.count) for s in plan_scenes(scenes) if s.split == "val"]
    assert kept == [("val", d, 10_000_000, n) for d, n in (("easy", 2), ("medium", 3), ("hard", 3))]
    assert benchmark_name(scenes) != "generated-0cf80ce0"  # that of 3205fb3, which has no split called val


def named(debug: Config) -> Config:
    """Preset debug with the numbers that have become 0, for as many as the device has use for."""
    train = dataclasses.replace(debug.train, gradient_accumulation_steps=2)
    return dataclasses.replace(
        debug, train=train, resources=dataclasses.replace(debug.resources, predict_workers=1)
    )


def test_a_runs_settings_load_silently_under_new_names(
    storage: Folder, debug: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load_run(storage.join(f"runs/{RUN}"))
    assert run.config == named(debug)
    assert run.config.model.mimb_stages == (2, 3)
    assert run.config.train.gradient_accumulation_steps == 2
    assert run.config.data.val == "val"
    assert run.finished
    assert differences(model_config(storage.join(f"runs/{RUN}/model")), debug) == []
    assert capsys.readouterr().err == ""


def test_the_same_command_goes_on_with_an_old_run(storage: Folder, debug: Config) -> None:
    assert default_name(debug) == RUN
    state = storage.join(f"runs/{RUN}")
    interrupted = {k: v for k, v in json.loads(state.read("run.json")).items() if k != "finished"}
    state.write("run.json", json.dumps(interrupted))
    run = open_run(storage, debug)
    assert (run.name, run.finished, run.config) == (RUN, False, debug)
    assert debug.train.gradient_accumulation_steps == 0  # the old run's 2, on a CPU
    changed = dataclasses.replace(debug, model=dataclasses.replace(debug.model, mimb_stages=(3,)))
    assert differences(load_run(state).config, changed) == ["model.mimb_stages: [2, 3] -> [3]"]
    assert default_name(changed) != RUN


def test_what_is_saved_has_new_names(storage: Folder) -> None:
    run = load_run(storage.join(f"runs/{RUN}"))
    saved = yaml.safe_load(to_yaml(run.config))
    assert not [name for name in NEW_NAMES if name.split(".")[1] in saved[name.split(".")[0]]]
    assert from_dict(saved) == run.config


def test_the_same_command_goes_on_with_an_old_search(storage: Folder, debug: Config) -> None:
    folder = storage.join(f"searches/{SEARCH}")
    asked = json.loads(folder.read("run.json"))["asked"]
    assert search_name(debug, "instances", asked) == SEARCH
    search = open_search(storage, SEARCH, debug, asked, new=False)
    trials = read_trials(search)
    assert [(t.name, t.target_epochs, list(t.scores), t.failed) for t, _ in trials] == [
        ("n1-r4-lr0.005-s0", 3, [3], ""),
        ("n2-p2.3-r4-lr0.005-s0", 3, [3], ""),
    ]
    assert [run.config.model.mimb_stages for _, run in trials] == [(), (2, 3)]
    for trial, run in trials:
        assert not differences(run.config, trial.point.apply_to(debug, trial.seed))


def test_the_best_of_an_old_search_is_a_config_file(storage: Folder) -> None:
    best = storage.local_path / "searches" / SEARCH / "best.yaml"
    config = read_flags("train", ["--config", str(best)])[1].config
    assert (config.model.instances, config.model.mimb_stages) == (1, ())
