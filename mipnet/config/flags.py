"""Command-line flags from the dataclasses: every setting is ``--section.name``, some have a short form.

Not by tyro (1.0): its bool flags take no value, so ``--gpu`` and ``--gpu auto`` cannot both be had and the
``true`` of ``--baseline true`` becomes a positional; errors are boxes; its import takes another 0.1 s.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from mipnet.config.old_names import NEW_NAMES, note_renames, renames_in
from mipnet.config.schema import Config
from mipnet.config.schema import option as option
from mipnet.config.validation import adapter, format_value, problem_of, within
from mipnet.errors import ConfigError, suggest

Options = TypeVar("Options")

SHORT_FLAGS = {
    "workers": "resources.workers",
    "gpu": "resources.gpu",
    "validation": "resources.validation",
    "epochs": "train.epochs",
    "batch-size": "train.batch_size",
    "learning-rate": "train.learning_rate",
    "seed": "train.seed",
    "data": "data.root",
}
"""Short forms of the settings that are typed most."""


class _Parser(argparse.ArgumentParser):
    """Findings are one line, with the flag that was probably meant."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            word = message.removeprefix("unrecognized arguments: ").split()[0]
            flags = [flag for action in self._actions for flag in action.option_strings]
            raise ConfigError(f"{word}: unknown flag", suggest(word.partition("=")[0], flags))
        raise ConfigError(message, f"see {self.prog} --help")


def parse(
    command: str,
    description: str,
    options: type[Options],
    argv: Sequence[str],
    *,
    sections: Sequence[str],
    defaults: Config,
    program: str = "mipnet",
) -> tuple[Options, dict[str, dict[str, Any]]]:
    """Read the flags of a command.

    Args:
        command: its words, for ``--help``.
        description: shown there.
        options: dataclass of the flags that are the command's own.
        argv: the words after the command.
        sections: of the configuration that it takes; section.setting takes only that.
        defaults: what ``--help`` shows as defaults.
        program: whose command it is.

    Returns:
        the options, and the settings that were given as a nested dict of strings for ``from_dict``.

    Raises:
        ConfigError: an unknown flag, a missing value, or an option of another type or out of range.
    """
    fields = dataclasses.fields(options)  # type: ignore[arg-type]
    hints = get_type_hints(options, include_extras=True)
    words = "".join(f"[{f.name.upper()}] " for f in fields if f.metadata["positional"])
    parser = _Parser(
        prog=f"{program} {command}",
        usage=f"{program} {command} {words}[--FLAG VALUE ...] [--SECTION.SETTING VALUE ...]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for field in fields:
        _add(parser, field, hints[field.name], [_flag(field.name)], field.name, field.default)
    _add_sections(parser, sections, defaults)
    given = vars(parser.parse_args(_with_new_names(argv)))
    own: dict[str, Any] = {}
    settings: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        if name in hints:
            own[name] = _converted(_flag(name), hints[name], value)
        else:
            section, _, key = name.partition(".")
            settings.setdefault(section, {})[key] = value
    return options(**own), settings


def _add_sections(parser: argparse.ArgumentParser, sections: Sequence[str], defaults: Config) -> None:
    short = {name: flag for flag, name in SHORT_FLAGS.items()}
    groups: dict[str, Any] = {}
    for section, _, only in (section.partition(".") for section in sections):
        config = getattr(defaults, section)
        hints = get_type_hints(type(config))
        if section not in groups:
            title = (type(config).__doc__ or "").splitlines()[0]
            groups[section] = parser.add_argument_group(section, title)
        for field in dataclasses.fields(config):
            if only not in ("", field.name):
                continue
            name = f"{section}.{field.name}"
            flags = [_flag(name), *([f"--{short[name]}"] if name in short else [])]
            _add(groups[section], field, hints[field.name], flags, name, getattr(config, field.name))


def _add(parser: Any, field: Any, hint: Any, flags: list[str], dest: str, default: Any) -> None:
    hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    many = get_origin(hint) in (tuple, list)
    boolean = bool in (hint, *_alternatives(hint))
    help = field.metadata["help"].replace("%", "%%")
    if field.metadata["positional"]:
        parser.add_argument(field.name, nargs="*" if many else "?", help=help)
        return
    if default not in ("", None, ()) and default is not False:
        help += f" [{format_value(default).replace('%', '%%')}]"
    extra: dict[str, Any] = {"nargs": "*"} if many else {"nargs": "?", "const": "true"} if boolean else {}
    parser.add_argument(*flags, dest=dest, help=help, metavar=_metavar(hint), **extra)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, without None: nobody can type that."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    return tuple(member for member in members if member is not NoneType)


def _metavar(hint: Any) -> str:
    """What stands for the value in ``--help``."""
    if get_origin(hint) is Annotated:
        return _metavar(get_args(hint)[0])
    if choices := [_metavar(member) for member in _alternatives(hint)]:
        return "TEXT" if "TEXT" in choices else "|".join(sorted(choices))
    if get_origin(hint) is Literal:
        return "|".join(map(str, get_args(hint)))
    if get_origin(hint) in (tuple, list):
        return "…"
    return {bool: "true|false", int: "N", float: "X"}.get(hint, "TEXT")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _with_new_names(argv: Sequence[str]) -> list[str]:
    """``argv`` with dashes for underscores in flags, and new for old ones, which a line on stderr tells.

    Raises:
        ConfigError: a flag is given under both names.
    """
    words = [word.partition("=") for word in argv]
    flags = [word.replace("_", "-") if word.startswith("--") else word for word, _, _ in words]
    renames = renames_in(flags, {_flag(old): _flag(new) for old, new in NEW_NAMES.items()})
    note_renames(renames)
    return [
        renames.get(flag, flag) + equals + value
        for flag, (_, equals, value) in zip(flags, words, strict=True)
    ]


_NOT_A_NUMBER = {int: "is not a whole number", float: "is not a number"}
_NOT_OF_A_KIND = {
    "bool_parsing": "is neither true nor false",
    "int_parsing": _NOT_A_NUMBER[int],
    "float_parsing": _NOT_A_NUMBER[float],
}


def _converted(flag: str, hint: Any, value: Any) -> Any:
    """The value of one of the command's own flags as its type.

    Raises:
        ConfigError: it has another type, or is out of range.
    """
    if hint in (str, tuple[str, ...]):  # pydantic's import takes 0.1 s
        return tuple(value) if isinstance(value, list) else value
    kind, *ranges = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if kind in (int, float):
        try:
            number = kind(value)
        except ValueError:
            raise ConfigError(f"{flag}: {value!r} {_NOT_A_NUMBER[kind]}") from None
        return within(flag, number, ranges)
    from pydantic import ValidationError

    try:
        return adapter(hint).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        if why := _NOT_OF_A_KIND.get(first["type"]):
            raise ConfigError(f"{flag}: {first['input']!r} {why}") from None
        raise problem_of(flag, first, value) from None


def flag_value(argv: Sequence[str], flag: str, default: str) -> str:
    """The value of one flag before anything else is known: the preset decides the other defaults."""
    for word, following in zip(argv, [*argv, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        if name == flag:
            return value if equals else following
    return default
