"""Settings: one merge, one validation, and one line about whatever is wrong."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import yaml

from mipnet.cli.shared_options import read_flags
from mipnet.config import PRESETS, Config, differences, digest, from_dict, preset, read_yaml, to_dict, to_yaml
from mipnet.config.schema import ModelConfig, TrainConfig
from mipnet.config.validation import Problem, validate
from mipnet.errors import ConfigError, DataError, UserError, suggest

NAN, INF = float("nan"), float("inf")


def complaint(values: dict[Any, Any], base: Config | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        from_dict(values, base)
    return str(caught.value)


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, tuple):
        return (*value, *value[:1])
    return value + "x"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_survive_dict_and_yaml(name: str) -> None:
    config = preset(name)
    assert validate(config) is config
    assert config.preset == name
    assert from_dict(to_dict(config)) == config
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert from_dict(yaml.safe_load(to_yaml(config))) == config
    assert from_dict({"preset": name}) == config


def test_a_dict_of_a_config_names_every_field_and_holds_plain_values() -> None:
    values = to_dict(preset("tiny"))
    for section in dataclasses.fields(Config):
        if section.name != "preset":
            names = [f.name for f in dataclasses.fields(getattr(preset("tiny"), section.name))]
            assert list(values[section.name]) == names
    assert values["model"]["mimb_stages"] == [2, 3]
    assert isinstance(values["model"]["mimb_stages"], list)


def test_every_setting_has_help() -> None:
    for section in dataclasses.fields(Config):
        if section.name != "preset":
            for field in dataclasses.fields(getattr(preset("tiny"), section.name)):
                assert field.metadata["help"], f"{section.name}.{field.name}"


BAD = [
    ({"trian": {}}, "trian: unknown setting; did you mean 'train'?"),
    ({"train": {"epoch": 3}}, "train.epoch: unknown setting; did you mean 'epochs'?"),
    ({"train": {"zzz": 3}}, "train.zzz: unknown setting; choose from epochs, batch_size, "),
    ({3: 4}, "3: unknown setting; choose from preset, model, "),
    ({"train": 5}, "train: 5 is not a section; give settings under train:"),
    ({"train": None}, "train: None is not a section; give settings under train:"),
    ({"preset": "tinny"}, "preset: 'tinny' is unknown; did you mean 'tiny'?"),
    ({"preset": None}, "preset: 'None' is unknown; choose from tiny, debug"),
    ({"train": {"epochs": "many"}}, "train.epochs: 'many' does not fit; give a valid integer"),
    ({"train": {"epochs": "a\nb"}}, "train.epochs: 'a\\nb' does not fit; give a valid integer"),
    ({"train": {"epochs": 3.5}}, "train.epochs: 3.5 does not fit; give a valid integer"),
    ({"train": {"epochs": None}}, "train.epochs: None does not fit; give a valid integer"),
    ({"train": {"learning_rate": "fast"}}, "train.learning_rate: 'fast' does not fit; give a valid number"),
    ({"train": {"freeze_batchnorm": "maybe"}}, "train.freeze_batchnorm: 'maybe' does not fit; give a valid"),
    ({"train": {"optimizer": "adm"}}, "train.optimizer: 'adm' does not fit; did you mean 'adam'?"),
    ({"train": {"optimizer": None}}, "train.optimizer: None does not fit; choose from adam, adamw"),
    ({"model": {"backbone": "hrnt"}}, "model.backbone: 'hrnt' does not fit; did you mean 'hrnet'?"),
    ({"model": {"depth": 99}}, "model.depth: 99 does not fit; choose from 18, 34, 50, 101, 152"),
    ({"model": {"depth": "ten"}}, "model.depth: 'ten' does not fit; choose from 18, 34, 50, 101, 152"),
    ({"model": {"mimb_stages": 2}}, "model.mimb_stages: 2 does not fit; give a valid list"),
    ({"model": {"mimb_stages": ["two"]}}, "model.mimb_stages: 'two' does not fit; give a valid integer"),
    ({"data": {"evaluate": "easy"}}, "data.evaluate: 'easy' does not fit; give a valid list"),
    ({"data": {"root": 5}}, "data.root: 5 does not fit; give a valid string"),
    ({"model": {"instances": 0}}, "model.instances: 0 is below 1; nearest is 1"),
    (
        {"model": {"mimb_stages": [2, 5]}},
        "model.mimb_stages: 5 is not a MIMB stage of hrnet; choose from 1, 2, 3; nearest is 3",
    ),
    (
        {"model": {"mimb_stages": [0]}},
        "model.mimb_stages: 0 is not a MIMB stage of hrnet; choose from 1, 2, 3; nearest is 1",
    ),
    (
        {"model": {"backbone": "simplebaseline", "mimb_stages": [5]}},
        "model.mimb_stages: 5 is not a MIMB stage of simplebaseline; choose from 1, 2, 3, 4; nearest is 4",
    ),
    (
        {"model": {"mimb_stages": [2, 2]}},
        "model.mimb_stages: [2, 2] names a stage twice; name each stage once",
    ),
    (
        {"model": {"mimb_stages": []}},
        "model.mimb_stages: [] is empty, so nothing tells 2 instances apart; give a stage, e.g. 3, or set "
        "model.instances to 1",
    ),
    (
        {"model": {"num_modules": []}},
        "model.num_modules: [] does not describe stages; give 1 to 3 positive numbers",
    ),
    ({"model": {"num_modules": [1, 0]}}, "model.num_modules: [1, 0] does not describe stages; give 1 to 3"),
    ({"model": {"width": 3}}, "model.width: 3 is below 4; nearest is 4"),
    (
        {"model": {"backbone": "simplebaseline", "reduction": 4096}, "input": {"width": 64}},
        "model.reduction: 4096 is above 64; nearest is 64",
    ),
    (
        {"input": {"width": 60}},
        "input.width: 60 does not fit the heatmaps of hrnet; use a multiple of 16; nearest is 64",
    ),
    ({"input": {"height": 0}}, "input.height: 0 does not fit the heatmaps of hrnet; use a multiple of 16"),
    (
        {"model": {"backbone": "simplebaseline"}, "input": {"width": 80}},
        "input.width: 80 does not fit the heatmaps of simplebaseline; use a multiple of 32; nearest is 64",
    ),
    ({"target": {"sigma": 0}}, "target.sigma: 0.0 is not above 0; use a number above 0"),
    ({"target": {"sigma": 4.01}}, "target.sigma: 4.01 does not fit a 16x24 heatmap; use at most 4.00"),
    ({"augment": {"flip": 1.5}}, "augment.flip: 1.5 is above 1; nearest is 1"),
    ({"augment": {"rotation": -1}}, "augment.rotation: -1.0 is below 0; nearest is 0"),
    ({"data": {"skeleton": "coco"}}, "data.skeleton: 'coco' is unknown; did you mean 'coco17'?"),
    ({"data": {"evaluate": []}}, "data.evaluate: [] is empty; name at least one split"),
    ({"data": {"boxes": []}}, "data.boxes: [] is empty; name at least one box source, e.g. gt"),
    (
        {"data": {"boxes": ["d=a.json", "gt", "d=b.json"]}},
        "data.boxes: [d=a.json, gt, d=b.json] has one name twice; give each source a name of its own",
    ),
    (
        {"data": {"boxes": ["gt=a.json"]}},
        "data.boxes: [gt=a.json] names a file gt, as labelled boxes are; give another name",
    ),
    (
        {"scenes": {"easy": 0, "medium": 0, "hard": 0}},
        "scenes.easy + medium + hard: 0 is below 1; nearest is 1",
    ),
    ({"train": {"batch_size": 0}}, "train.batch_size: 0 is below 1; nearest is 1"),
    (
        {"train": {"gradient_accumulation_steps": 6}, "resources": {"workers": "2:3"}},
        "train.gradient_accumulation_steps: 6 is above a worker's share of the batch, 5; nearest is 5",
    ),
    ({"train": {"seed": -1}}, "train.seed: -1 is below 0; nearest is 0"),
    ({"train": {"ema": 1}}, "train.ema: 1.0 is above 0.99999; nearest is 0.99999"),
    ({"evaluation": {"discount": 0}}, "evaluation.discount: 0.0 is not above 0; use a number above 0"),
    ({"resources": {"workers": 0}}, "resources.workers: 0 is below 1; nearest is 1"),
    ({"resources": {"workers": "0:2"}}, "resources.workers: '0:2' is below 1; nearest is 1:2"),
    ({"resources": {"workers": "8:2"}}, "resources.workers: '8:2' has a MAX below its MIN; give 2:8"),
    (
        {"resources": {"workers": "a:b"}},
        "resources.workers: 'a:b' is neither N nor MIN:MAX; give e.g. 8 or 2:8",
    ),
    (
        {"resources": {"workers": "2:"}},
        "resources.workers: '2:' is neither N nor MIN:MAX; give e.g. 8 or 2:8",
    ),
    (
        {"resources": {"workers": [2, 8]}},
        "resources.workers: [2, 8] does not fit; give N or MIN:MAX, e.g. 2:8",
    ),
    ({"resources": {"workers": 2.5}}, "resources.workers: 2.5 does not fit; give N or MIN:MAX, e.g. 2:8"),
    ({"resources": {"workers": 17}}, "resources.workers: 17 is above train.batch_size 16; nearest is 16"),
    (
        {"resources": {"workers": "1:17"}},
        "resources.workers: '1:17' ends above train.batch_size 16; nearest is 1:16",
    ),
    (
        {"train": {"sync_batchnorm": True, "gradient_accumulation_steps": 2}},
        "train.sync_batchnorm: True does not go with 2 gradient_accumulation_steps, each with its own batch "
        "norm; give 0 or 1 of them",
    ),
    (
        {"train": {"sync_batchnorm": True, "compile": True}},
        "train.sync_batchnorm: True does not go with train.compile; leave out one of them",
    ),
    # true is not 1
    ({"train": {"epochs": True}}, "train.epochs: True does not fit; it is not a yes-or-no setting"),
    ({"train": {"learning_rate": True}}, "train.learning_rate: True does not fit; it is not a yes-or-no"),
    (
        {"model": {"mimb_stages": [True]}},
        "model.mimb_stages: [True] does not fit; it is not a yes-or-no setting",
    ),
    # nan passes every comparison with "not below", inf every other
    ({"train": {"learning_rate": "inf"}}, "train.learning_rate: inf is not finite; give an ordinary number"),
    ({"train": {"milestones": [1, NAN]}}, "train.milestones: [1.0, nan] is not finite; give an ordinary"),
    ({"evaluation": {"keypoint_threshold": NAN}}, "evaluation.keypoint_threshold: nan is not finite"),
    ({"data": {"box_score_threshold": NAN}}, "data.box_score_threshold: nan is not finite"),
    ({"input": {"padding": INF}}, "input.padding: inf is not finite"),
    ({"augment": {"rotation": INF}}, "augment.rotation: inf is not finite"),
    ({"resources": {"object_store_gb": INF}}, "resources.object_store_gb: inf is not finite"),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=[m.split(";")[0][:60] for _, m in BAD])
def test_bad_settings_get_one_line_that_names_field_and_remedy(values: dict[Any, Any], message: str) -> None:
    got = complaint(values)
    assert got.startswith(message)
    assert len(got.splitlines()) == 1
    assert "; " in got  # the remedy


def numbers() -> Iterator[tuple[str, str, Any]]:
    """(section, setting, annotation) of every setting that is one number."""
    for section in dataclasses.fields(Config):
        if section.name != "preset":
            kind = type(getattr(Config(), section.name))
            for name, hint in get_type_hints(kind, include_extras=True).items():
                if hint in (int, float) or get_origin(hint) is Annotated:
                    yield section.name, name, hint


def test_numbers_everywhere_are_checked_for_nan() -> None:
    found = list(numbers())
    assert len(found) > 40
    for section, name, _ in found:
        assert f"{section}.{name}: nan is not finite" in complaint({section: {name: NAN}})


def test_ranges_of_the_annotations_hold_for_dicts_and_for_validate() -> None:
    found = 0
    for section, name, hint in numbers():
        kind, *ranges = get_args(hint) or (hint,)
        for name_of_limit, limit in (item for r in ranges for item in r.limits.items()):
            beyond = kind(limit + 1 if name_of_limit == "le" else limit - 1)
            message = f"{section}.{name}: {beyond} is "
            assert complaint({section: {name: beyond}}).startswith(message)
            settings = dataclasses.replace(getattr(preset("tiny"), section), **{name: beyond})
            with pytest.raises(ConfigError) as caught:
                validate(dataclasses.replace(preset("tiny"), **{section: settings}))
            assert str(caught.value).startswith(message)
            found += 1
    assert found > 40


def test_one_instance_with_places_is_legal() -> None:
    config = from_dict({"model": {"instances": 1}})
    assert config.model.mimb_stages == (2, 3)


def test_strings_are_accepted_for_numbers_and_lists_for_tuples() -> None:
    config = from_dict(
        {
            "model": {"instances": "3", "mimb_stages": ["1", 3], "depth": "101"},
            "input": {"width": " 96"},
            "train": {"learning_rate": "1e-3", "freeze_batchnorm": "true", "milestones": ["1", 2.5]},
        }
    )
    assert (config.model.instances, config.model.mimb_stages, config.model.depth) == (3, (1, 3), 101)
    assert config.input.width == 96
    assert (config.train.learning_rate, config.train.milestones) == (1e-3, (1.0, 2.5))
    assert config.train.freeze_batchnorm is True
    assert type(config.train.epochs) is int
    assert isinstance(config.model.mimb_stages, tuple)
    hash(config)  # frozen through and through


def test_values_go_on_top_of_the_base_and_leave_it_alone() -> None:
    base = from_dict({"train": {"epochs": 9}})
    config = from_dict({"train": {"batch_size": 8}}, base)
    assert (config.train.epochs, config.train.batch_size) == (9, 8)
    assert (base.train.epochs, base.train.batch_size) == (9, 16)


def test_a_partial_yaml_file_goes_on_top_of_the_preset_it_names(tmp_path: Any) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("preset: debug\ntrain: {epochs: 2, learning_rate: 1e-4}  # YAML reads 1e-4 as a string\n")
    config = from_dict(read_yaml(path))
    assert differences(preset("debug"), config) == [
        "train.epochs: 3 -> 2",
        "train.learning_rate: 0.005 -> 0.0001",
    ]
    path.write_text("model: {mimb_stages: [3]}\n")
    assert differences(preset("tiny"), from_dict(read_yaml(str(path)))) == [
        "model.mimb_stages: [2, 3] -> [3]"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        (b"", "holds no settings"),
        (b"- 1\n- 2\n", "holds no settings"),
        (b"just words", "holds no settings"),
        (b"a: [1, 2\nb: }", "is not YAML"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe\x00", "is not YAML"),
    ],
)
def test_config_files_that_cannot_be_read(tmp_path: Any, content: bytes | None, message: str) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(path)
    assert str(caught.value).startswith("--config: ")
    assert "config.yaml" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_is_not_a_config_file(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="--config: cannot read"):
        read_yaml(tmp_path)


MAY_CHANGE = ("data.max_bad_share", "train.profile", "train.patience", "train.max_hours")
"""Settings of a run that another start may have otherwise."""


def test_digest_changes_with_every_setting_but_resources_and_tracking() -> None:
    config = preset("tiny")
    seen = {digest(config)}
    for section in dataclasses.fields(Config):
        if section.name == "preset":
            continue
        settings = getattr(config, section.name)
        for field in dataclasses.fields(settings):
            value = changed(getattr(settings, field.name))
            other = dataclasses.replace(
                config, **{section.name: dataclasses.replace(settings, **{field.name: value})}
            )
            name = f"{section.name}.{field.name}"
            if section.name in ("resources", "tracking") or name in MAY_CHANGE:
                assert digest(other) == digest(config), name
                assert not differences(config, other), name
            else:
                assert digest(other) not in seen, name
                assert [d.split(":")[0] for d in differences(config, other)] == [name]
                seen.add(digest(other))
    assert digest(dataclasses.replace(config, preset="renamed")) == digest(config)
    assert len(digest(config)) == 8
    assert int(digest(config), 16) >= 0


def test_places_and_strides_follow_the_backbone() -> None:
    assert ModelConfig(num_modules=(1, 4, 3)).possible_mimb_stages == (1, 2, 3, 4)
    assert ModelConfig(num_modules=(1,)).possible_mimb_stages == (1, 2)
    assert [ModelConfig(num_modules=(1,) * n).coarsest_stride for n in (1, 2, 3)] == [8, 16, 32]
    simple = ModelConfig(backbone="simplebaseline", num_modules=(1,))
    assert (simple.possible_mimb_stages, simple.coarsest_stride) == ((1, 2, 3, 4), 32)


@pytest.mark.parametrize("modules", [(1,), (1, 1), (1, 1, 1)])
def test_what_validates_can_be_built_and_gives_heatmaps_of_the_promised_size(
    modules: tuple[int, ...],
) -> None:
    import torch

    from mipnet.training.checkpoint import model_from_config

    step = 4 * 2 ** len(modules)
    config = from_dict(
        {
            "model": {
                "num_modules": modules,
                "mimb_stages": ModelConfig(num_modules=modules).possible_mimb_stages,
                "width": 4,
                "stem_channels": 1,
                "blocks": 1,
            },
            "input": {"width": step, "height": 2 * step},
            "target": {"sigma": 0.3},
        }
    )
    heatmaps = model_from_config(config).eval()(torch.zeros(1, 3, 2 * step, step))
    assert heatmaps.shape == (1, 2, 17, *config.heatmap_size[::-1])


def test_simplebaseline_does_not_mind_settings_of_hrnet() -> None:
    config = from_dict({"model": {"backbone": "simplebaseline", "width": 1, "mimb_stages": [3, 4]}})
    assert config.model.width == 1


ERRORS = [
    UserError("it is broken", "mend it", 3),
    UserError("it is broken"),
    ConfigError("a: 1 does not fit", "give 2"),
    DataError("no such file"),
    Problem("model.mimb_stages", (1, 2), "cannot be", "give 3"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_errors_survive_pickling(error: UserError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert (again.what, again.hint, again.exit_code) == (error.what, error.hint, error.exit_code)
    assert isinstance(again, ConfigError) == isinstance(error, ConfigError)
    assert isinstance(again, DataError) == isinstance(error, DataError)
    assert str(pickle.loads(pickle.dumps(again))) == str(error)


def test_nearest() -> None:
    assert suggest("epoch", ["epochs", "seed"]) == "did you mean 'epochs'?"
    assert suggest("zzz", ["epochs", "seed"]) == "choose from epochs, seed"
    assert suggest("zzz", []) == "there is nothing to choose from"


def test_defaults_of_the_dataclasses_are_the_papers_recipe() -> None:
    train = TrainConfig()
    assert (train.optimizer, train.learning_rate, train.milestones, train.drop) == (
        "adam",
        1e-3,
        (70, 100),
        0.1,
    )
    assert (ModelConfig().instances, ModelConfig().mimb_stages, ModelConfig().reduction) == (2, (3, 4), 4)
    assert validate(Config()) == Config()


def test_no_flags_at_all_is_the_default_preset() -> None:
    """The command that the README opens with."""
    call = read_flags("train", [])[1]
    assert (call.options.preset, call.config) == ("tiny", preset("tiny"))


@pytest.mark.parametrize(
    ("argv", "gpu"),
    [
        ([], "auto"),
        (["--gpu"], True),
        (["--gpu", "--epochs", "3"], True),
        (["--gpu", "true"], True),
        (["--gpu=false"], False),
        (["--resources.gpu", "auto"], "auto"),
    ],
)
def test_gpu_is_yes_no_or_auto(argv: list[str], gpu: Any) -> None:
    config = read_flags("train", argv)[1].config
    assert config.resources.gpu == gpu
    assert type(config.resources.gpu) is type(gpu)
    assert from_dict(yaml.safe_load(to_yaml(config))) == config


@pytest.mark.parametrize("value", ["maybe", 3, "cuda", [True]])
def test_other_values_of_gpu_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict({"resources": {"gpu": value}})
    assert str(caught.value).startswith("resources.gpu: ")
    assert str(caught.value).endswith("does not fit; give auto, true or false")


def test_yaml_may_say_yes_and_no(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("resources: {gpu: yes}\n")
    assert from_dict(read_yaml(tmp_path / "a.yaml")).resources.gpu is True
    with pytest.raises(ConfigError, match=r"train.precision: True does not fit; it is not a yes-or-no"):
        from_dict({"train": {"precision": True}})


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text("preset: debug\ntrain: {epochs: 9, seed: 4}\n")
    config = read_flags(
        "train", ["--config", str(file), "--epochs=7", "--model.mimb-stages", "1", "2", "--gpu"]
    )[1].config
    assert (config.preset, config.train.epochs, config.train.seed) == ("debug", 7, 4)
    assert (config.model.mimb_stages, config.resources.gpu) == ((1, 2), True)
    baseline = read_flags("train", ["--baseline"])[1].config
    assert (baseline.model.instances, baseline.model.mimb_stages) == (1, ())


def test_a_range_of_workers_in_yaml_is_no_number_to_the_base_60(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("preset: debug\nresources: {workers: 2:8}\ntrain: {epochs: 0x10, seed: 1_0}\n")
    config = from_dict(read_yaml(file))
    assert config.resources.workers == "2:8"
    assert (config.train.epochs, config.train.seed) == (16, 10)
    file.write_text(to_yaml(config))
    assert from_dict(read_yaml(file)) == config
    assert from_dict({"resources": {"workers": "3"}}, config).resources.max_workers == 3
    assert digest(config) == digest(from_dict({"train": {"epochs": 16, "seed": 10}}, preset("debug")))
