"""A whole training run: preflight, training, evaluation, registration, summary; continued where it was."""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mipnet.config import Config, to_dict, to_yaml
from mipnet.console import say
from mipnet.data.coco import CocoKeypointFile
from mipnet.data.shared_pictures import shared_pictures, shared_pictures_lines
from mipnet.errors import as_user_error, first_few
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.experiment.data_identity import check_same_data, note_data
from mipnet.experiment.datasets import (
    CORRUPT_IMAGES_FILE,
    CorruptImageLog,
    dataset_location,
    read_corrupt_images,
)
from mipnet.experiment.early_end import early_end_lines, finished_line, reopen, trains_on
from mipnet.experiment.metric_forwarder import event_line
from mipnet.experiment.preflight import Prepared, check_data, prepared
from mipnet.host import cores
from mipnet.logs import attach_libraries, driver_log
from mipnet.run_folder import MODEL_FOLDER, RESULTS_FOLDER, Run, locked, open_run
from mipnet.storage import Folder, default_storage
from mipnet.tracking.provenance import cluster_summary, source_tags
from mipnet.tracking.store import tracking_uri, warn_of_tracking_store
from mipnet.tracking.system import SystemMetrics
from mipnet.tracking.tracker import Tracker


def complete_run(
    config: Config, storage: Folder, name: str, new: bool, *, verbose: bool, argv: Sequence[str] | None = None
) -> Run:
    """Begin a run or continue it, to its end; it is ``owed`` if MLflow did not take all of it.

    Args:
        config, storage, name, new: as for ``open_run``.
        verbose: show Ray's own messages.
        argv: the flags of ``mipnet train``; None for a call from Python.

    Raises:
        UserError: the data have changed since the run began, or as ``open_run`` and ``check_data``.
    """
    run = open_run(storage, config, name, new)
    with locked(run):
        data, missing = dataset_location(config, storage)
        if not missing:
            check_same_data(f"run {run.name}", run.folder, data)
        if trains_on(run):
            reopen(run)
        if run.finished and not run.owed:
            say(f"{finished_line(run)}\n")
            return run
        with driver_log(run.folder) as save_log:
            if run.finished:
                say(f"run {run.name} is finished; MLflow lacks a part of it")
                sent = close_tracker(new_tracker(run, storage), "FINISHED")
            else:
                sent = run_phases(run, storage, argv, verbose, save_log)
            finish(run, storage, sent)
    return run


def finish(run: Run, storage: Folder, sent: bool) -> None:
    """Register the model of a trained and evaluated run, and write its summary.

    Args:
        run, storage: see ``complete_run``.
        sent: whether MLflow has all records. The model is not registered later, or less finished, without.
    """
    from mipnet.experiment.final_phases import register_phase

    run.note(finished=True, owed=True)
    registered = not run.config.tracking.register or register_phase(run, storage)
    run.folder.write("summary.txt", summarise(run, storage))
    run.note(owed=not (sent and registered))


def close_tracker(tracker: Tracker, status: str) -> bool:
    """Close a run's tracker, and say what MLflow did not take; whether it took everything."""
    sent = tracker.close(status)
    if not sent:
        say(f"MLflow lacks records of this run ({tracker.last_error}); the same command sends them")
    if tracker.rejected:
        say(f"MLflow does not take {len(tracker.rejected)} record(s): {first_few(tracker.rejected)}")
    return sent


def run_phases(
    run: Run, storage: Folder, argv: Sequence[str] | None, verbose: bool, save_log: Callable[[], None]
) -> bool:
    """Run all phases on the cluster that are not done yet.

    Args:
        run, storage, argv, verbose: see ``complete_run``.
        save_log: called at the end of each phase.

    Returns:
        whether MLflow has all records.
    """
    say(f"run {run.name}\n  {run.folder.uri}")
    warn_of_tracking_store(storage)
    with prepared(
        run.config,
        storage,
        lambda data: open_data(run, data),
        window_bytes=run.config.window_bytes,
        before_ray=lambda: check_initial(run),
        while_rendering=lambda: timed_phase(run, "data"),
        verbose=verbose,
    ) as ready:
        run.config = ready.config
        save_log()
        tags = {"command": "mipnet.train()"} if argv is None else {}
        tracker = open_tracker(run, storage, argv or (), tags)
        status = "FAILED"
        try:
            train_and_evaluate(run, storage, ready, tracker, plain=verbose, save_log=save_log)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            run.note(ended="interrupted")
            raise
        except Exception as error:
            run.note(ended=" ".join(str(as_user_error(error) or error).split()) or type(error).__name__)
            raise
        finally:
            sent = close_tracker(tracker, status)
    return sent


def train_and_evaluate(
    run: Run, storage: Folder, ready: Prepared, tracker: Tracker, *, plain: bool, save_log: Callable[[], None]
) -> None:
    """The phases on the cluster, see ``run_phases``."""
    from mipnet.experiment.final_phases import evaluate_phase
    from mipnet.experiment.training_phase import train_phase, training_people

    config, files = ready.config, ready.files
    with SystemMetrics(tracker.log_metrics, run.state["begun"], monitored_disk(storage)):
        if "trained" not in run.state:
            with timed_phase(run, "training"):
                people = training_people(run, ready.data, files, tracker)
                # Free the other splits, which are not read again.
                for split in files.keys() - {*config.data.evaluate, config.data.val}:
                    del files[split]
                train_phase(run, ready.data, people, tracker, plain=plain)
            save_log()
        if "evaluated" not in run.state:
            with timed_phase(run, "evaluation"):
                evaluate_phase(run, storage, ready.data, files, tracker, plain=plain)
            save_log()


