"""The phases of ``mipnet train``; each leaves its result in the run's folder and is not done twice."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import ray
import torch

from mipnet.commands.common import ceilings, write_results
from mipnet.commands.progress import RowPump
from mipnet.config import Config
from mipnet.config.flags import say
from mipnet.data.generate import benchmark_name
from mipnet.data.records import CocoFile
from mipnet.inference.evaluate import Entry, evaluate_splits, flat_metrics
from mipnet.inference.overlays import encode_jpeg
from mipnet.inference.tables import table
from mipnet.models.build import count_parameters
from mipnet.models.weights import read_weights, warm_start
from mipnet.report.page import write_report
from mipnet.report.pictures import Which, example_grid
from mipnet.runs import MODEL, RESULTS, TRAINING, Run
from mipnet.storage import Folder
from mipnet.tracking.registry import register_model, resolve_model
from mipnet.tracking.tracker import Tracker, tracking_uri
from mipnet.training.checkpoint import HISTORY, folder_name, model_from_config
from mipnet.training.trainer import Rows, make_plan, position, train


def train_phase(run: Run, data: Folder, tracker: Tracker) -> None:
    """Train, and copy the best weights to the run's ``model``."""
    config = run.config
    people, complaints = CocoFile(data, config.data.train, config.data.joints).people()
    for line in complaints.lines():
        say(f"left out: {line}")
    complaints.check(len(people) + complaints.total, config.data.max_bad_share, data.path(config.data.train))
    CocoFile(data, config.data.tune, config.data.joints)
    plan = make_plan(config, people)
    done = position(run.folder)
    say(
        f"{len(people)} people in {len(people.images)} images; {plan.total_steps} steps of "
        f"{config.train.batch_size} on {config.resources.workers} worker(s)"
        + (f"; going on at step {done}" if done else "")
    )
    rows = ray.remote(num_cpus=0)(Rows).remote()
    pump = RowPump(rows, run, tracker, plan.total_steps)
    if done:
        pump.replay(read_history(run.folder, done), tracker.last_step())
    pump.start()
    try:
        trained = train(config, run, data, people, rows, initial_weights(run))
    finally:
        pump.stop()
    with TemporaryDirectory() as scratch:
        local = trained.best.download(Path(scratch))
        for name in ("weights.safetensors", "model.json"):
            run.folder.write(f"{MODEL}/{name}", (local / name).read_bytes())
    run.note(trained={"steps": trained.steps, "best": trained.metrics})


def initial_weights(run: Run) -> str:
    """The folder of the weights to start from, copied into the run so that every node can read it."""
    if not run.config.train.init:
        return ""
    folder = run.folder.join("initial")
    if not folder.exists("model.json"):
        storage = Folder(run.folder.uri.rpartition("/runs/")[0])
        source = resolve_model(run.config.train.init, storage)
        for name in ("weights.safetensors", "model.json"):
            folder.write(name, source.read(name))
    with TemporaryDirectory() as scratch:
        weights = read_weights(folder.download(Path(scratch)))
        random = warm_start(model_from_config(run.config), weights, run.config.train.init)
    say(
        f"starting from {run.config.train.init}; "
        + (f"random: {', '.join(random)}" if random else "all of it")
    )
    return folder.uri


def read_history(folder: Folder, step: int) -> list[dict[str, float]]:
    """The rows that were logged before the checkpoint of ``step``."""
    return json.loads(folder.read(f"{TRAINING}/{folder_name(step)}/{HISTORY}"))


def evaluate_phase(run: Run, storage: Folder, data: Folder, tracker: Tracker) -> None:
    """Tables and report of all splits and box sources, into the run's folder and MLflow."""
    config = run.config
    say(f"evaluating {', '.join(config.data.evaluate)} in boxes {', '.join(config.data.boxes)}")
    entries = evaluate_splits(
        run.folder.join(MODEL),
        config,
        config.evaluation,
        data,
        config.data.evaluate,
        config.data.boxes,
        config.resources,
    )
    limits = ceilings(config, data, config.data.evaluate)
    text = table(entries, limits)
    results = run.folder.join(RESULTS)
    write_results(results, config, entries, text)
    tracker.metrics(flat_metrics(entries), run.state["trained"]["steps"])
    tracker.text("results/table.txt", text)
    tracker.text("results/metrics.json", results.read("metrics.json").decode())
    pictures = example_pictures(run, data, entries)
    for name, picture in pictures.items():
        results.write(f"pictures/{name.replace(' ', '-')}.jpg", encode_jpeg(picture))
    tracker.artifacts(results.join("pictures"), "results/pictures")
    page = report(run, storage, flat_metrics(entries), limits, pictures)
    run.folder.write("report.html", page)
    tracker.text("report.html", page)
    run.note(evaluated=True)


def example_pictures(run: Run, data: Folder, entries: list[Entry]) -> dict[str, np.ndarray]:
    """Contact sheets of the last split in the last box source: for generated data the hardest."""
    config = run.config
    split, source = config.data.evaluate[-1], config.data.boxes[-1].partition("=")[0]
    shown = [entry for entry in entries if (entry.split, entry.source) == (split, source)]
    file = CocoFile(data, split, config.data.joints)
    kinds: tuple[Which, ...] = ("crowded", "best", "worst")
    return {f"{kind} {split} {source}": example_grid(file, shown, 4, kind) for kind in kinds}


def report(
    run: Run,
    storage: Folder,
    metrics: dict[str, float],
    limits: dict[str, float],
    pictures: dict[str, np.ndarray],
) -> str:
    """The run's page."""
    history = read_history(run.folder, run.state["trained"]["steps"])
    model = run.folder.path(MODEL)
    return write_report(
        run.name,
        run.config,
        {**run.state, "seconds": sum(run.state.get("seconds", {}).values())},
        metrics,
        history=[*history, *run.state.get("validations", [])],
        ceilings=limits,
        pictures=pictures,
        timings=run.state.get("seconds", {}),
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

    best = run.state["trained"]["best"]
    tags = {"run": run.name, "preset": run.config.preset, "validation_AP": f"{best['validation_AP']:.4f}"}
    try:
        with TemporaryDirectory() as scratch:
            model = run.folder.join(MODEL).download(Path(scratch))
            version = register_model(
                storage, run.state["mlflow_run"], model, run.config.tracking.model_name, tags
            )
    except Exception as error:  # whatever the server does, the trained model is safe in the run's folder
        say(f"not registered ({str(error).splitlines()[0]}); the same command tries again")
        return False
    run.note(version=version)
    return True
