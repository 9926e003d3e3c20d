"""Skeletons of one's own: read from YAML, kept whole in the configuration."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from mipnet.config import from_dict, preset, to_dict, to_yaml
from mipnet.config.loading import digest, read_yaml
from mipnet.config.skeleton_files import skeleton_setting, yaml_of
from mipnet.errors import ConfigError
from mipnet.models.initialization import known_skeleton
from mipnet.skeletons import COCO17, Skeleton

BIRD: dict[str, Any] = {
    "name": "bird5",
    "joints": ["beak", "left_eye", "right_eye", "left_foot", "right_foot"],
    "sigmas": [0.03, 0.03, 0.03, 0.08, 0.08],
    "flip_pairs": [["left_eye", "right_eye"], [3, 4]],
    "limbs": [["beak", "left_eye"], ["beak", "right_eye"]],
    "upper_body": ["beak", "left_eye", "right_eye"],
}


def write(folder: Path, content: Any, name: str = "bird.yaml") -> str:
    (folder / name).write_text(yaml.safe_dump(content))
    return str(folder / name)


def test_a_file_becomes_part_of_the_configuration(tmp_path: Path) -> None:
    path = write(tmp_path, BIRD)
    config = from_dict({"data": {"skeleton": path, "root": "/birds"}}, preset("tiny"))
    Path(path).unlink()  # from here on nobody needs it
    bird = config.data.joints
    assert (bird.name, bird.num_joints) == ("bird5", 5)
    assert bird.flip_permutation == (0, 2, 1, 4, 3)
    assert bird.limbs == ((0, 1), (0, 2))
    assert bird.upper_body == (0, 1, 2)
    again = from_dict(to_dict(config))
    assert again == config
    assert hash(again) == hash(config)
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    assert from_dict(read_yaml(tmp_path / "run.yaml")) == config
    assert digest(config) != digest(from_dict({"data": {"root": "/birds"}}, preset("tiny")))
    assert known_skeleton({"config": to_dict(config)}) == bird
    assert from_dict({"data": {"skeleton": "coco17"}}, config).data.joints == COCO17  # a flag over a model's


def test_names_and_definitions_are_taken_too() -> None:
    assert skeleton_setting("coco17") == "coco17"
    assert skeleton_setting({**BIRD})["flip_pairs"] == ((1, 2), (3, 4))
    bird = Skeleton(**skeleton_setting(BIRD))
    assert skeleton_setting(bird) == asdict(bird)
    few = {key: BIRD[key] for key in ("name", "joints", "sigmas")} | {"flip_pairs": []}
    assert skeleton_setting(few)["upper_body"] == ()


def test_the_file_names_the_skeleton_where_it_has_no_name(tmp_path: Path) -> None:
    content = {key: value for key, value in BIRD.items() if key != "name"}
    assert skeleton_setting(write(tmp_path, content))["name"] == "bird"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sigmas": [0.03]}, "1 sigmas for 5 joints"),
        ({"sigmas": [0.03, 0.03, 0.03, 0.08, "wide"]}, "sigmas must be numbers"),
        ({"sigmas": [0.03, 0.03, 0.03, 0.08, -1]}, "sigma -1.0 is not above 0"),
        ({"sigmas": None}, "no list 'sigmas'"),
        ({"joints": [*BIRD["joints"][:4], "beak"]}, "joint 'beak' is there twice"),
        ({"flip_pairs": [["left_eye", "right_ear"]]}, "no joint is called 'right_ear'"),
        ({"flip_pairs": [["left_eye", "right_eye"], [1, 3]]}, "'left_eye' is in flip_pairs twice"),
        ({"flip_pairs": ["left_eye"]}, "flip_pairs has 'left_eye'"),
        ({"flip_pairs": None}, "no list 'flip_pairs'"),
        ({"limbs": [[0, 5]]}, "index 5 is beyond its 5 joints"),
        ({"upperbody": []}, "unknown key 'upperbody'; did you mean 'upper_body'?"),
        ({"name": "coco17"}, "is the name of a built-in skeleton"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = write(tmp_path, BIRD | change)
    with pytest.raises(ConfigError) as caught:
        skeleton_setting(path)
    assert words in str(caught.value)
    assert str(caught.value).count(path) == 1
    assert "\n" not in str(caught.value)


NUMBERED: dict[str, Any] = {"joints": [1, 2, 3, 4], "sigmas": [0.05] * 4, "flip_pairs": []}


@pytest.mark.parametrize(
    "change",
    [
        {"flip_pairs": [[2, 3]]},
        {"limbs": [[1, 4]]},
        {"upper_body": [1]},
        {"joints": ["1", "2", "3", "4"], "flip_pairs": [[2, 3]]},
        {"joints": ["head", 2, 1, "hip"], "flip_pairs": [["head", 2]]},
    ],
)
def test_a_number_that_may_be_a_name_or_an_index_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"bird\.yaml: . may be the joint of that name .* in quotes: '.'$"):
        skeleton_setting(write(tmp_path, NUMBERED | change))


def test_joints_that_are_named_by_numbers(tmp_path: Path) -> None:
    path = write(
        tmp_path, NUMBERED | {"flip_pairs": [["2", "3"]], "limbs": [["1", "4"]], "upper_body": ["1"]}
    )
    config = from_dict({"data": {"skeleton": path, "root": "/birds"}}, preset("tiny"))
    joints = config.data.joints
    assert (joints.flip_pairs, joints.limbs, joints.upper_body) == (((1, 2),), ((0, 3),), (0,))
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    assert from_dict(read_yaml(tmp_path / "run.yaml")) == config
    with pytest.raises(ConfigError, match=r"data\.skeleton: 2 may be the joint"):
        from_dict({"data": {"skeleton": NUMBERED | {"name": "own", "flip_pairs": [[2, 3]]}}}, config)
    from_0 = write(tmp_path, NUMBERED | {"joints": [0, 1, 2, 3], "flip_pairs": [[2, 3]]})
    assert skeleton_setting(from_0)["flip_pairs"] == ((2, 3),)  # name and index are the same


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the skeleton .*No such file"):
        skeleton_setting(str(tmp_path / "none.yaml"))
    (tmp_path / "broken.yaml").write_text("joints: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not YAML"):
        skeleton_setting(str(tmp_path / "broken.yaml"))
    with pytest.raises(ConfigError, match="does not define a skeleton"):
        skeleton_setting(write(tmp_path, ["beak"]))
    with pytest.raises(ConfigError, match="'coco71' is unknown; did you mean 'coco17'"):
        skeleton_setting("coco71")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("data:\n  root: a\ntrain: {}\ndata:\n  exif: stored\n", "'data' is there twice, in lines 1 and 4"),
        ("data:\n  root: a\n  root: b\n", "'root' is there twice, in lines 2 and 3"),
        ("names: {0: person, 1: ball,\n 0: dog}", "'0' is there twice, in lines 1 and 2"),
        ('{"a": 1, "a": 2}', "'a' is there twice, in lines 1 and 1"),
    ],
)
def test_a_key_that_is_there_twice_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        yaml_of(path, "--config: ")
    assert str(caught.value) == f"--config: {path}: {what}; remove one of them"


def test_a_key_that_overrides_a_merged_one_is_there_once(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n'1': x\n1: y\n")
    found = yaml_of(path)
    assert found["b"] == {"x": 3, "y": 2}
    assert (found["1"], found[1]) == ("x", "y")


@pytest.mark.parametrize("text", ["date: 2024-02-31\n", "a: 0x_\n", "[" * 2000, "a: [\n"])
def test_what_is_no_yaml_is_said_in_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"own\.yaml is not YAML \(.+\); mend it there$"):
        yaml_of(tmp_path / "own.yaml")
