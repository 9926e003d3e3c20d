"""What the verbs of ``mipnet registry`` share: their flags, and the registered model that these name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mipnet.cli.shared_options import STORAGE_HELP
from mipnet.config import preset
from mipnet.config.flags import option, parse
from mipnet.config.presets import DATASETS
from mipnet.errors import ConfigError
from mipnet.experiment.outputs import writable_storage
from mipnet.registry.store import Registry, open_registry
from mipnet.storage import readable_storage

EVALUATION_SECTIONS = ("data", "evaluation", "resources")
"""Of the configuration, for the verbs that evaluate."""


@dataclass(frozen=True)
class RegistryOptions:
    """Flags of all verbs; some have others on top."""

    name: str = option("mipnet", "name of the registered model")
    storage: str = option("", STORAGE_HELP)


@dataclass(frozen=True)
class ComparingOptions(RegistryOptions):
    """Flags of the verbs that compare."""

    dataset: str = option("", f"a data set as downloaded, --data says where: {', '.join(DATASETS)}")
    tolerance: str = option("", "AP points by which either figure may fall [what two seeds differ by]")
    verbose: bool = option(False, "show Ray's own messages")


@contextmanager
def named_registry(
    command: str, about: str, options: type[Any], argv: Sequence[str], sections: Sequence[str] = ()
) -> Iterator[tuple[Registry, Any, dict[str, Any]]]:
    """Read a verb's flags and open the registry that they name.

    Args:
        command, about, options, argv: as in ``parse``.
        sections: likewise; a verb that takes some evaluates, so its storage must be writable.

    Yields:
        the registry, the options, and the settings for ``from_dict``.
    """
    given, settings = parse(command, about, options, argv, sections=sections, defaults=preset("tiny"))
    storage = writable_storage(given.storage) if sections else readable_storage(given.storage)
    with open_registry(storage, given.name) as registry:
        yield registry, given, settings


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
