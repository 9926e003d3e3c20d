"""Flags that several verbs share, and the configuration that ``--preset`` and ``--config`` name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from mipnet.config import Config, from_dict, preset, read_yaml
from mipnet.config.flags import flag_value

CONFIG_HELP = "YAML file of settings on top of the preset; flags win over it"
STORAGE_HELP = "folder or URI (NFS, s3://, gs://) for data sets, runs and checkpoints [user data directory]"
CONFIG_SECTIONS = tuple(section.name for section in fields(Config) if section.name != "preset")
"""All sections of the configuration, for the verbs that train."""


def base_config(argv: Sequence[str]) -> Config:
    """The YAML file of ``--config`` on top of its preset or ``--preset``'s: the defaults of all other flags.

    Raises:
        ConfigError: there is no such file or preset, or its settings cannot work.
    """
    path = flag_value(argv, "--config", "")
    from_file = read_yaml(path) if path else {}
    name = flag_value(argv, "--preset", str(from_file.get("preset", "tiny")))
    return from_dict({**from_file, "preset": name}, preset(name))
