"""Predictions, upper bounds and result files of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from mipnet.config import Config, to_yaml
from mipnet.experiment.progress import Progress
from mipnet.storage import Folder

if TYPE_CHECKING:
    from mipnet.data.coco import CocoKeypointFile
    from mipnet.evaluation.predicted_poses import PredictionsBySplit
    from mipnet.evaluation.result_rows import ResultRow


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
    from mipnet.inference.splits import predict_splits

    sources, resources = config.data.boxes, config.resources
    with Progress("evaluating", "box", plain) as progress:
        return predict_splits(
            model,
            config,
            data,
            files,
            sources=sources,
            resources=resources,
            progress=progress.update,
            on_corrupt_images=report_corrupt,
        )


def ceilings(config: Config, files: Mapping[str, CocoKeypointFile]) -> dict[str, float]:
    """Upper bound of AP (0 to 1) by split: that of perfect heatmaps."""
    from mipnet.evaluation.ceiling import ceiling

    joints = config.data.joints
    return {
        split: ceiling(
            file.annotations,
            joints.sigmas,
            config.input.size,
            target=config.target.kind,
            sigma=config.target.sigma,
            decoder=config.evaluation.decoder,
            stride=config.model.stride,
            padding=config.input.padding,
            protocol=config.data.protocol,
        )["AP"]
        for split, file in files.items()
    }


def write_results(folder: Folder, config: Config, entries: Sequence[ResultRow], text: str) -> None:
    """Write the configuration and what ``write_entries`` writes."""
    folder.write("config.yaml", to_yaml(config))
    write_entries(folder, entries, text)


def write_entries(folder: Folder, entries: Sequence[ResultRow], text: str) -> None:
    """Write table.txt, a COCO results file for each line of the table, and metrics.json."""
    from mipnet.evaluation.result_rows import flat_metrics

    folder.write("table.txt", text + "\n")
    for entry in entries:
        folder.write(f"coco/{entry.name.replace('/', '-')}.json", json.dumps(entry.results))
    folder.write(
        "metrics.json", json.dumps(flat_metrics(entries), indent=2) + "\n"
    )  # last: it marks the folder as complete
