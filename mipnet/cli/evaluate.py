"""``mipnet evaluate``: the tables of a trained model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mipnet.cli.shared_options import DATASET_HELP, MODEL_HELP, STORAGE_HELP, VERBOSE_HELP, Call
from mipnet.config import from_dict
from mipnet.config.flags import option
from mipnet.config.presets import dataset
from mipnet.console import say
from mipnet.errors import UserError
from mipnet.experiment.arguments import checked_model, writable_folder, writable_storage
from mipnet.experiment.datasets import config_on_dataset

ABOUT = "Evaluate a model on splits and box sources."
SECTIONS = ("data", "evaluation", "resources")


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet evaluate``."""

    model: str = option("", MODEL_HELP, positional=True)
    dataset: str = option("", DATASET_HELP)
    results: tuple[str, ...] = option(
        (),
        "NAME=FILE: another method's poses in COCO's results format, beside ours or alone; {split} in FILE",
    )
    robustness: bool = option(
        False, "AP as boxes of low confidence are left out, for every detector; table, picture with --out"
    )
    out: str = option("", "folder for table, metrics and COCO results; none are written without it")
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, VERBOSE_HELP)


def run(options: Options, call: Call) -> int:
    """Evaluate a model; its own configuration gives every setting that no flag gives."""
    if not options.model and not options.results:
        raise UserError("no model to evaluate", "e.g. mipnet evaluate models:/mipnet@candidate")
    if options.robustness and not options.model:
        raise UserError("--robustness: results of other methods have no boxes to leave out", "name a model")
    out = writable_folder(options.out) if options.out else None
    from mipnet.experiment import model_evaluation as evaluation

    if not options.model:
        config = from_dict(call.settings, replace(call.base, data=dataset(options.dataset or "coco")))
        others = evaluation.tables_of_others(config, options.results)
        say(others.text)
        if out:
            evaluation.write_results(out, others)
            say(f"\nresults: {options.out}")
        return 0
    storage = writable_storage(options.storage)
    model, trained = checked_model(options.model, storage)
    config = config_on_dataset(options.dataset, call.settings, trained)
    if options.robustness and all(source == "gt" for source in config.data.boxes):
        hint = "name a detector's with --data.boxes"
        raise UserError("--robustness: ground-truth boxes have no confidence", hint)
    found = evaluation.evaluate_model(model, config, storage, options.results, verbose=options.verbose)
    say(found.text)
    if options.robustness:
        found = replace(found, text=found.text + evaluation.report_robustness(found, config, out))
    if out:
        evaluation.write_results(out, found)
        say(f"\nresults: {options.out}")
    return 0
