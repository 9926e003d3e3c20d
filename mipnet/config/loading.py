"""Configurations from presets, YAML files and flags, all through one merge and one validation."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mipnet.config.old_names import with_new_names, with_new_split, with_old_names
from mipnet.config.presets import preset
from mipnet.config.schema import MICRO_BATCHES_ON_CPU, Config, to_dict
from mipnet.config.skeleton_files import skeleton_setting, yaml_of
from mipnet.config.validation import YES_NO_OR_AUTO, config_of, format_value
from mipnet.errors import ConfigError, suggest

# How a run is carried out and where it is recorded does not change what it computes.
_NOT_IDENTITY = ("resources", "tracking", "preset")


def from_dict(values: Mapping[str, Any], base: Config | None = None) -> Config:
    """The configuration that ``values`` describe on top of ``base`` (default: the preset they name).

    Strings are accepted for numbers, so flags and YAML share this path.

    Raises:
        ConfigError: unknown key, wrong type, or impossible value; one line that names the field.
    """
    if base is None:
        base = preset(str(values.get("preset", Config.preset)))
    merged = _merge(to_dict(base), with_new_names(values), "")
    return config_of({**merged, "data": with_new_split(merged["data"])})


def _merge(base: dict[str, Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    merged = dict(base)
    for key, value in values.items():
        name = f"{where}{key}"
        if key not in base:
            raise ConfigError(f"{name}: unknown setting", suggest(str(key), base))
        if name == "data.skeleton":
            merged[key] = skeleton_setting(value)
        elif isinstance(base[key], dict):
            if not isinstance(value, Mapping):
                hint = f"give settings under {name}:"
                raise ConfigError(f"{name}: {format_value(value)} is not a section", hint)
            merged[key] = _merge(base[key], value, name + ".")
        else:
            merged[key] = _leaf(name, base[key], value)
    return merged


def _leaf(name: str, default: Any, value: Any) -> Any:
    """Refuse true for 1 and turn '101' into 101 for integer choices; pydantic does neither."""
    items = value if isinstance(value, (list, tuple)) else [value]
    may_be_bool = isinstance(default, bool) or name in YES_NO_OR_AUTO
    if not may_be_bool and any(isinstance(item, bool) for item in items):
        raise ConfigError(f"{name}: {format_value(value)} does not fit", "it is not a yes-or-no setting")
    if isinstance(default, int) and not isinstance(default, bool) and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return int(value)
    return value


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file, not yet validated; a line on stderr tells the new names of old ones.

    Raises:
        ConfigError: the file is missing or is not a YAML mapping, or gives a setting under both its names.
    """
    values = yaml_of(path, "--config: ")
    if not isinstance(values, dict):
        raise ConfigError(f"--config: {path} holds no settings", "write lines like 'train: {epochs: 3}'")
    return with_new_names(values, note=True)


def to_yaml(config: Config) -> str:
    """The whole configuration as YAML that ``--config`` takes as it is."""
    import yaml

    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def digest(config: Config) -> str:
    """Eight hex digits over everything that changes the result; workers and tracking do not.

    They name runs, so they are taken over the names of earlier versions: the same command then goes on with a
    run of an earlier version.
    """
    values = with_old_names(_identity(config))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def differences(old: Config, new: Config) -> list[str]:
    """'section.field: old -> new' for every setting that is part of a run's identity and differs."""
    a, b = _identity(old), _identity(new)
    return [
        f"{section}.{key}: {format_value(a[section][key])} -> {format_value(value)}"
        for section, values in b.items()
        for key, value in values.items()
        if a[section][key] != value
    ]


def _identity(config: Config) -> dict[str, Any]:
    """The sections that say what a run computes."""
    values = {k: v for k, v in to_dict(config).items() if k not in _NOT_IDENTITY}
    train = values["train"]
    for name in ("profile", "patience", "max_hours"):  # the last two may change: a run goes on where it ended
        del train[name]
    # Presets of earlier versions named the number that 0 now stands for on a CPU.
    train["gradient_accumulation_steps"] = train["gradient_accumulation_steps"] or MICRO_BATCHES_ON_CPU
    del values["data"]["max_bad_share"]  # it may be raised to go on with a run that it has stopped
    return values
