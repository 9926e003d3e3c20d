"""Configuration: one set of dataclasses for flags, YAML, validation and help."""

from mipnet.config.loading import differences, digest, from_dict, read_yaml, to_yaml
from mipnet.config.presets import PRESETS, preset
from mipnet.config.schema import Config, to_dict
from mipnet.config.validation import validate

__all__ = [
    "PRESETS",
    "Config",
    "differences",
    "digest",
    "from_dict",
    "preset",
    "read_yaml",
    "to_dict",
    "to_yaml",
    "validate",
]
