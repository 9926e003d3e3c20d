"""``mipnet evaluate``: the tables of a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mipnet.cli.shared_options import STORAGE_HELP
from mipnet.config import Config, from_dict, preset
from mipnet.config.flags import option, parse
from mipnet.config.presets import DATASETS, dataset
from mipnet.console import say
from mipnet.errors import UserError
from mipnet.experiment.datasets import config_on_dataset, open_splits
from mipnet.experiment.model_source import checked_model
from mipnet.experiment.outputs import writable_folder, writable_storage
from mipnet.experiment.results import write_entries, write_results
from mipnet.storage import Folder

if TYPE_CHECKING:
    from mipnet.evaluation.result_rows import ResultRow


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
    out = writable_folder(options.out) if options.out else None
    if not options.model:
        result_rows, text = tables_of_others(options, settings)
        say(text)
        if out:
            write_entries(out, result_rows, text)
            say(f"\nresults: {options.out}")
        return 0
    from mipnet.experiment.model_evaluation import evaluate_model, report_robustness

    storage = writable_storage(options.storage)
    model, trained = checked_model(options.model, storage)
    config = config_on_dataset(options.dataset, settings, trained)
    if options.robustness and all(source == "gt" for source in config.data.boxes):
        raise UserError(
            "--robustness: ground-truth boxes have no confidence", "name a detector's with --data.boxes"
        )
    found = evaluate_model(model, config, storage, results_of_others=options.results, verbose=options.verbose)
    say(found.text)
    text = found.text + (report_robustness(found, config, out) if options.robustness else "")
    if out:
        write_results(out, config, found.result_rows, text)
        say(f"\nresults: {options.out}")
    return 0


def parse_flags(command: str, argv: Sequence[str]) -> tuple[Options, dict[str, Any]]:
    sections = ["data", "evaluation", "resources"]
    about = "Evaluate a model on splits and box sources."
    return parse(command, about, Options, argv, sections=sections, defaults=preset("tiny"))


def parse_config(command: str, argv: Sequence[str]) -> tuple[Options, Config]:
    """The flags, over defaults instead of the model's configuration; for ``jobs/submit.py``."""
    options, settings = parse_flags(command, argv)
    return options, from_dict(settings, preset("tiny"))


def tables_of_others(options: Options, settings: Mapping[str, Any]) -> tuple[list[ResultRow], str]:
    """Rows and table of other methods' results, without a model and without Ray."""
    from mipnet.evaluation.external_results import external_result_rows
    from mipnet.evaluation.result_tables import results_table

    config = from_dict(settings, replace(preset("tiny"), data=dataset(options.dataset or "coco")))
    files = open_splits(config, Folder.of(config.data.root), config.data.evaluate)
    result_rows = external_result_rows(options.results, files, config)
    return result_rows, results_table(config.data, result_rows)
