"""``mipnet evaluate``: the tables of a trained model on the splits and box sources of a data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mipnet.config import Config
from mipnet.console import say
from mipnet.experiment.corrupt_images import CorruptImageLog
from mipnet.experiment.preflight import check_data, prepared
from mipnet.experiment.results import ceilings, predict_all
from mipnet.storage import Folder

if TYPE_CHECKING:
    from mipnet.data.coco import CocoKeypointFile
    from mipnet.evaluation.predicted_poses import PredictionsBySplit
    from mipnet.evaluation.result_rows import ResultRow


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
    model: Folder,
    config: Config,
    storage: Folder,
    *,
    results_of_others: Sequence[str] = (),
    verbose: bool = False,
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
    from mipnet.evaluation.external_results import external_result_rows

    corrupt = CorruptImageLog()
    others: list[ResultRow] = []

    def open_files(data: Folder) -> dict[str, CocoKeypointFile]:
        files = check_data(config, data, training=False, report_corrupt=corrupt)
        others.extend(external_result_rows(results_of_others, files, config))
        return files

    with prepared(config, storage, open_files, model=model, verbose=verbose) as ready:
        from mipnet.evaluation.result_tables import results_table
        from mipnet.evaluation.scoring import score_splits

        files = ready.files
        poses = predict_all(model, ready.config, ready.data, files, report_corrupt=corrupt, plain=verbose)
    entries = score_splits(poses, config, files) + others
    return Evaluation(entries, results_table(config.data, entries, ceilings(config, files)), poses, files)


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
