"""``mipnet evaluate``: the tables of a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mipnet.commands.common import STORAGE_HELP, ceilings, data_folder, storage_at, write_results
from mipnet.config import from_dict, preset
from mipnet.config.flags import option, parse, say
from mipnet.errors import UserError
from mipnet.storage import Folder


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet evaluate``."""

    model: str = option("", "models:/NAME@ALIAS, the name of a run, or a model folder", positional=True)
    out: str = option("", "folder for table, metrics and COCO results; none are written without it")
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, "show Ray's own messages")


def main(command: str, argv: Sequence[str]) -> int:
    """Evaluate a model; its own configuration gives every setting that no flag gives."""
    sections = ["data", "evaluation", "resources"]
    options, settings = parse(
        command, "Evaluate a model on splits and box sources.", Options, sections, preset("tiny"), argv
    )
    if not options.model:
        raise UserError("no model to evaluate", "e.g. mipnet evaluate models:/mipnet@candidate")
    storage = storage_at(options.storage)

    from mipnet.raysession import connect, probe_storage, quieten

    quieten(options.verbose)
    from mipnet.inference.evaluate import evaluate_splits
    from mipnet.inference.tables import table
    from mipnet.tracking.registry import model_config, resolve_model

    model = resolve_model(options.model, storage)
    config = from_dict(settings, model_config(model))
    with connect(config.resources, options.verbose):
        probe_storage(storage)
        data = data_folder(config, storage)
        entries = evaluate_splits(
            model, config, config.evaluation, data, config.data.evaluate, config.data.boxes, config.resources
        )
    text = table(entries, ceilings(config, data, config.data.evaluate))
    say(text)
    if options.out:
        write_results(Folder.of(options.out), config, entries, text)
        say(f"\nresults: {options.out}")
    return 0