def check_initial(run: Run) -> None:
    """Fetch the initial weights of a training that lies ahead, so that unusable ones are found at once."""
    from mipnet.experiment.training_phase import fetch_initial

    if run.config.train.init and "trained" not in run.state:
        fetch_initial(run)


def open_data(run: Run, data: Folder) -> dict[str, CocoKeypointFile]:
    """Open and check the splits that the phases still need; notes what is left out or mended."""
    if "evaluated" in run.state:
        return {}
    corrupt = CorruptImageLog(run.folder)
    files = check_data(run.config, data, training="trained" not in run.state, report_corrupt=corrupt)
    note_data(run.folder, run.config.data, data, files)
    odd = {file.path: file.oddities.lines() for file in files.values()}
    if "trained" not in run.state and not run.config.data.generated:
        found = shared_pictures({split: file.people().images for split, file in files.items()})
        odd[data.uri] = shared_pictures_lines(found, data.uri)
        for line in odd[data.uri]:
            say(f"look at this: {line}")
    notes = {
        "left_out": {file.path: file.invalid_annotations.lines() for file in files.values()},
        "mended": {file.path: file.fixes for file in files.values()},
        "odd": odd,
    }
    run.note(**{kind: {**run.state.get(kind, {}), **lines} for kind, lines in notes.items()})
    return files


def summarise(run: Run, storage: Folder) -> str:
    """The text of summary.txt."""
    best = run.best_metrics
    seconds = sum(run.state["seconds"].values())
    where = "" if storage == default_storage() else f" --storage {shlex.quote(storage.uri)}"
    lines = [
        f"run {run.name}: {run.state['trained']['steps']} steps, best at step {best['step']} "
        f"(validation occlusion AP {100 * best[SELECTION_METRIC]:.1f}), {seconds / 60:.1f} minutes",
        *early_end_lines(run),
        *map(event_line, run.state.get("events", [])),
        "",
        run.folder.read(f"{RESULTS_FOLDER}/table.txt").decode(),
        *left_out_lines(run),
        f"weights   {run.folder.path(MODEL_FOLDER)}",
        f"results   {run.folder.path(RESULTS_FOLDER)}",
        f"report    {run.folder.path('report.html')}",
        f"MLflow    {tracking_uri(storage)}",
    ]
    model = shlex.quote(run.folder.path(MODEL_FOLDER))
    if "version" in run.state:
        name = run.config.tracking.model_name
        lines.append(f"registry  {name} version {run.state['version']}, alias candidate")
        model = shlex.quote(f"models:/{name}@candidate") + where
    lines += ["", f"look      mipnet ui{where}", f"next      mipnet predict PICTURES --model {model}"]
    return "\n".join(lines) + "\n"


def left_out_lines(run: Run) -> list[str]:
    """A line for each kind of sample that is left out, mended or odd, with the first examples."""
    lines = [f"damaged   checkpoint {line}" for line in run.state.get("damaged_checkpoints", [])]
    lines += [f"mended    {line}" for fixes in run.state.get("mended", {}).values() for line in fixes]
    lines += [
        f"{label}  {line} (in {path})"
        for label, kind in (("left out", "left_out"), ("look at ", "odd"))
        for path, found in run.state.get(kind, {}).items()
        for line in found
    ]
    if names := read_corrupt_images(run.folder):
        where = run.folder.path(CORRUPT_IMAGES_FILE)
        lines.append(f"left out  {len(names)} x image that cannot be read: {first_few(names)} (all: {where})")
    return lines


@contextmanager
def timed_phase(run: Run, phase: str) -> Iterator[None]:
    """Add the seconds of a phase to those in run.json, which sums over all starts."""
    attach_libraries()
    begin = time.monotonic()
    try:
        yield
    finally:
        seconds = dict(run.state.get("seconds", {}))
        seconds[phase] = round(seconds.get(phase, 0.0) + time.monotonic() - begin, 1)
        run.note(seconds=seconds)


def monitored_disk(storage: Folder) -> str:
    """The disk whose usage is logged: the storage's, or this machine's if that is an object store."""
    return str(storage.local_path) if storage.is_local else "/"


def open_tracker(run: Run, storage: Folder, argv: Sequence[str], tags: Mapping[str, str]) -> Tracker:
    """Open the run's MLflow run at a start of its work; ``tags`` win over those of ``mipnet train``."""
    import ray

    if "begun" not in run.state:
        run.note(begun=time.time())
    params: dict[str, Any] = {}
    for section, values in to_dict(run.config).items():
        if isinstance(values, dict):
            params |= {f"{section}.{key}": value for key, value in values.items()}
    own = {"preset": run.config.preset, "cluster": cluster_summary(ray.nodes(), cores())}
    tracker = new_tracker(run, storage, {**source_tags("train", argv), **own, **tags})
    tracker.log_params(params)
    tracker.log_text("config.yaml", to_yaml(run.config))
    return tracker


def new_tracker(run: Run, storage: Folder, tags: Mapping[str, str] | None = None) -> Tracker:
    """A tracker of the run's MLflow run, which sends what earlier starts could not."""
    identity = hashlib.sha256(f"{run.folder.uri} {run.state.get('begun')}".encode()).hexdigest()[:16]
    return Tracker(
        storage,
        run.folder,
        run.config.tracking.experiment,
        run.name,
        run_id=run.state.get("mlflow_run", ""),
        identity=identity,
        tags=tags,
        on_started=lambda run_id: run.note(mlflow_run=run_id),
    )
