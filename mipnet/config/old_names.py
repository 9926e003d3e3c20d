"""Names that settings had in earlier versions; flags, YAML files and files of old runs may still use them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from mipnet.config.schema import GENERATED
from mipnet.errors import ConfigError

NEW_NAMES = {
    "model.places": "model.mimb_stages",
    "model.modules": "model.num_modules",
    "augment.half_body_min_joints": "augment.half_body_min_keypoints",
    "data.layout": "data.format",
    "data.tune": "data.val",
    "train.accumulate": "train.gradient_accumulation_steps",
    "train.recompute": "train.activation_checkpointing",
    "evaluation.joint_threshold": "evaluation.keypoint_threshold",
}
"""Old name → new name of every setting that was renamed."""

OLD_NAMES = {new: old for old, new in NEW_NAMES.items()}

VAL_SPLIT, OLD_VAL_SPLIT = "val", "tune"
"""The validation split of the generated benchmark: its name, and the one of earlier versions."""


def new_key(section: Any, key: Any) -> Any:
    """The name within its section of ``section.key``, which may be an old name."""
    new = NEW_NAMES.get(f"{section}.{key}")
    return new.partition(".")[2] if new else key


def old_names_in(values: Mapping[Any, Any]) -> dict[str, str]:
    """Old name → new name (``section.setting``) of the renamed settings in nested ones."""
    names = [f"{part}.{key}" for part, keys in values.items() if isinstance(keys, Mapping) for key in keys]
    return {name: NEW_NAMES[name] for name in names if name in NEW_NAMES}


def with_new_names(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """Nested settings (section → setting → value) with every old name replaced.

    Raises:
        ConfigError: a setting is given under both names.
    """
    for old, new in old_names_in(values).items():
        section, _, key = new.partition(".")
        if key in values[section]:
            raise given_twice(old, new)
    return {
        section: {new_key(section, key): v for key, v in keys.items()} if isinstance(keys, Mapping) else keys
        for section, keys in values.items()
    }


def with_old_names(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Nested settings under the names of earlier versions.

    Digests of settings name runs, so they are taken over these: the same command goes on with an old run.
    """
    named = {
        section: {
            OLD_NAMES.get(f"{section}.{key}", f".{key}").partition(".")[2]: v for key, v in keys.items()
        }
        for section, keys in values.items()
    }
    return {**named, "data": _with_split(named["data"], VAL_SPLIT, OLD_VAL_SPLIT)}


def with_new_split(data: dict[str, Any]) -> dict[str, Any]:
    """The settings ``data.*`` with the new name of the generated benchmark's validation split."""
    return _with_split(data, OLD_VAL_SPLIT, VAL_SPLIT)


def _with_split(data: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    if data["root"] != GENERATED:
        return data
    renamed: dict[str, Any] = {key: new for key in ("train", "val", "tune") if data.get(key) == old}
    if isinstance(data["evaluate"], (list, tuple)):
        renamed["evaluate"] = [new if split == old else split for split in data["evaluate"]]
    return data | renamed


def given_twice(old: str, new: str) -> ConfigError:
    """The error about a setting or flag that is given under its old and its new name."""
    return ConfigError(f"{new}: is given twice, once under its old name {old}", f"give {new} only")


def note_renames(renames: Mapping[str, str]) -> None:
    """Tell a person on stderr, in one line, the new names of the settings that they gave under old ones."""
    if renames:
        told = ", ".join(f"{old} is now {new}" for old, new in renames.items())
        print(f"note: renamed settings: {told}", file=sys.stderr)
