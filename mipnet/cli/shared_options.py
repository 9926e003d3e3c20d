"""Flags that several verbs share, and how a verb's flags are read."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from mipnet.config import Config, from_dict, preset, read_yaml
from mipnet.config.flags import flag_value, parse
from mipnet.config.presets import DATASETS, baseline

CONFIG_HELP = "YAML file of settings on top of the preset; flags win over it"
DATASET_HELP = f"a data set as downloaded, --data says where: {', '.join(DATASETS)}"
JSON_HELP = "file for all figures of all rounds"
MODEL_HELP = "models:/NAME@ALIAS, the name of a run, or a model folder"
STORAGE_HELP = "folder or URI (NFS, s3://, gs://) for data sets, runs and checkpoints [user data directory]"
VERBOSE_HELP = "show Ray's own messages"
VERSION_HELP = "number, alias, models:/…, or the name or id of its run"
CONFIG_SECTIONS = tuple(section.name for section in fields(Config) if section.name != "preset")
"""All sections of the configuration, for the verbs that train."""


@dataclass(frozen=True)
class Call:
    """A verb with its flags.

    Attributes:
        options: the verb's own flags, its ``Options``.
        settings: those of the configuration, for ``from_dict``.
        base: what the settings are on top of.
        argv: all flags as they were typed.
    """

    options: Any
    settings: dict[str, Any]
    base: Config
    argv: Sequence[str]

    @property
    def config(self) -> Config:
        """The settings on top of their base.

        Raises:
            ConfigError: a value that cannot work.
        """
        return self.on(self.base)

    def on(self, base: Config) -> Config:
        """The settings on top of another base, e.g. a preset; errors as for ``config``.

        Without settings it is the base itself: a preset is valid, and needs no pydantic, which a machine that
        only measures a step need not have.
        """
        return from_dict(self.settings, base) if self.settings else base


def read_flags(command: str, argv: Sequence[str]) -> tuple[Any, Call]:
    """The module of a verb, see ``mipnet.cli``, and the flags that it is given.

    Raises:
        ConfigError: an unknown flag, or a value that cannot work.
    """
    verb = importlib.import_module("mipnet.cli." + command.replace(" ", "_"))
    defaults: dict[str, Any] = {field.name: field.default for field in fields(verb.Options)}
    if hasattr(verb, "base"):
        base = verb.base()
    elif "config" in defaults:
        base = base_config(argv)
    else:
        base = preset(flag_value(argv, "--preset", defaults["preset"]) if "preset" in defaults else "tiny")
    sections = getattr(verb, "SECTIONS", ())
    options, settings = parse(command, verb.ABOUT, verb.Options, argv, sections=sections, defaults=base)
    base = baseline(base) if getattr(options, "baseline", False) else base
    return verb, Call(options, settings, base, argv)


def base_config(argv: Sequence[str]) -> Config:
    """The YAML file of ``--config`` on top of its preset or ``--preset``'s: the defaults of all other flags.

    Raises:
        ConfigError: there is no such file or preset, or its settings cannot work.
    """
    path = flag_value(argv, "--config", "")
    from_file = read_yaml(path) if path else {}
    name = flag_value(argv, "--preset", str(from_file.get("preset", "tiny")))
    return from_dict({**from_file, "preset": name}, preset(name))
