"""The phases of ``mipnet train``; each leaves its result in the run's folder and is not done twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import ray
import torch

from mipnet.config import Config
from mipnet.config.presets import missing_start
from mipnet.console import say
from mipnet.data.coco import CocoFile, People
from mipnet.data.crops import crop_settings
from mipnet.data.sample_schedule import WindowPlan
from mipnet.errors import UserError
from mipnet.evaluation.occlusion import SCORE, occlusion_ap
from mipnet.evaluation.result_rows import Entry, flat_metrics
from mipnet.evaluation.result_tables import table
from mipnet.evaluation.scoring import score_splits
from mipnet.experiment.common import ceilings, predict_all, write_results
from mipnet.experiment.corrupt_images import Unreadable
from mipnet.experiment.metric_forwarder import LEARNING, RESTARTS, RowPump, note_event
from mipnet.experiment.progress import Progress
from mipnet.models.costs import count_parameters
from mipnet.models.initialization import start_from_folder
from mipnet.models.reference_checkpoints import import_checkpoint, is_checkpoint
from mipnet.ray_runtime.capacity import capacity
from mipnet.registry.register import register_model
from mipnet.registry.resolve import resolve_model
from mipnet.run_folder import MODEL, RESULTS, TRAINING, Run
from mipnet.storage import Folder
from mipnet.synthetic.generate import benchmark_name
from mipnet.tracking.datasets import describe_datasets
from mipnet.tracking.tracker import Tracker, tracking_uri
from mipnet.training.checkpoint import HISTORY, folder_name, model_from_config
from mipnet.training.trainer import Rows, make_plan, position, train
from mipnet.visualization.example_grids import Which, example_grid
from mipnet.visualization.overlays import encode_jpeg
from mipnet.visualization.run_report import write_report
from mipnet.visualization.training_crops import training_grid

CROPS = "training-crops.jpg"
STORES = ("mlflow", "sqlalchemy", "boto3", "botocore", "google", "azure")
"""Packages that speak to MLflow's server, its database and the stores of artifacts."""


def train_phase(
    run: Run,
    data: Folder,
    people: People,
    tracker: Tracker,
    plain: bool = False,
    epochs: int = 0,
) -> None:
    """Train, and copy the best weights to the run's ``model``.

    Args:
        run: what to train.
        data: the data set's folder.
        people: to train on, see ``training_people``.
        tracker: of the run.
        plain: lines even in a terminal.
        epochs: ends early, see ``train``.
    """
    config = run.config
    plan = make_plan(config, people)
    keep_crops(run, people, plan, tracker)
    done = position(run.folder)
    say(
        f"{len(people)} people in {len(people.images)} images; {plan.total_steps} steps of "
        f"{config.train.batch_size} on {config.resources.workers} worker(s)"
        + (f"; going on at step {done}" if done else "")
    )
    threads = config.resources.workers * max(config.resources.cpus_per_worker, 1)
    room = capacity(ray.nodes(), config, threads)
    say(room.line())
    note_start(run, tracker, done)
    initial = initial_weights(run)
    rows = ray.remote(num_cpus=0)(Rows).remote()
    with Progress("training", "step", plain, done, plan.total_steps) as progress:
        pump = RowPump(rows, run, tracker, progress, plan.total_steps)
        if done:
            pump.replay(read_history(run.folder, done), tracker.last_step(f"{LEARNING}/loss"))
        pump.start()
        try:
            trained = train(config, run, data, people, rows, initial, epochs, room.limit)
        finally:
            pump.stop()
    with TemporaryDirectory() as scratch:
        local = trained.best.download(Path(scratch))
        for name in ("weights.safetensors", "model.json"):
            run.folder.write(f"{MODEL}/{name}", (local / name).read_bytes())
    run.note(trained={"steps": trained.steps, "best": trained.metrics})


def training_people(config: Config, data: Folder, files: Mapping[str, CocoFile], tracker: Tracker) -> People:
    """Whom to train on; MLflow is told about all data sets of the run."""
    tracker.inputs(describe_datasets(config.data, data, files))
    return files[config.data.train].people()[0]


def keep_crops(run: Run, people: People, plan: WindowPlan, tracker: Tracker) -> None:
    """A picture of what the network sees first."""
    grid = training_grid(people, plan, crop_settings(run.config))
    if grid is not None:
        pictures = run.folder.join("pictures")
        pictures.write(CROPS, encode_jpeg(grid))
        tracker.artifacts(pictures, "pictures")


def note_start(run: Run, tracker: Tracker, step: int) -> None:
    """Count the starts of this training; each after the first is an event."""
    starts = run.state.get("starts", 0)
    if starts or step:
        cause = run.state.get("ended") or "the last start ended without a word"
        note_event(run, tracker, "resume", step, cause)
    else:
        tracker.metrics({RESTARTS: 0}, 0)
    run.note(starts=starts + 1, ended="")


def initial_weights(run: Run) -> str:
    """The folder of the weights to start from, "" for random ones; says what stays random."""
    init = run.config.train.init
    if not init:
        if warning := missing_start(run.config):
            say(warning)
        return ""
    random = fetch_initial(run)
    say(f"starting from {init}; " + (f"random: {random}" if random else "all of it"))
    return initial_folder(run).uri


