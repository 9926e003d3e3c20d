"""``mipnet train``: data, training, evaluation, registration. The same command goes on where it was."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from mipnet.config import Config, from_dict, to_dict, to_yaml
from mipnet.config.flags import option, parse
from mipnet.config.presets import baseline, describe
from mipnet.console import say
from mipnet.errors import first_few, mendable
from mipnet.evaluation.occlusion import SCORE
from mipnet.experiment.common import (
    CONFIG_HELP,
    STORAGE_HELP,
    chosen_base,
    data_folder,
    one_image_each,
    storage_at,
)
from mipnet.experiment.corrupt_images import UNREADABLE, Unreadable, read_unreadable
from mipnet.experiment.metric_forwarder import event_line
from mipnet.host import cores
from mipnet.run_folder import MODEL, RESULTS, Run, locked, open_run
from mipnet.storage import Folder, default_storage

if TYPE_CHECKING:
    from mipnet.data.coco import CocoFile

SECTIONS = tuple(section.name for section in fields(Config) if section.name != "preset")


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet train`` beside the configuration's."""

    preset: str = option("tiny", "what to start from")
    config: str = option("", CONFIG_HELP)
    baseline: bool = option(
        False, "the preset's single-instance network: N = 1, no MIMB, and the paper's recipe for it"
    )
    name: str = option("", "the run's name [preset and digest of the settings]")
    new: bool = option(False, "start another run instead of continuing")
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, "show Ray's own messages")


def main(command: str, argv: Sequence[str]) -> int:
    """Run or continue a training to its registered model."""
    options, config = read(command, argv)
    storage = storage_at(options.storage)
    run = complete_run(config, storage, options.name, options.new, options.verbose, argv)
    if not run.finished:
        return 1
    say(run.folder.read("summary.txt").decode())
    return 0


def complete_run(
    config: Config,
    storage: Folder,
    name: str = "",
    new: bool = False,
    verbose: bool = False,
    argv: Sequence[str] | None = None,
) -> Run:
    """Begin a run or continue it; it is not ``finished`` if MLflow did not take all that it was told.

    Args:
        config, storage, name, new: as for ``open_run``.
        verbose: show Ray's own messages.
        argv: the flags of ``mipnet train``; None for a call from Python.
    """
    run = open_run(storage, config, name, new)
    with locked(run):
        if run.finished:
            say(f"run {run.name} is finished; --new starts another\n")
        else:
            carry_out(run, storage, argv, verbose)
    return run


def read(command: str, argv: Sequence[str]) -> tuple[Options, Config]:
    """Flags over YAML over preset, validated."""
    base = chosen_base(argv)
    about = f"Train, evaluate and register a network. Presets:\n{describe()}"
    options, settings = parse(command, about, Options, SECTIONS, base, argv)
    return options, from_dict(settings, baseline(base) if options.baseline else base)


def carry_out(run: Run, storage: Folder, argv: Sequence[str] | None, verbose: bool) -> None:
    """All phases that are not done yet."""
    say(f"run {run.name}\n  {run.folder.uri}")
    files = None if run.config.data.generated else open_data(run, Folder.of(run.config.data.root))
    from mipnet.ray_runtime.session import connect, probe_files, probe_storage, quieten

    quieten(verbose)
    from mipnet.experiment import phases
    from mipnet.tracking.system import SystemMetrics

    if run.config.train.init and "trained" not in run.state:
        phases.fetch_initial(run)
    with connect(run.config.resources, verbose, run.config.window_bytes) as resources:
        run.config = config = replace(run.config, resources=resources)
        probe_storage(storage)
        with timed(run, "data"):
            data = data_folder(config, storage, verbose)
        files = open_data(run, data) if files is None else files
        probe_files(one_image_each(files))
        tags = {"command": "mipnet.train()"} if argv is None else None
        tracker = open_tracker(run, storage, argv or (), tags)
        status = "FAILED"
        try:
            with SystemMetrics(tracker.metrics, run.state["begun"], disk_of(storage)):
                if "trained" not in run.state:
                    with timed(run, "training"):
                        people = phases.training_people(config, data, files, tracker)
                        # Only these are read again; COCO's others would take gigabytes all the training long.
                        files = {split: files[split] for split in config.data.evaluate}
                        phases.train_phase(run, data, people, tracker, verbose)
                if "evaluated" not in run.state:
                    with timed(run, "evaluation"):
                        phases.evaluate_phase(run, storage, data, files, tracker, verbose)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            run.note(ended="interrupted")
            raise
        except Exception as error:
            run.note(ended=" ".join(str(mendable(error) or error).split()) or type(error).__name__)
            raise
        finally:
            tracked = tracker.close(status)
            if not tracked:
                say(f"MLflow did not take everything ({tracker.problem}); it is kept and sent next time")
            if tracker.refused:
                say(f"MLflow refused {len(tracker.refused)} record(s), the first: {tracker.refused[0]}")
    # A run whose records still wait for the server is not finished: the same command sends them.
    if tracked and (not config.tracking.register or phases.register_phase(run, storage)):
        run.folder.write("summary.txt", summarise(run, storage))
        run.note(finished=True)


