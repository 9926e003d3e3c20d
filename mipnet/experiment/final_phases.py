"""The last phases of a run: evaluation of the best weights (tables, pictures, report) and registration."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from mipnet.console import say
from mipnet.data.coco import CocoKeypointFile
from mipnet.errors import UserError
from mipnet.evaluation.occlusion import SELECTION_METRIC, occlusion_ap
from mipnet.evaluation.operating_point import operating_point_line
from mipnet.evaluation.pose_figures import flat_figures
from mipnet.evaluation.predicted_poses import score_splits
from mipnet.evaluation.result_rows import ResultRow, current_metric_names, flat_metrics, results_table
from mipnet.experiment.datasets import CorruptImageLog
from mipnet.experiment.early_end import EARLIER_VERSIONS
from mipnet.experiment.model_evaluation import (
    FIGURES_FILE,
    Evaluation,
    ceilings,
    predict_all,
    write_results,
)
from mipnet.experiment.operating_point import choose_on_validation, save_operating_point
from mipnet.experiment.training_phase import read_history
from mipnet.models.costs import count_parameters
from mipnet.models.weights import WEIGHTS_FILE
from mipnet.registry.model_card import CardFacts, description, model_card
from mipnet.registry.register import register_model
from mipnet.registry.resolve import model_operating_point
from mipnet.run_folder import MODEL_CARD_FILE, MODEL_FOLDER, RESULTS_FOLDER, Run
from mipnet.storage import Folder
from mipnet.tracking.sender import failure_reason, is_external_failure
from mipnet.tracking.store import tracking_uri
from mipnet.tracking.tracker import Tracker
from mipnet.training.checkpoint import model_from_config
from mipnet.visualization.example_grids import ExampleKind, example_grid
from mipnet.visualization.overlays import encode_jpeg
from mipnet.visualization.run_report import write_report

logger = logging.getLogger(__name__)


def evaluate_phase(
    run: Run,
    storage: Folder,
    data: Folder,
    files: Mapping[str, CocoKeypointFile],
    tracker: Tracker,
    *,
    plain: bool = False,
) -> None:
    """Choose the operating point; write tables and report of all splits and box sources to the run's folder
    and MLflow."""
    config = run.config
    files = {split: files[split] for split in config.data.evaluate}
    say(f"evaluating {', '.join(config.data.evaluate)} in boxes {', '.join(config.data.boxes)}")
    corrupt = CorruptImageLog(run.folder)
    model = run.folder.join(MODEL_FOLDER)
    poses = predict_all(model, config, data, files, report_corrupt=corrupt, plain=plain)
    entries = score_splits(poses, config, files)
    limits = ceilings(config, files)
    point = choose_on_validation(model, config, data, files, poses, report_corrupt=corrupt, plain=plain)
    save_operating_point(model, point)
    say(operating_point_line(point))
    text = results_table(config.data, entries, limits)
    found = Evaluation(config, entries, text, files, poses, point)
    results = run.folder.join(RESULTS_FOLDER)
    write_results(results, found)
    log_results(run, tracker, found)
    pictures = example_pictures(run, files, entries)
    for name, picture in pictures.items():
        results.write(f"pictures/{name.replace(' ', '-')}.jpg", encode_jpeg(picture))
    tracker.log_artifacts(results.join("pictures"), "results/pictures")
    place = data.uri if config.data.generated else config.data.root
    places = {"data": place, "MLflow": tracking_uri(storage)}
    page = report_page(run, places, found, limits, pictures)
    run.folder.write("report.html", page)
    tracker.log_file("report.html")
    write_card(run)
    run.note(evaluated=True)


def log_results(run: Run, tracker: Tracker, found: Evaluation) -> None:
    """Log metrics, figures and table to MLflow."""
    metrics = flat_metrics(found.result_rows)
    values = {**metrics, **flat_figures(found.figures)}
    if found.point:
        values |= {
            f"operating_point/{name}": getattr(found.point, name) for name in ("pose_score", "joint_score")
        }
    named = {f"{RESULTS_FOLDER}/{name}": value for name, value in values.items()}
    if named:
        named[f"{RESULTS_FOLDER}/occlusion_AP"] = occlusion_ap(run.config.data, metrics).value
    once = f"results {run.config.evaluation}"  # a search evaluates a model again, with other settings
    tracker.log_metrics(named, run.state["trained"]["steps"], once=once)
    tracker.set_tags({"mlflow.note.content": code_block(found.text)})  # the description on the run's page
    for name in ("table.txt", "metrics.json", "figures.txt", "figures.json"):
        tracker.log_file(f"{RESULTS_FOLDER}/{name}")


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
    places: dict[str, str],
    found: Evaluation,
    limits: dict[str, float],
    pictures: dict[str, np.ndarray],
) -> str:
    """The run's HTML report; ``places`` are those outside of its folder."""
    with torch.device("meta"):
        parameters = count_parameters(model_from_config(run.config))
    try:
        history = read_history(run.folder, run.state["trained"]["steps"])
    except UserError as error:  # of the curves only: a damaged checkpoint does not take back a trained model
        say(f"the report has no learning curves: {error}")
        history = []
    model, seconds = run.folder.path(MODEL_FOLDER), run.state.get("seconds", {})
    return write_report(
        run.name,
        run.config,
        {**run.state, "seconds": sum(seconds.values())},
        flat_metrics(found.result_rows),
        figures=found.figures,
        point=found.point,
        history=[*history, *run.state.get("validations", [])],
        ceilings=limits,
        pictures=pictures,
        timings=seconds,
        places={"run": run.folder.uri, "weights": model, **places},
        parameters=parameters,
        next_command=f"mipnet predict PICTURES --model {shlex.quote(model)}",
    )


