"""Names that settings had in earlier versions; flags, YAML files and files of old runs may still use them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
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

ADDED = {
    "data.category": "",
    "data.keep_area": False,
    "data.exif": "auto",
    "train.sync_batchnorm": False,
}
"""Settings that earlier versions did not have -> their defaults, which do what those did."""

VAL_SPLIT, OLD_VAL_SPLIT = "val", "tune"
"""The validation split of the generated benchmark: its name, and the one of earlier versions."""


def new_key(section: Any, key: Any, names: Mapping[str, str] = NEW_NAMES) -> str:
    """The name within its section of ``section.key``, which may be an old name."""
    return names.get(f"{section}.{key}", f".{key}").partition(".")[2]


def renames_in(given: Sequence[str], names: Mapping[str, str] = NEW_NAMES) -> dict[str, str]:
    """Old name → new name of those that are given under the old one.

    Args:
        given: names of settings, or flags.
        names: old name → new name of all.

    Raises:
        ConfigError: one is given under both names.
    """
    renames = {name: names[name] for name in given if name in names}
    for old, new in renames.items():
        if new in given:
            raise ConfigError(f"{new}: is given twice, once under its old name {old}", f"give {new} only")
    return renames


def with_new_names(values: Mapping[Any, Any], note: bool = False) -> dict[Any, Any]:
    """Nested settings (section → setting → value) with every old name replaced.

    Args:
        values: the settings.
        note: tell the new names on stderr, see ``note_renames``.

    Raises:
        ConfigError: a setting is given under both names.
    """
    sections = [(name, keys) for name, keys in values.items() if isinstance(keys, Mapping)]
    renames = renames_in([f"{section}.{key}" for section, keys in sections for key in keys])
    if note:
        note_renames(renames)
    return _renamed(values, NEW_NAMES)


def _renamed(values: Mapping[Any, Any], names: Mapping[str, str]) -> dict[Any, Any]:
    return {
        section: {new_key(section, k, names): v for k, v in keys.items()}
        if isinstance(keys, Mapping)
        else keys
        for section, keys in values.items()
    }


def with_old_names(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Nested settings under the names of earlier versions, without added ones that have their defaults.

    Digests of settings name runs, so they are taken over these: the same command goes on with an old run.
    """
    present = {
        s: {k: v for k, v in keys.items() if f"{s}.{k}" not in ADDED or v != ADDED[f"{s}.{k}"]}
        for s, keys in values.items()
    }
    named = _renamed(present, OLD_NAMES)
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


def note_renames(renames: Mapping[str, str]) -> None:
    """Tell a person on stderr, in one line, the new names of the settings that they gave under old ones."""
    if renames:
        told = ", ".join(f"{old} is now {new}" for old, new in renames.items())
        print(f"note: renamed settings: {told}", file=sys.stderr)
