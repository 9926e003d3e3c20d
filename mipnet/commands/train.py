"""``mipnet train``: data, training, evaluation, registration. The same command goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mipnet.commands.common import STORAGE_HELP, data_folder, storage_at
from mipnet.config import Config, from_dict, preset, read_yaml, to_dict, to_yaml
from mipnet.config.flags import chosen, option, parse, say
from mipnet.runs import MODEL, RESULTS, Run, locked, open_run
from mipnet.storage import Folder

SECTIONS = (
    "model",
    "input",
    "target",
    "augment",
    "data",
    "scenes",
    "train",
    "evaluation",
    "resources",
    "tracking",
)


@dataclass(frozen=True)
class Options:
    """Flags of ``mipnet train`` beside the configuration's."""

    preset: str = option("tiny", "what to start from, see mipnet --help")
    config: str = option("", "YAML file of settings on top of the preset; flags win over it")
    baseline: bool = option(False, "the preset's single-instance network: N = 1 and no MIMB")
    name: str = option("", "the run's name [preset and digest of the settings]")
    new: bool = option(False, "start another run instead of continuing")
    storage: str = option("", STORAGE_HELP)
    verbose: bool = option(False, "show Ray's own messages")


def main(command: str, argv: Sequence[str]) -> int:
    """Run or continue a training to its registered model."""
    options, config = read(command, argv)
    storage = storage_at(options.storage)
    run = open_run(storage, config, options.name, options.new)
    with locked(run):
        if run.finished:
            say(f"run {run.name} is finished; --new starts another\n")
        else:
            carry_out(run, storage, options.verbose)
        if not run.finished:
            return 1
        say(run.folder.read("summary.txt").decode())
    return 0


def read(command: str, argv: Sequence[str]) -> tuple[Options, Config]:
    """Flags over YAML over preset, validated."""
    path = chosen(argv, "--config", "")
    from_file = read_yaml(path) if path else {}
    name = chosen(argv, "--preset", str(from_file.get("preset", "tiny")))
    base = from_dict({**from_file, "preset": name}, preset(name))
    options, settings = parse(
        command, "Train, evaluate and register a network.", Options, SECTIONS, base, argv
    )
    if options.baseline:
        settings.setdefault("model", {}).update(instances=1, places=[])
    return options, from_dict(settings, base)


def carry_out(run: Run, storage: Folder, verbose: bool) -> None:
    """All phases that are not done yet."""
    from mipnet.raysession import connect, probe_storage, quieten

    quieten(verbose)
    from mipnet.commands import phases

    config = run.config
    say(f"run {run.name}\n  {run.folder.uri}")
    with connect(config.resources, verbose):
        probe_storage(storage)
        with timed(run, "data"):
            data = data_folder(config, storage)
        tracker = open_tracker(run, storage)
        status = "FAILED"
        try:
            if "trained" not in run.state:
                with timed(run, "training"):
                    phases.train_phase(run, data, tracker)
            if "evaluated" not in run.state:
                with timed(run, "evaluation"):
                    phases.evaluate_phase(run, storage, data, tracker)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            tracked = tracker.close(status)
            if not tracked:
                say(f"MLflow did not take everything ({tracker.problem}); it is kept and sent next time")
    # A run whose records still wait for the server is not finished: the same command sends them.
    if tracked and (not config.tracking.register or phases.register_phase(run, storage)):
        run.folder.write("summary.txt", summarise(run, storage))
        run.note(finished=True)


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


def open_tracker(run: Run, storage: Folder) -> Any:
    """The run's MLflow run, reopened if there was one."""
    from mipnet import __version__
    from mipnet.tracking.tracker import Tracker

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
        tags={"mipnet.version": __version__, "mipnet.preset": run.config.preset},
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
    lines = [
        f"run {run.name}: {run.state['trained']['steps']} steps, best at step {best['step']} "
        f"(validation AP {100 * best['validation_AP']:.1f}), {seconds / 60:.1f} minutes",
        "",
        run.folder.read(f"{RESULTS}/table.txt").decode(),
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
    lines += ["", f"next      mipnet predict PICTURES --model {model}"]
    return "\n".join(lines) + "\n"