def code_block(text: str) -> str:
    """A Markdown code block, in which a table keeps its columns."""
    return f"```\n{text.strip()}\n```"


def write_card(run: Run) -> CardFacts:
    """Write the model card of an evaluated run into the model's folder; returns what it says."""
    model, results = run.folder.join(MODEL_FOLDER), run.folder.join(RESULTS_FOLDER)
    figures: dict[str, Any] = {}
    if results.exists(FIGURES_FILE):  # runs of earlier versions have none
        figures = json.loads(results.read(FIGURES_FILE))
    found = CardFacts(
        run.name,
        run.config,
        run.state,
        metrics=current_metric_names(json.loads(results.read("metrics.json"))),
        figures=figures.get("figures", []),
        point=model_operating_point(model),
        weights_bytes=model.size(WEIGHTS_FILE),
    )
    model.write(MODEL_CARD_FILE, model_card(found, run.name))
    return found


def register_phase(run: Run, storage: Folder) -> bool:
    """Register the best weights as the new candidate; False if the registry does not answer."""
    if "version" in run.state:
        return True
    if "mlflow_run" not in run.state:
        say("not registered: MLflow did not answer; the same command tries again")
        return False

    trained = run.state["trained"]
    best = run.best_metrics
    if not best.keys() - {SELECTION_METRIC}:  # nan of a measured one says that nobody in the data can be
        raise UserError(f"run {run.name} could not be measured: not registered", "train it anew (--new)", 1)
    card = write_card(run)
    tags = {"run": run.name, "preset": run.config.preset, SELECTION_METRIC: f"{best[SELECTION_METRIC]:.4f}"}
    source, name, step = run.state["mlflow_run"], run.config.tracking.model_name, trained["steps"]
    try:
        with TemporaryDirectory() as scratch:
            model = run.folder.join(MODEL_FOLDER).download(Path(scratch))
            version = register_model(
                storage,
                source,
                model,
                name,
                step=step,
                earlier=run.state.get(EARLIER_VERSIONS, ()),
                describe=lambda number: description(model_card(card, f"models:/{name}/{number}")),
                tags=tags,
            )
    except Exception as error:
        if not is_external_failure(error):
            raise
        # Not raised: the trained model is safe in the run's folder.
        logger.warning("the registry refused the model", exc_info=True)
        say(f"not registered ({failure_reason(error)}); the same command tries again")
        return False
    run.note(version=version)
    return True
