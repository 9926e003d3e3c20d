"""Evaluating a trained model: predictions, tables, upper bounds, result files."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from mipnet.config import Config, to_yaml
from mipnet.console import say
from mipnet.data.coco import CocoKeypointFile
from mipnet.data.dataset_formats import open_split
from mipnet.evaluation.external_results import external_result_rows
from mipnet.evaluation.operating_point import OperatingPoint
from mipnet.evaluation.pose_figures import PoseFigures, figures_json, figures_text, pose_figures
from mipnet.evaluation.predicted_poses import PredictionsBySplit, score_splits
from mipnet.evaluation.result_rows import ResultRow, flat_metrics, results_table
from mipnet.experiment.datasets import CorruptImageLog
from mipnet.experiment.preflight import check_data, check_people, notices, prepared
from mipnet.experiment.progress import Progress
from mipnet.registry.resolve import model_operating_point
from mipnet.storage import Folder

FIGURES_FILE = "figures.json"


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate_model``, ``tables_of_others`` or a run's last phase found.

    Attributes:
        config: with which it was evaluated.
        result_rows: of the table, those of other methods last.
        text: the table, and what was left out of the data, mended in it, or is odd.
        files: split -> annotations.
        poses: of the model, if there is one.
        point: the model's operating point.
    """

    config: Config
    result_rows: list[ResultRow]
    text: str
    files: Mapping[str, CocoKeypointFile]
    poses: PredictionsBySplit = field(default_factory=dict)
    point: OperatingPoint | None = None

    @functools.cached_property
    def figures(self) -> list[PoseFigures]:
        """Of the merged poses and of other methods."""
        return pose_figures(self.result_rows, self.config, self.files, self.point)


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
        others.extend(external_result_rows(results_of_others, files, config))
        return files

    with prepared(config, storage, open_files, model=model, verbose=verbose) as ready:
        files = ready.files
        poses = predict_all(model, ready.config, ready.data, files, report_corrupt=corrupt, plain=verbose)
    entries = score_splits(poses, config, files) + others
    text = results_table(config.data, entries, ceilings(config, files)) + data_notices(files)
    return Evaluation(config, entries, text, files, poses, model_operating_point(model))


def tables_of_others(config: Config, results: Sequence[str]) -> Evaluation:
    """Rows and table of other methods' results, without a model and without Ray."""
    data = Folder.of(config.data.root)
    files = {split: open_split(config.data, data, split) for split in dict.fromkeys(config.data.evaluate)}
    for file in files.values():
        check_people(config, file)
    result_rows = external_result_rows(results, files, config)
    text = results_table(config.data, result_rows) + data_notices(files)
    return Evaluation(config, result_rows, text, files)


def data_notices(files: Mapping[str, CocoKeypointFile]) -> str:
    """What stands below a table: what was left out of the annotations, mended in them, or is odd."""
    lines = [line for file in files.values() for line in notices(file)]
    return "".join(f"\n{line}" for line in ["", *lines]) if lines else ""


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


def write_results(folder: Folder, found: Evaluation) -> None:
    """Write config.yaml, table.txt, a COCO results file for each line of the table, figures.txt, figures.json
    and metrics.json."""
    folder.write("config.yaml", to_yaml(found.config))
    folder.write("table.txt", found.text + "\n")
    for entry in found.result_rows:
        results = found.files[entry.split].own_results(entry.results)
        folder.write(f"coco/{entry.name.replace('/', '-')}.json", json.dumps(results))
    folder.write("figures.txt", figures_text(found.figures, found.point))
    folder.write(FIGURES_FILE, json.dumps(figures_json(found.figures, found.point), indent=1) + "\n")
    metrics = json.dumps(flat_metrics(found.result_rows), indent=2)
    folder.write("metrics.json", metrics + "\n")  # last: it marks the folder as complete
