"""Flags of ``python tune/search.py`` beside those of the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from mipnet.cli.shared_options import CONFIG_HELP, STORAGE_HELP
from mipnet.config.flags import option
from mipnet.config.schema import Count, NonNegativeInt, Range
from tune.samplers import DEFAULT_TRIALS
from tune.search_space import NAMED_SPACES


@dataclass(frozen=True)
class SearchOptions:
    """Flags of the search beside the configuration's."""

    space: str = option("placement", f"what to search: {', '.join(NAMED_SPACES)}, or a YAML file")
    sampler: str = option("", "grid, random, tpe or nsga2 [grid; tpe for a space with a range]")
    trials: NonNegativeInt = option(
        0, f"configurations to try [all of a grid, else {DEFAULT_TRIALS}]; more than before go on"
    )
    seeds: Count = option(1, "train every configuration with so many seeds")
    asha: bool = option(False, "successive halving: only the best of a rung are trained on")
    rung: Count = option(1, "asha: epochs of the first rung; the next ones are --keep times as long")
    keep: Annotated[int, Range(ge=2)] = option(
        3, "asha: one configuration in so many goes on to the next rung"
    )
    concurrent: NonNegativeInt = option(0, "no more trials at once than this [as many as the cluster holds]")
    retry: bool = option(False, "try failed trials again")
    register_best: bool = option(False, "register the best network with the alias 'candidate'")
    preset: str = option("tiny", "what to start from")
    config: str = option("", CONFIG_HELP)
    name: str = option("", "the search's name [preset, space and digest of the settings]")
    new: bool = option(False, "start another search instead of continuing")
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, "show Ray's own messages")
