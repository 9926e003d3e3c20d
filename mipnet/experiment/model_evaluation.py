"""Evaluating a trained model: predictions, tables, upper bounds, result files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from mipnet.config import Config, to_yaml
from mipnet.console import say
from mipnet.data.coco import CocoKeypointFile
from mipnet.evaluation.external_results import external_result_rows
from mipnet.evaluation.predicted_poses import PredictionsBySplit, score_splits
from mipnet.evaluation.result_rows import ResultRow, flat_metrics, results_table
from mipnet.experiment.datasets import CorruptImageLog, open_splits
from mipnet.experiment.preflight import check_data, check_people, prepared, say_left_out
from mipnet.experiment.progress import Progress
from mipnet.storage import Folder


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate_model`` found.

    Attributes:
        result_rows: of the table, those of other methods last.
        text: the table.
        poses: of the model.
        files: split -> annotations.
    """

    result_rows: list[ResultRow]
    text: str
    poses: PredictionsBySplit
    files: dict[str, CocoKeypointFile]


def evaluate_model(
    model: Folder, config: Config, storage: Folder, results_of_others: Sequence[str], *, verbose: bool
) -> Evaluation:
    """Predict and score all splits in all box sources.

    Args:
        model: folder of the model.
        config: of the model, with the data to evaluate on.
        storage: of generated data sets.
        results_of_others: NAME=FILE of other methods' results, see ``external_result_rows``.
        verbose: show Ray's own messages.

    Raises:
        UserError: data, results or cluster cannot be used.
    """
    corrupt = CorruptImageLog()
    others: list[ResultRow] = []

    def open_files(data: Folder) -> dict[str, CocoKeypointFile]:
        files = check_data(config, data, training=False, report_corrupt=corrupt)
        others.extend(rows_of_others(config, results_of_others, files))
        return files

    with prepared(config, storage, open_files, model=model, verbose=verbose) as ready:
        files = ready.files
        poses = predict_all(model, ready.config, ready.data, files, report_corrupt=corrupt, plain=verbose)
    entries = score_splits(poses, config, files) + others
    return Evaluation(entries, results_table(config.data, entries, ceilings(config, files)), poses, files)


def tables_of_others(config: Config, results: Sequence[str]) -> tuple[list[ResultRow], str]:
    """Rows and table of other methods' results, without a model and without Ray."""
    files = open_splits(config, Folder.of(config.data.root), config.data.evaluate)
    for file in files.values():
        say_left_out(file, check_people(config, file))
    result_rows = rows_of_others(config, results, files)
    return result_rows, results_table(config.data, result_rows)


def rows_of_others(
    config: Config, results: Sequence[str], files: dict[str, CocoKeypointFile]
) -> list[ResultRow]:
    """``external_result_rows``; says which file has no pose."""
    result_rows = external_result_rows(results, files, config)
    for row in result_rows:
        if not row.results:
            say(f"warning: the results of {row.source} have no pose for split {row.split}")
    return result_rows


def report_robustness(evaluation: Evaluation, config: Config, out: Folder | None) -> str:
    """Print the robustness table, write it and its picture to ``out``, and return it for table.txt."""
    from mipnet.evaluation.robustness import robustness_curves, robustness_table

    curves = robustness_curves(evaluation.poses, config, evaluation.files)
    text = "\nAP as the least confidence of a box rises\n" + robustness_table(curves)
    say(text)
    if out:
        from mipnet.visualization.robustness_plot import robustness_picture

        out.write("robustness.json", json.dumps([asdict(curve) for curve in curves], indent=2) + "\n")
        out.write("robustness.png", robustness_picture(curves))
    return "\n" + text


def predict_all(
    model: Folder,
    config: Config,
    data: Folder,
    files: Mapping[str, CocoKeypointFile],
    *,
    report_corrupt: Callable[[list[str]], object],
    plain: bool,
) -> PredictionsBySplit:
    """Predict the poses of all splits in the boxes of ``config.data``.

    Args:
        model: folder of the model.
        config: ``data.boxes`` names the box sources; ``resources`` with ``gpu`` resolved.
        data: the data set's folder.
        files: split -> annotations.
        report_corrupt: called with the names of images that cannot be decoded.
        plain: progress as lines even in a terminal.
    """
    from mipnet.inference.pipeline import predict_splits

    with Progress("evaluating", "box", plain) as progress:
        return predict_splits(
            model,
            config,
            data,
            files,
            sources=config.data.boxes,
            resources=config.resources,
            progress=progress.update,
            on_corrupt_images=report_corrupt,
        )


def ceilings(config: Config, files: Mapping[str, CocoKeypointFile]) -> dict[str, float]:
    """Upper bound of AP (0 to 1) by split: that of perfect heatmaps."""
    from mipnet.evaluation.ceiling import ceiling

    return {split: ceiling(file.annotations, config)["AP"] for split, file in files.items()}


def write_results(folder: Folder, config: Config, entries: Sequence[ResultRow], text: str) -> None:
    """Write the configuration and what ``write_entries`` writes."""
    folder.write("config.yaml", to_yaml(config))
    write_entries(folder, entries, text)


def write_entries(folder: Folder, entries: Sequence[ResultRow], text: str) -> None:
    """Write table.txt, a COCO results file for each line of the table, and metrics.json."""
    folder.write("table.txt", text + "\n")
    for entry in entries:
        folder.write(f"coco/{entry.name.replace('/', '-')}.json", json.dumps(entry.results))
    metrics = json.dumps(flat_metrics(entries), indent=2)
    folder.write("metrics.json", metrics + "\n")  # last: it marks the folder as complete
