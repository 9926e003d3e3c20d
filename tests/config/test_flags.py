"""Flags: what words become, and one line about words that are wrong."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from mipnet.config import preset
from mipnet.config.flags import flag_value, option, parse
from mipnet.config.schema import Range
from mipnet.errors import ConfigError


@dataclass(frozen=True)
class Options:
    pictures: tuple[str, ...] = option((), "what to look at", positional=True)
    name: str = option("", "of it")
    new: bool = option(False, "another")
    rounds: Annotated[int, Range(ge=1)] = option(5, "how often")
    rate: Annotated[float, Range(gt=0)] = option(0.5, "how fast, in %")
    kind: Literal["plain", "fancy"] = option("plain", "how")
    sizes: tuple[int, ...] = option((1, 2), "how large")


def read(
    *argv: str, sections: tuple[str, ...] = ("train", "model", "resources")
) -> tuple[Options, dict[str, Any]]:
    return parse("look", "Look.", Options, argv, sections=sections, defaults=preset("tiny"))


def complaint(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(*argv)
    return str(caught.value)


def test_parse_without_flags_gives_defaults() -> None:
    assert read() == (Options(), {})


def test_parse_converts_values_to_the_types_of_options() -> None:
    argv = "a b --name 3 --new --rounds 7 --rate 1e-2 --kind=fancy --sizes 3 4"
    options, settings = read(*argv.split())
    assert options == Options(("a", "b"), "3", True, 7, 0.01, "fancy", (3, 4))
    assert settings == {}


@pytest.mark.parametrize(
    ("words", "new"), [(["--new"], True), (["--new", "true"], True), (["--new=false"], False), ([], False)]
)
def test_parse_takes_yes_or_no_with_and_without_a_value(words: list[str], new: bool) -> None:
    assert read(*words)[0].new is new


def test_parse_leaves_settings_as_strings_and_knows_short_forms() -> None:
    argv = [
        "--epochs",
        "3",
        "--train.batch_size=8",
        "--gpu",
        "--model.mimb-stages",
        "1",
        "2",
        "--workers",
        "2",
    ]
    assert read(*argv)[1] == {
        "train": {"epochs": "3", "batch_size": "8"},
        "resources": {"gpu": "true", "workers": "2"},
        "model": {"mimb_stages": ["1", "2"]},
    }


def test_parse_takes_only_the_sections_it_is_given() -> None:
    assert read("--train.seed", "1", sections=("train.seed",))[1] == {"train": {"seed": "1"}}
    with pytest.raises(ConfigError, match=r"--train\.epochs: unknown flag"):
        read("--train.epochs", "1", sections=("train.seed",))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--new", "maybe"], "--new: 'maybe' is neither true nor false"),
        (["--rounds", "many"], "--rounds: 'many' is not a whole number"),
        (["--rounds", "0"], "--rounds: 0 is below 1; nearest is 1"),
        (["--rate", "fast"], "--rate: 'fast' is not a number"),
        (["--rate", "0"], "--rate: 0.0 is not above 0; use a number above 0"),
        (["--kind", "fanzy"], "--kind: 'fanzy' does not fit; did you mean 'fancy'?"),
        (["--sizes", "1", "x"], "--sizes: 'x' is not a whole number"),
        (["--model.placess", "2"], "--model.placess: unknown flag; "),
        (
            ["--model.mimb-stagess=2"],
            "--model.mimb-stagess=2: unknown flag; did you mean '--model.mimb-stages'?",
        ),
        (["--name"], "argument --name: expected one argument; see mipnet look --help"),
    ],
)
def test_parse_complains_in_one_line(argv: list[str], message: str) -> None:
    got = complaint(*argv)
    assert got.startswith(message)
    assert len(got.splitlines()) == 1


def several(metavar: str, *names: str) -> str:
    """Names of one flag in argparse's help; from Python 3.13 on with the value's name once."""
    if sys.version_info >= (3, 13):
        return f"{', '.join(names)} {metavar}"
    return ", ".join(f"{name} {metavar}" for name in names)


def test_help_shows_choices_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "mipnet look [PICTURES] [--FLAG VALUE ...]",
        "--new [true|false]",
        "--rounds N how often [5]",
        "--rate X how fast, in % [0.5]",
        "--kind plain|fancy how ['plain']",
        several("[auto|true|false]", "--resources.gpu", "--gpu"),
        "--model.depth 18|34|50|101|152",
        several("X", "--train.learning-rate", "--learning-rate") + " global peak learning rate [0.005]",
    ):
        assert part in text


def test_chosen_reads_one_flag_ahead() -> None:
    assert flag_value(["--preset", "debug"], "--preset", "tiny") == "debug"
    assert flag_value(["--preset=debug"], "--preset", "tiny") == "debug"
    assert flag_value([], "--preset", "tiny") == "tiny"
