"""``python tune/search.py``: search for N, the MIMB stages and more. The same command continues a search."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: Python finds ``tune`` in the folder above
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from mipnet.cli.main import exit_status, run_process
from mipnet.cli.shared_options import CONFIG_SECTIONS, base_config
from mipnet.config import Config, from_dict, read_yaml
from mipnet.config.flags import parse
from mipnet.config.presets import describe
from mipnet.config.validation import require
from mipnet.errors import ConfigError
from mipnet.experiment.arguments import writable_storage
from mipnet.logs import driver_log
from mipnet.run_folder import locked
from mipnet.storage import Folder
from tune.options import SearchOptions
from tune.samplers import find_sampler
from tune.search_space import NAMED_SPACES, LogRange, SearchSpace, named_space, space_from_values, with_pair
from tune.trial_folders import open_search, search_name

COMMAND = "tune/search.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its flags; by default those of this process.

    Returns:
        the exit status: 0 if there is a best configuration, 1 if no trial finished, 2 for a user's error.
    """
    return exit_status(COMMAND, run, sys.argv[1:] if argv is None else argv)


def run(argv: Sequence[str]) -> int:
    """Parse the flags, open or create the search, run it."""
    options, config = parse_config(argv)
    space, config = build_space(options.space, config)
    search_spec = make_search_spec(options, space, config)
    storage = writable_storage(options.storage)
    config = with_resolved_init(config, storage)
    name = options.name or search_name(config, search_spec["space_name"], search_spec)
    search = open_search(storage, name, config, search_spec, options.new)
    with locked(search), driver_log(search.folder) as save_log:
        from tune.study import run_search  # imports Ray, which takes seconds

        return run_search(search, options, space, argv, save_log)


def parse_config(argv: Sequence[str]) -> tuple[SearchOptions, Config]:
    """Flags override the YAML file, which overrides the preset.

    Raises:
        ConfigError: an unknown flag, or a value that is not possible.
    """
    base = base_config(argv)
    spaces = "\n".join(f"  {name:<10} {space.__doc__}" for name, space in NAMED_SPACES.items())
    about = (
        "Search for N, the places of the MIMBs, reduction, learning rate, γ and NMS threshold. Spaces:\n"
        f"{spaces}\n  FILE.yaml  a list of values for any of {', '.join(SearchSpace.__dataclass_fields__)}\n"
        f"\nPresets:\n{describe()}"
    )
    options, settings = parse(
        COMMAND, about, SearchOptions, argv, sections=CONFIG_SECTIONS, defaults=base, program="python"
    )
    config = from_dict(settings, base)
    require("--rung", options.rung, at_most=config.train.epochs)
    for name in ("patience", "max_hours"):
        if getattr(config.train, name):  # scores are compared at the same epochs
            what = f"train.{name}: a search trains every trial to its number of epochs"
            raise ConfigError(what, "leave it out; --asha ends the worse trials early")
    return options, config


def build_space(name: str, config: Config) -> tuple[SearchSpace, Config]:
    """The search space, and the configuration of all trials.

    Validation during training uses one pair of γ and NMS threshold: the configuration's values, or the first
    ones of the space if it does not contain those.

    Args:
        name: of a named space, or the path of a YAML file.
        config: as the flags give it.

    Raises:
        ConfigError: there is no such space, or a value in it is not possible.
    """
    if name.endswith((".yaml", ".yml")):
        try:
            values = read_yaml(name)
        except ConfigError as error:
            raise ConfigError(error.what.replace("--config", "--space", 1), error.hint) from None
        space = space_from_values(values, config, name)
    else:
        space = named_space(name, config)
    discount, oks_nms = config.evaluation.discount, config.evaluation.oks_nms
    discount = discount if discount in space.discount else space.discount[0]
    oks_nms = oks_nms if oks_nms in space.oks_nms else space.oks_nms[0]
    return space, with_pair(config, discount, oks_nms)


def with_resolved_init(config: Config, storage: Folder) -> Config:
    """``config`` with ``train.init`` as a folder if it is the name of a run.

    A trial would look the name up among the runs beside its own, which are the search's trials.
    """
    init = config.train.init
    if not init or init.startswith(("models:", "runs:")):
        return config
    from mipnet.models.reference_checkpoints import is_checkpoint
    from mipnet.registry.resolve import resolve_model

    if is_checkpoint(init):
        return config
    return replace(config, train=replace(config.train, init=resolve_model(init, storage).uri))


def make_search_spec(options: SearchOptions, space: SearchSpace, config: Config) -> dict[str, Any]:
    """What identifies a search beside its configuration; kept in its run.json and hashed into its name."""
    sampler = options.sampler or ("tpe" if isinstance(space.learning_rate, LogRange) else "grid")
    find_sampler(sampler)
    if options.asha:
        rungs = rung_epochs(options.rung, options.keep, config.train.epochs)
    return {
        "space_name": Path(options.space).stem,
        "space": space.to_dict(),
        "sampler": sampler,
        "halving": {"rungs": rungs, "keep": options.keep} if options.asha else None,
    }


def rung_epochs(first: int, factor: int, epochs: int) -> list[int]:
    """Epochs of the rungs of successive halving: first, first · factor, first · factor², …, epochs."""
    rungs = []
    while first < epochs:
        rungs.append(first)
        first *= factor
    return [*rungs, epochs]


if __name__ == "__main__":
    run_process(main)