def fetch_initial(run: Run) -> str:
    """Copy the weights to start from into the run, so that every node can read them, unless they are there.

    Returns:
        what of the network they leave random.

    Raises:
        UserError: there are none, or they do not fit the network.
    """
    init, folder = run.config.train.init, initial_folder(run)
    with TemporaryDirectory() as scratch:
        if not folder.exists("model.json"):
            if is_checkpoint(init):
                source = Folder.of(import_checkpoint(init, scratch, run.config.input.size).folder)
            else:
                source = resolve_model(init, Folder(run.folder.uri.rpartition("/runs/")[0]))
            for name in ("weights.safetensors", "model.json"):
                folder.write(name, source.read(name))
        local = folder.download(Path(scratch))
        return start_from_folder(model_from_config(run.config), local, run.config.data.joints, init)


def initial_folder(run: Run) -> Folder:
    return run.folder.join("initial")


def read_history(folder: Folder, step: int) -> list[dict[str, float]]:
    """The rows that were logged before the checkpoint of ``step``."""
    return json.loads(folder.read(f"{TRAINING}/{folder_name(step)}/{HISTORY}"))


def evaluate_phase(
    run: Run,
    storage: Folder,
    data: Folder,
    files: Mapping[str, CocoFile],
    tracker: Tracker,
    plain: bool = False,
) -> None:
    """Tables and report of all splits and box sources, into the run's folder and MLflow."""
    config = run.config
    files = {split: files[split] for split in config.data.evaluate}
    say(f"evaluating {', '.join(config.data.evaluate)} in boxes {', '.join(config.data.boxes)}")
    poses = predict_all(run.folder.join(MODEL), config, data, files, Unreadable(run.folder), plain)
    entries = score_splits(poses, config, files)
    limits = ceilings(config, files)
    text = table(config.data, entries, limits)
    results = run.folder.join(RESULTS)
    write_results(results, config, entries, text)
    metrics = flat_metrics(entries)
    found = {f"{RESULTS}/{name}": value for name, value in metrics.items()}
    if found:
        found[f"{RESULTS}/occlusion_AP"] = occlusion_ap(config.data, metrics).value
    tracker.metrics(found, run.state["trained"]["steps"])
    tracker.set_tags({"mlflow.note.content": as_block(text)})  # the description on the run's page
    tracker.text("results/table.txt", text)
    tracker.text("results/metrics.json", results.read("metrics.json").decode())
    pictures = example_pictures(run, files, entries)
    for name, picture in pictures.items():
        results.write(f"pictures/{name.replace(' ', '-')}.jpg", encode_jpeg(picture))
    tracker.artifacts(results.join("pictures"), "results/pictures")
    page = report(run, storage, metrics, limits, pictures)
    run.folder.write("report.html", page)
    tracker.text("report.html", page)
    run.note(evaluated=True)


def example_pictures(run: Run, files: Mapping[str, CocoFile], entries: list[Entry]) -> dict[str, np.ndarray]:
    """Contact sheets of the last split in the last box source: for generated data the hardest."""
    config = run.config
    split, source = config.data.evaluate[-1], config.data.boxes[-1].partition("=")[0]
    shown = [entry for entry in entries if (entry.split, entry.source) == (split, source)]
    kinds: tuple[Which, ...] = ("crowded", "best", "worst")
    return {f"{kind} {split} {source}": example_grid(files[split], shown, 4, kind) for kind in kinds}


def report(
    run: Run,
    storage: Folder,
    metrics: dict[str, float],
    limits: dict[str, float],
    pictures: dict[str, np.ndarray],
) -> str:
    """The run's page."""
    history = read_history(run.folder, run.state["trained"]["steps"])
    model, seconds = run.folder.path(MODEL), run.state.get("seconds", {})
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
        parameters=parameters_of(run.config),
        next_command=f"mipnet predict PICTURES --model {model}",
    )


def data_uri(run: Run, storage: Folder) -> str:
    if not run.config.data.generated:
        return run.config.data.root
    return storage.path(f"data/{benchmark_name(run.config.scenes)}")


def parameters_of(config: Config) -> int:
    with torch.device("meta"):
        return count_parameters(model_from_config(config))


def register_phase(run: Run, storage: Folder) -> bool:
    """Make the best weights the registry's next candidate; False if the registry does not answer."""
    if "version" in run.state:
        return True
    if "mlflow_run" not in run.state:
        say("not registered: MLflow did not answer; the same command tries again")
        return False

    trained = run.state["trained"]
    best = trained["best"]
    about = f"Trained by the run {run.name}.\n\n" + as_block(run.folder.read(f"{RESULTS}/table.txt").decode())
    tags = {"run": run.name, "preset": run.config.preset, SCORE: f"{best[SCORE]:.4f}"}
    name, mlflow_run = run.config.tracking.model_name, run.state["mlflow_run"]
    try:
        with TemporaryDirectory() as scratch:
            model = run.folder.join(MODEL).download(Path(scratch))
            version = register_model(storage, mlflow_run, model, name, trained["steps"], about, tags)
    except Exception as error:
        if not is_outside(error):
            raise
        # Whatever a server does, the trained model is safe in the run's folder.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        say(f"not registered ({reason}); the same command tries again")
        return False
    run.note(version=version)
    return True


def is_outside(error: Exception) -> bool:
    """Whether a server, a store or a disk refused, and not this code: each store's client has own errors."""
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | UserError) or package in STORES


def as_block(text: str) -> str:
    """Markdown that keeps a table's columns."""
    return f"```\n{text.strip()}\n```"
