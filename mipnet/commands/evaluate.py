"""``mipnet evaluate``: the tables of a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mipnet.commands.common import (
    STORAGE_HELP,
    ceilings,
    data_folder,
    one_image_each,
    output_folder,
    storage_at,
    usable_model,
    write_results,
)
from mipnet.commands.progress import Progress
from mipnet.commands.unreadable import Unreadable
from mipnet.config import Config, from_dict, preset
from mipnet.config.flags import option, parse, say
from mipnet.config.presets import DATASETS, dataset
from mipnet.errors import ConfigError, UserError
from mipnet.storage import Folder


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet evaluate``."""

    model: str = option("", "models:/NAME@ALIAS, the name of a run, or a model folder", positional=True)
    dataset: str = option("", f"a data set as downloaded, --data says where: {', '.join(DATASETS)}")
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
    out = output_folder(options.out) if options.out else None

    from mipnet.commands.checks import check_data

    model, trained = usable_model(options.model, storage)
    config = on_dataset(options.dataset, settings, trained)
    unreadable = Unreadable()
    files = None
    if not config.data.generated:
        files = check_data(config, Folder.of(config.data.root), training=False, unreadable=unreadable)

    from mipnet.raysession import connect, probe_files, probe_storage, quieten

    quieten(options.verbose)
    from mipnet.inference.evaluate import evaluate_splits
    from mipnet.inference.tables import table

    with connect(config.resources, options.verbose) as resources:
        probe_storage(storage)
        data = data_folder(config, storage, options.verbose)
        files = check_data(config, data, training=False) if files is None else files
        probe_files([model.path("model.json"), *one_image_each(files)])
        with Progress("evaluating", "box", options.verbose) as progress:
            entries = evaluate_splits(
                model,
                config,
                config.evaluation,
                data,
                files,
                config.data.boxes,
                resources,
                progress.update,
                unreadable,
            )
    text = table(config.data, entries, ceilings(config, files))
    say(text)
    if out:
        write_results(out, config, entries, text)
        say(f"\nresults: {options.out}")
    return 0


def on_dataset(name: str, settings: Mapping[str, Any], trained: Config) -> Config:
    """The configuration to evaluate a model with.

    Args:
        name: of one of the ``DATASETS``, "" for the data that the model was trained on.
        settings: from flags, on top.
        trained: the model's own configuration.

    Raises:
        ConfigError: no data set has that name; it has other joints than the model.
    """
    config = from_dict(settings, replace(trained, data=dataset(name)) if name else trained)
    mine, theirs = trained.data.joints, config.data.joints
    if mine != theirs:
        raise ConfigError(
            f"the model predicts the {mine.num_joints} joints of {mine.name}, the data has the "
            f"{theirs.num_joints} of {theirs.name}",
            f"evaluate on data with {mine.name}",
        )
    return config
