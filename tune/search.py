"""``python tune/search.py``: search for N, the places of the MIMBs and more. The same command goes on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: the folder above is where ``tune`` is found
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from mipnet.cli.main import exit_status
from mipnet.cli.train import SECTIONS
from mipnet.config import Config, from_dict, read_yaml
from mipnet.config.checks import require
from mipnet.config.flags import option, parse
from mipnet.config.presets import describe
from mipnet.errors import ConfigError
from mipnet.experiment.common import CONFIG_HELP, STORAGE_HELP, chosen_base, storage_at
from mipnet.run_folder import locked
from mipnet.storage import Folder
from tune.records import open_search, search_name
from tune.samplers import TRIALS, sampler_named
from tune.spaces import NAMED, Range, Space, from_values, named, to_values

COMMAND = "tune/search.py"


@dataclass(frozen=True)
class Options:
    """Flags of the search beside the configuration's."""

    space: str = option("placement", f"what to search: {', '.join(NAMED)}, or a YAML file")
    sampler: str = option("", "grid, random, tpe or nsga2 [grid; tpe for a space with a range]")
    trials: int = option(0, f"configurations to try [all of a grid, else {TRIALS}]; more than before go on")
    seeds: int = option(1, "train every configuration with so many seeds")
    asha: bool = option(False, "successive halving: only the best of a rung are trained on")
    rung: int = option(1, "asha: epochs of the first rung; the next ones are --keep times as long")
    keep: int = option(3, "asha: one configuration in so many goes on to the next rung")
    concurrent: int = option(0, "no more trials at once than this [as many as the cluster holds]")
    retry: bool = option(False, "try failed trials again")
    register_best: bool = option(False, "register the best network with the alias 'candidate'")
    preset: str = option("tiny", "what to start from")
    config: str = option("", CONFIG_HELP)
    name: str = option("", "the search's name [preset, space and digest of the settings]")
    new: bool = option(False, "start another search instead of continuing")
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, "show Ray's own messages")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return exit_status(COMMAND, run, sys.argv[1:] if argv is None else argv)


def run(argv: Sequence[str]) -> int:
    """Parse, build, run, report."""
    options, config = read(argv)
    space, config = build_space(options.space, config)
    asked = asked_for(options, space, config)
    storage = storage_at(options.storage)
    config = with_found_start(config, storage)
    name = options.name or search_name(config, asked["space_name"], asked)
    search = open_search(storage, name, config, asked, options.new)
    with locked(search):
        from tune.phases import search_and_report

        return search_and_report(search, options, space, storage, argv)


def read(argv: Sequence[str]) -> tuple[Options, Config]:
    """Flags over YAML over preset, validated."""
    base = chosen_base(argv)
    spaces = "\n".join(f"  {name:<10} {space.__doc__}" for name, space in NAMED.items())
    about = (
        "Search for N, the places of the MIMBs, reduction, learning rate, γ and NMS threshold. Spaces:\n"
        f"{spaces}\n  FILE.yaml  a list of values for any of {', '.join(Space.__dataclass_fields__)}\n"
        f"\nPresets:\n{describe()}"
    )
    options, settings = parse(COMMAND, about, Options, SECTIONS, base, argv, program="python")
    config = from_dict(settings, base)
    require("--seeds", options.seeds, at_least=1)
    require("--trials", options.trials, at_least=0)
    require("--concurrent", options.concurrent, at_least=0)
    require("--rung", options.rung, at_least=1, at_most=config.train.epochs)
    require("--keep", options.keep, at_least=2)
    return options, config


def build_space(name: str, config: Config) -> tuple[Space, Config]:
    """The space, and the configuration with the pair of γ and NMS threshold to validate with."""
    if name.endswith((".yaml", ".yml")):
        try:
            values = read_yaml(name)
        except ConfigError as error:
            raise ConfigError(error.what.replace("--config", "--space", 1), error.mend) from None
        space = from_values(values, config, name)
    else:
        space = named(name, config)
    evaluation = config.evaluation
    if evaluation.discount not in space.discount:
        evaluation = replace(evaluation, discount=space.discount[0])
    if evaluation.oks_nms not in space.oks_nms:
        evaluation = replace(evaluation, oks_nms=space.oks_nms[0])
    return space, replace(config, evaluation=evaluation)


def with_found_start(config: Config, storage: Folder) -> Config:
    """``train.init`` as a folder where it is the name of a run: trials look for runs beside their own."""
    init = config.train.init
    if not init or init.startswith(("models:", "runs:")):
        return config
    from mipnet.models.reference_checkpoints import is_checkpoint
    from mipnet.registry.resolve import resolve_model

    if is_checkpoint(init):
        return config
    return replace(config, train=replace(config.train, init=resolve_model(init, storage).uri))


def asked_for(options: Options, space: Space, config: Config) -> dict[str, Any]:
    """What makes it this search and no other."""
    sampler = options.sampler or ("tpe" if isinstance(space.learning_rate, Range) else "grid")
    sampler_named(sampler)
    if options.asha:
        rungs = rungs_of(options.rung, options.keep, config.train.epochs)
    return {
        "space_name": Path(options.space).stem,
        "space": to_values(space),
        "sampler": sampler,
        "halving": {"rungs": rungs, "keep": options.keep} if options.asha else None,
    }


def rungs_of(first: int, factor: int, epochs: int) -> list[int]:
    """first, first · factor, …, and the whole training."""
    rungs = []
    while first < epochs:
        rungs.append(first)
        first *= factor
    return [*rungs, epochs]


if __name__ == "__main__":
    sys.exit(main())
