"""Command-line flags from the dataclasses: every setting is ``--section.name``, some have a short form."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any, NoReturn

from mipnet.config.checks import shown
from mipnet.config.schema import Config
from mipnet.errors import ConfigError, nearest

SHORT = {
    "workers": "resources.workers",
    "gpu": "resources.gpu",
    "epochs": "train.epochs",
    "batch-size": "train.batch_size",
    "learning-rate": "train.learning_rate",
    "seed": "train.seed",
    "data": "data.root",
}
"""Short forms of the settings that are typed most."""


class _Parser(argparse.ArgumentParser):
    """Complaints are one line, with the flag that was probably meant."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            word = message.removeprefix("unrecognized arguments: ").split()[0]
            flags = [flag for action in self._actions for flag in action.option_strings]
            raise ConfigError(f"{word}: unknown flag", nearest(word.partition("=")[0], flags))
        raise ConfigError(message, f"see {self.prog} --help")


def option(default: Any, help: str, positional: bool = False) -> Any:
    """A field of a command's ``Options``."""
    return dataclasses.field(default=default, metadata={"help": help, "positional": positional})


def parse(
    command: str,
    description: str,
    options: type,
    sections: Sequence[str],
    defaults: Config,
    argv: Sequence[str],
    program: str = "mipnet",
) -> tuple[Any, dict[str, Any]]:
    """Read the flags of a command.

    Args:
        command: its words, for ``--help``.
        description: shown there.
        options: dataclass of the flags that are the command's own.
        sections: of the configuration that it takes; section.setting takes only that.
        defaults: what ``--help`` shows as defaults.
        argv: the words after the command.
        program: whose command it is.

    Returns:
        the options, and the settings that were given as a nested dict of strings for ``from_dict``.

    Raises:
        ConfigError: an unknown flag or a missing value.
    """
    words = "".join(f"[{f.name.upper()}] " for f in dataclasses.fields(options) if f.metadata["positional"])
    parser = _Parser(
        prog=f"{program} {command}",
        usage=f"{program} {command} {words}[--FLAG VALUE ...] [--SECTION.SETTING VALUE ...]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for field in dataclasses.fields(options):
        _add(parser, field, [_flag(field.name)], field.name, field.default)
    short = {name: flag for flag, name in SHORT.items()}
    for section, _, only in (section.partition(".") for section in sections):
        config = getattr(defaults, section)
        group = parser.add_argument_group(section, (type(config).__doc__ or "").splitlines()[0])
        for field in dataclasses.fields(config):
            if only not in ("", field.name):
                continue
            name = f"{section}.{field.name}"
            flags = [_flag(name), *([f"--{short[name]}"] if name in short else [])]
            _add(group, field, flags, name, getattr(config, field.name))
    given = vars(parser.parse_args([_normal(word) for word in argv]))
    own = {f.name: given[f.name] for f in dataclasses.fields(options) if f.name in given}
    settings: dict[str, Any] = {}
    for name, value in given.items():
        if name not in own:
            section, _, key = name.partition(".")
            settings.setdefault(section, {})[key] = value
    return options(**{k: _converted(options, k, v) for k, v in own.items()}), settings


def _add(parser: Any, field: Any, flags: list[str], dest: str, default: Any) -> None:
    many = str(field.type).startswith(("tuple", "list"))
    boolean = str(field.type).startswith("bool")
    help = field.metadata.get("help", "").replace("%", "%%")
    if field.metadata.get("positional"):
        parser.add_argument(field.name, nargs="*" if many else "?", help=help)
        return
    if default not in ("", None, ()) and default is not False:
        help += f" [{shown(default).replace('%', '%%')}]"
    extra: dict[str, Any] = {"nargs": "*"} if many else {"nargs": "?", "const": "true"} if boolean else {}
    parser.add_argument(*flags, dest=dest, help=help, metavar=_metavar(field), **extra)


def _metavar(field: Any) -> str:
    kind = str(field.type)
    if kind.startswith("bool"):
        return "auto|true|false" if "auto" in kind else "true|false"
    if kind.startswith("Literal"):
        return kind.removeprefix("Literal[").removesuffix("]").replace("'", "").replace(", ", "|")
    return {"int": "N", "float": "X"}.get(kind.split("[")[0], "…" if "tuple" in kind else "TEXT")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _normal(word: str) -> str:
    """Underscores in flags are as good as dashes."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value


def _converted(options: type, name: str, value: Any) -> Any:
    kind = next(str(f.type) for f in dataclasses.fields(options) if f.name == name)
    if kind == "bool":
        if value not in ("true", "false"):
            raise ConfigError(f"{_flag(name)}: {value!r} is neither true nor false")
        return value == "true"
    if kind == "int":
        try:
            return int(value)
        except ValueError:
            raise ConfigError(f"{_flag(name)}: {value!r} is not a whole number") from None
    return tuple(value) if isinstance(value, list) else value


def chosen(argv: Sequence[str], flag: str, default: str) -> str:
    """The value of one flag before anything else is known: the preset decides the other defaults."""
    for word, following in zip(argv, [*argv, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        if name == flag:
            return value if equals else following
    return default
