"""``mipnet train``: data, training, evaluation, registration. The same command goes on where it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mipnet.cli.shared_options import CONFIG_HELP, CONFIG_SECTIONS, STORAGE_HELP, base_config
from mipnet.config import Config, from_dict
from mipnet.config.flags import option, parse
from mipnet.config.presets import baseline, describe
from mipnet.console import say
from mipnet.experiment.outputs import writable_storage


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet train`` beside the configuration's."""

    preset: str = option("tiny", "what to start from")
    config: str = option("", CONFIG_HELP)
    baseline: bool = option(
        False, "the preset's single-instance network: N = 1, no MIMB, and the paper's recipe for it"
    )
    name: str = option("", "the run's name [preset and digest of the settings]")
    new: bool = option(False, "start another run instead of continuing")
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, "show Ray's own messages")


def main(command: str, argv: Sequence[str]) -> int:
    """Run or continue a training to its registered model."""
    options, config = parse_config(command, argv)
    from mipnet.experiment.training_run import complete_run

    storage = writable_storage(options.storage)
    run = complete_run(
        config, storage, name=options.name, new=options.new, verbose=options.verbose, argv=argv
    )
    if not run.finished:
        return 1
    say(run.folder.read("summary.txt").decode())
    return 0


def parse_config(command: str, argv: Sequence[str]) -> tuple[Options, Config]:
    """Flags over YAML over preset, validated."""
    base = base_config(argv)
    about = f"Train, evaluate and register a network. Presets:\n{describe()}"
    options, settings = parse(command, about, Options, argv, sections=CONFIG_SECTIONS, defaults=base)
    return options, from_dict(settings, baseline(base) if options.baseline else base)
