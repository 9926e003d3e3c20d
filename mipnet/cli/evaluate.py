"""``mipnet evaluate``: the tables of a trained model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mipnet.config import Config, from_dict, preset
from mipnet.config.flags import option, parse
from mipnet.config.presets import DATASETS, dataset
from mipnet.console import say
from mipnet.errors import ConfigError, UserError
from mipnet.experiment.common import (
    STORAGE_HELP,
    ceilings,
    data_folder,
    one_image_each,
    open_splits,
    output_folder,
    predict_all,
    storage_at,
    usable_model,
    write_entries,
    write_results,
)
from mipnet.experiment.corrupt_images import Unreadable
from mipnet.storage import Folder

if TYPE_CHECKING:
    from mipnet.data.coco import CocoFile
    from mipnet.evaluation.predicted_poses import PredictionsBySplit
    from mipnet.evaluation.result_rows import Entry


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet evaluate``."""

    model: str = option("", "models:/NAME@ALIAS, the name of a run, or a model folder", positional=True)
    dataset: str = option("", f"a data set as downloaded, --data says where: {', '.join(DATASETS)}")
    results: tuple[str, ...] = option(
        (),
        "NAME=FILE: another method's poses in COCO's results format, beside ours or alone; {split} in FILE",
    )
    robustness: bool = option(
        False, "AP as boxes of low confidence are left out, for every detector; table, picture with --out"
    )
    out: str = option("", "folder for table, metrics and COCO results; none are written without it")
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, "show Ray's own messages")


def main(command: str, argv: Sequence[str]) -> int:
    """Evaluate a model; its own configuration gives every setting that no flag gives."""
    options, settings = parse_flags(command, argv)
    if not options.model and not options.results:
        raise UserError("no model to evaluate", "e.g. mipnet evaluate models:/mipnet@candidate")
    if options.robustness and not options.model:
        raise UserError("--robustness: results of other methods have no boxes to leave out", "name a model")
    out = output_folder(options.out) if options.out else None
    if not options.model:
        entries, text = others_alone(options, settings)
        say(text)
        if out:
            write_entries(out, entries, text)
            say(f"\nresults: {options.out}")
        return 0
    storage = storage_at(options.storage)

    from mipnet.evaluation.external_results import other_entries
    from mipnet.experiment.preflight import check_data

    model, trained = usable_model(options.model, storage)
    config = on_dataset(options.dataset, settings, trained)
    if options.robustness and all(source == "gt" for source in config.data.boxes):
        raise UserError(
            "--robustness: ground-truth boxes have no confidence", "name a detector's with --data.boxes"
        )
    unreadable = Unreadable()

    def opened(data: Folder) -> tuple[dict[str, CocoFile], list[Entry]]:
        files = check_data(config, data, training=False, unreadable=unreadable)
        return files, other_entries(options.results, files, config)

    found = None if config.data.generated else opened(Folder.of(config.data.root))
    from mipnet.ray_runtime.session import connect, probe_files, probe_storage, quieten

    quieten(options.verbose)
    from mipnet.evaluation.result_tables import table
    from mipnet.evaluation.scoring import score_splits

    with connect(config.resources, options.verbose) as resources:
        probe_storage(storage)
        data = data_folder(config, storage, options.verbose)
        files, others = found or opened(data)
        probe_files([model.path("model.json"), *one_image_each(files)])
        settled = replace(config, resources=resources)
        poses = predict_all(model, settled, data, files, unreadable, options.verbose)
    entries = score_splits(poses, config, files) + others
    text = table(config.data, entries, ceilings(config, files))
    say(text)
    if options.robustness:
        text += curves(poses, config, files, out)
    if out:
        write_results(out, config, entries, text)
        say(f"\nresults: {options.out}")
    return 0


def parse_flags(command: str, argv: Sequence[str]) -> tuple[Options, dict[str, Any]]:
    sections = ["data", "evaluation", "resources"]
    about = "Evaluate a model on splits and box sources."
    return parse(command, about, Options, sections, preset("tiny"), argv)


def read(command: str, argv: Sequence[str]) -> tuple[Options, Config]:
    """The flags as far as they are known without the model."""
    options, settings = parse_flags(command, argv)
    return options, from_dict(settings, preset("tiny"))


def others_alone(options: Options, settings: Mapping[str, Any]) -> tuple[list[Entry], str]:
    """Lines and table of other methods' results, without a model of ours and without Ray."""
    from mipnet.evaluation.external_results import other_entries
    from mipnet.evaluation.result_tables import table

    config = from_dict(settings, replace(preset("tiny"), data=dataset(options.dataset or "coco")))
    files = open_splits(config, Folder.of(config.data.root), config.data.evaluate)
    entries = other_entries(options.results, files, config)
    return entries, table(config.data, entries)


def curves(
    poses: PredictionsBySplit, config: Config, files: Mapping[str, CocoFile], out: Folder | None
) -> str:
    """Say the robustness table, keep it and its picture, and return it for the table's file."""
    from mipnet.evaluation.robustness import robustness, robustness_table

    found = robustness(poses, config, files)
    text = "\nAP as the least confidence of a box rises\n" + robustness_table(found)
    say(text)
    if out:
        from mipnet.visualization.robustness_plot import robustness_picture

        out.write("robustness.json", json.dumps([asdict(curve) for curve in found], indent=2) + "\n")
        out.write("robustness.png", robustness_picture(found))
    return "\n" + text


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
