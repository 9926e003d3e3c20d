"""The evaluation phase of a run: predictions of the best weights, tables, pictures, report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from mipnet.config import Config
from mipnet.console import say
from mipnet.data.coco import CocoKeypointFile
from mipnet.evaluation.occlusion import occlusion_ap
from mipnet.evaluation.result_rows import ResultRow, flat_metrics
from mipnet.evaluation.result_tables import results_table
from mipnet.evaluation.scoring import score_splits
from mipnet.experiment.corrupt_images import CorruptImageLog
from mipnet.experiment.results import ceilings, predict_all, write_results
from mipnet.experiment.training_phase import read_history
from mipnet.models.costs import count_parameters
from mipnet.run_folder import MODEL_FOLDER, RESULTS_FOLDER, Run
from mipnet.storage import Folder
from mipnet.synthetic.generate import benchmark_name
from mipnet.tracking.tracker import Tracker, tracking_uri
from mipnet.training.checkpoint import model_from_config
from mipnet.visualization.example_grids import ExampleKind, example_grid
from mipnet.visualization.overlays import encode_jpeg
from mipnet.visualization.run_report import write_report


def evaluate_phase(
    run: Run,
    storage: Folder,
    data: Folder,
    files: Mapping[str, CocoKeypointFile],
    tracker: Tracker,
    *,
    plain: bool = False,
) -> None:
    """Write tables and report of all splits and box sources to the run's folder and MLflow."""
    config = run.config
    files = {split: files[split] for split in config.data.evaluate}
    say(f"evaluating {', '.join(config.data.evaluate)} in boxes {', '.join(config.data.boxes)}")
    corrupt = CorruptImageLog(run.folder)
    poses = predict_all(
        run.folder.join(MODEL_FOLDER), config, data, files, report_corrupt=corrupt, plain=plain
    )
    entries = score_splits(poses, config, files)
    limits = ceilings(config, files)
    text = results_table(config.data, entries, limits)
    results = run.folder.join(RESULTS_FOLDER)
    write_results(results, config, entries, text)
    metrics = flat_metrics(entries)
    log_results(run, tracker, metrics, text)
    pictures = example_pictures(run, files, entries)
    for name, picture in pictures.items():
        results.write(f"pictures/{name.replace(' ', '-')}.jpg", encode_jpeg(picture))
    tracker.log_artifacts(results.join("pictures"), "results/pictures")
    page = report_page(run, storage, metrics, limits, pictures)
    run.folder.write("report.html", page)
    tracker.log_text("report.html", page)
    run.note(evaluated=True)


def log_results(run: Run, tracker: Tracker, metrics: dict[str, float], text: str) -> None:
    """Log metrics and table to MLflow."""
    named = {f"{RESULTS_FOLDER}/{name}": value for name, value in metrics.items()}
    if named:
        named[f"{RESULTS_FOLDER}/occlusion_AP"] = occlusion_ap(run.config.data, metrics).value
    tracker.log_metrics(named, run.state["trained"]["steps"])
    tracker.set_tags({"mlflow.note.content": code_block(text)})  # the description on the run's page
    tracker.log_text("results/table.txt", text)
    tracker.log_text("results/metrics.json", run.folder.read(f"{RESULTS_FOLDER}/metrics.json").decode())


def example_pictures(
    run: Run, files: Mapping[str, CocoKeypointFile], entries: list[ResultRow]
) -> dict[str, np.ndarray]:
    """Contact sheets of the last split in the last box source: for generated data the hardest."""
    config = run.config
    split, source = config.data.evaluate[-1], config.data.boxes[-1].partition("=")[0]
    rows = [entry for entry in entries if (entry.split, entry.source) == (split, source)]
    kinds: tuple[ExampleKind, ...] = ("crowded", "best", "worst")
    return {f"{kind} {split} {source}": example_grid(files[split], rows, 4, kind) for kind in kinds}


def report_page(
    run: Run,
    storage: Folder,
    metrics: dict[str, float],
    limits: dict[str, float],
    pictures: dict[str, np.ndarray],
) -> str:
    """The run's HTML report."""
    history = read_history(run.folder, run.state["trained"]["steps"])
    model, seconds = run.folder.path(MODEL_FOLDER), run.state.get("seconds", {})
    return write_report(
        run.name,
        run.config,
        {**run.state, "seconds": sum(seconds.values())},
        metrics,
        history=[*history, *run.state.get("validations", [])],
        ceilings=limits,
        pictures=pictures,
        timings=seconds,
        places={
            "run": run.folder.uri,
            "weights": model,
            "data": data_uri(run, storage),
            "MLflow": tracking_uri(storage),
        },
        parameters=parameter_count(run.config),
        next_command=f"mipnet predict PICTURES --model {model}",
    )


def data_uri(run: Run, storage: Folder) -> str:
    if not run.config.data.generated:
        return run.config.data.root
    return storage.path(f"data/{benchmark_name(run.config.scenes)}")


def parameter_count(config: Config) -> int:
    with torch.device("meta"):
        return count_parameters(model_from_config(config))


def code_block(text: str) -> str:
    """A Markdown code block, in which a table keeps its columns."""
    return f"```\n{text.strip()}\n```"
