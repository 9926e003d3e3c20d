"""What the verbs of ``mipnet registry`` share: their flags, and the registered model that these name."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from mipnet.cli.shared_options import DATASET_HELP, STORAGE_HELP, VERBOSE_HELP
from mipnet.config.flags import option
from mipnet.errors import ConfigError
from mipnet.experiment.arguments import writable_storage
from mipnet.registry.store import Registry, open_registry
from mipnet.storage import readable_storage

COMPARING_SECTIONS = ("data", "evaluation", "resources")


@dataclass(frozen=True)
class RegistryOptions:
    """Flags of all verbs; some have others on top."""

    name: str = option("mipnet", "name of the registered model")
    storage: str = option("", STORAGE_HELP)


@dataclass(frozen=True)
class ComparingOptions(RegistryOptions):
    """Flags of the verbs that compare."""

    dataset: str = option("", DATASET_HELP)
    tolerance: str = option("", "AP points by which either figure may fall [what two seeds differ by]")
    verbose: bool = option(False, VERBOSE_HELP)


def named_registry(options: RegistryOptions) -> AbstractContextManager[Registry]:
    """The registry that a verb's flags name. Verbs that compare evaluate, which takes a writable one."""
    compares = isinstance(options, ComparingOptions)
    storage = writable_storage(options.storage) if compares else readable_storage(options.storage)
    return open_registry(storage, options.name)


def tolerance_of(text: str) -> float | None:
    """What ``--tolerance`` says; None for the default.

    Raises:
        ConfigError: it is not a number that makes sense.
    """
    try:
        value = float(text) if text else None
    except ValueError:
        raise ConfigError(f"--tolerance: {text!r} is not a number", "give AP points, e.g. 0.5") from None
    if value is not None and not 0 <= value <= 100:
        raise ConfigError(f"--tolerance: {text} is not between 0 and 100", "give AP points, e.g. 0.5")
    return value