def open_data(run: Run, data: Folder) -> dict[str, CocoFile]:
    """The splits that the phases still need, checked; what is left out is noted for the summary."""
    from mipnet.experiment.preflight import check_data

    if "evaluated" in run.state:
        return {}
    files = check_data(run.config, data, "trained" not in run.state, Unreadable(run.folder))
    complaints = {file.path: file.complaints.lines() for file in files.values()}
    run.note(left_out={**run.state.get("left_out", {}), **complaints})
    return files


@contextmanager
def timed(run: Run, phase: str) -> Iterator[None]:
    """Add the seconds of a phase to what the run remembers, over all its starts."""
    begin = time.monotonic()
    try:
        yield
    finally:
        seconds = dict(run.state.get("seconds", {}))
        seconds[phase] = round(seconds.get(phase, 0.0) + time.monotonic() - begin, 1)
        run.note(seconds=seconds)


def disk_of(storage: Folder) -> str:
    return str(storage.local_path) if storage.is_local else "/"


def open_tracker(
    run: Run, storage: Folder, argv: Sequence[str], tags: Mapping[str, str] | None = None
) -> Any:
    """The run's MLflow run, reopened if there was one; ``tags`` win over those of ``mipnet train``."""
    import ray

    from mipnet.tracking.provenance import cluster_summary, source_tags
    from mipnet.tracking.tracker import Tracker

    if "begun" not in run.state:
        run.note(begun=time.time())

    params = {
        f"{section}.{key}": value
        for section, values in to_dict(run.config).items()
        if isinstance(values, dict)
        for key, value in values.items()
    }
    tracker = Tracker(
        storage,
        run.folder,
        run.config.tracking.experiment,
        run.name,
        run.state.get("mlflow_run", ""),
        tags={
            **source_tags("train", argv),
            "preset": run.config.preset,
            "cluster": cluster_summary(ray.nodes(), cores()),
            "restarts": str(len(run.state.get("events", []))),
            **(tags or {}),
        },
        params=params,
        on_started=lambda run_id: run.note(mlflow_run=run_id),
    )
    tracker.text("config.yaml", to_yaml(run.config))
    return tracker


def summarise(run: Run, storage: Folder) -> str:
    """What the run came to, and what to do next."""
    from mipnet.tracking.tracker import tracking_uri

    best = run.state["trained"]["best"]
    seconds = sum(run.state["seconds"].values())
    where = "" if storage == default_storage() else f" --storage {shlex.quote(storage.uri)}"
    lines = [
        f"run {run.name}: {run.state['trained']['steps']} steps, best at step {best['step']} "
        f"(validation occlusion AP {100 * best[SCORE]:.1f}), {seconds / 60:.1f} minutes",
        *map(event_line, run.state.get("events", [])),
        "",
        run.folder.read(f"{RESULTS}/table.txt").decode(),
        *left_out_lines(run),
        f"weights   {run.folder.path(MODEL)}",
        f"results   {run.folder.path(RESULTS)}",
        f"report    {run.folder.path('report.html')}",
        f"MLflow    {tracking_uri(storage)}",
    ]
    model = run.folder.path(MODEL)
    if "version" in run.state:
        name = run.config.tracking.model_name
        lines.append(f"registry  {name} version {run.state['version']}, alias candidate")
        model = f"models:/{name}@candidate"
        model += where
    lines += ["", f"look      mipnet ui{where}", f"next      mipnet predict PICTURES --model {model}"]
    return "\n".join(lines) + "\n"


def left_out_lines(run: Run) -> list[str]:
    """Which samples could not be used, by kind, the first of each named."""
    lines = [
        f"left out  {line} (in {path})"
        for path, found in run.state.get("left_out", {}).items()
        for line in found
    ]
    if names := read_unreadable(run.folder):
        where = run.folder.path(UNREADABLE)
        lines.append(f"left out  {len(names)} x image that cannot be read: {first_few(names)} (all: {where})")
    return lines
