"""Configurations from presets, YAML files and flags, all through one merge and one validation."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mipnet.config.checks import shown
from mipnet.config.presets import preset
from mipnet.config.schema import Config, validate
from mipnet.config.skeleton_files import skeleton_setting, yaml_of
from mipnet.errors import ConfigError, nearest

# How a run is carried out and where it is recorded does not change what it computes.
_NOT_IDENTITY = ("resources", "tracking", "preset")
_YES_NO_OR_AUTO = ("resources.gpu",)


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dict of builtin types (tuples become lists): what YAML and JSON hold."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: Mapping[str, Any], base: Config | None = None) -> Config:
    """The configuration that ``values`` describe on top of ``base`` (default: the preset they name).

    Strings are accepted for numbers, so flags and YAML share this path.

    Raises:
        ConfigError: unknown key, wrong type, or impossible value; one line that names the field.
    """
    from pydantic import TypeAdapter, ValidationError

    if base is None:
        base = preset(str(values.get("preset", Config.preset)))
    merged = _merge(to_dict(base), values, "")
    try:
        config = TypeAdapter(Config).validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:2])  # then comes the place in a list or union
        message = first["msg"].removeprefix("Input should be ").split(",")[0].replace("tuple", "list")
        mend = f"give {message}"
        if first["type"] == "literal_error":
            choices = [c.strip(" '") for c in str(first["ctx"]["expected"]).replace(" or ", ", ").split(",")]
            mend = nearest(str(first["input"]), choices)
        elif name in _YES_NO_OR_AUTO:
            mend = "give auto, true or false"
        raise ConfigError(f"{name}: {shown(first['input'])} does not fit", mend) from None
    return validate(config)


def _merge(base: dict[str, Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    merged = dict(base)
    for key, value in values.items():
        name = f"{where}{key}"
        if key not in base:
            raise ConfigError(f"{name}: unknown setting", nearest(str(key), base))
        if name == "data.skeleton":
            merged[key] = skeleton_setting(value)
        elif isinstance(base[key], dict):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{name}: {shown(value)} is not a section", f"give settings under {name}:")
            merged[key] = _merge(base[key], value, name + ".")
        else:
            merged[key] = _leaf(name, base[key], value)
    return merged


def _leaf(name: str, default: Any, value: Any) -> Any:
    """What pydantic alone gets wrong: true is not 1, and '101' may be one of the choices 50, 101, 152."""
    items = value if isinstance(value, (list, tuple)) else [value]
    may_be_bool = isinstance(default, bool) or name in _YES_NO_OR_AUTO
    if not may_be_bool and any(isinstance(item, bool) for item in items):
        raise ConfigError(f"{name}: {shown(value)} does not fit", "it is not a yes-or-no setting")
    if isinstance(default, int) and not isinstance(default, bool) and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return int(value)
    return value


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file, not yet validated.

    Raises:
        ConfigError: the file is missing or is not a YAML mapping.
    """
    values = yaml_of(path, "--config: ")
    if not isinstance(values, dict):
        raise ConfigError(f"--config: {path} holds no settings", "write lines like 'train: {epochs: 3}'")
    return values


def to_yaml(config: Config) -> str:
    """The whole configuration as YAML that ``--config`` takes as it is."""
    import yaml

    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def digest(config: Config) -> str:
    """Eight hex digits over everything that changes the result; workers and tracking do not."""
    values = _identity(config)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def differences(old: Config, new: Config) -> list[str]:
    """'section.field: old -> new' for every setting that is part of a run's identity and differs."""
    a, b = _identity(old), _identity(new)
    return [
        f"{section}.{key}: {shown(a[section][key])} -> {shown(value)}"
        for section, values in b.items()
        for key, value in values.items()
        if a[section][key] != value
    ]


def _identity(config: Config) -> dict[str, Any]:
    """The sections that say what a run computes."""
    values = {k: v for k, v in to_dict(config).items() if k not in _NOT_IDENTITY}
    del values["data"]["max_bad_share"]  # who raises it means to go on with the run that it has stopped
    return values
