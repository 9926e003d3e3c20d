"""``mipnet train``: data, training, evaluation, registration. The same command goes on where it was."""

from __future__ import annotations

from dataclasses import dataclass

from mipnet.cli.shared_options import CONFIG_HELP, CONFIG_SECTIONS, STORAGE_HELP, VERBOSE_HELP, Call
from mipnet.config.flags import option
from mipnet.config.presets import describe
from mipnet.console import say
from mipnet.experiment.arguments import writable_storage

ABOUT = f"Train, evaluate and register a network. Presets:\n{describe()}"
SECTIONS = CONFIG_SECTIONS


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
    verbose: bool = option(False, VERBOSE_HELP)


def run(options: Options, call: Call) -> int:
    """Run or continue a training to its registered model."""
    config = call.config
    from mipnet.experiment.training_run import complete_run

    storage = writable_storage(options.storage)
    run = complete_run(config, storage, options.name, options.new, verbose=options.verbose, argv=call.argv)
    say(run.folder.read("summary.txt").decode())
    return 1 if run.owed else 0
