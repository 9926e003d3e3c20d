"""``mipnet train``: data, training, evaluation, registration. The same command goes on where it was."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mipnet.commands.common import STORAGE_HELP, ceilings, data_folder, storage_at, write_results
from mipnet.config import Config, from_dict, preset, read_yaml, to_dict, to_yaml
from mipnet.config.flags import chosen, option, parse, say
from mipnet.runs import MODEL, RESULTS, TRAINING, Run, locked, open_run
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
    config = run.config
    say(f"run {run.name}\n  {run.folder.uri}")
    with connect(config.resources, verbose):
        probe_storage(storage)
        begin = time.monotonic()
        data = data_folder(config, storage)
        tracker = open_tracker(run, storage)
        status = "FAILED"
        try:
            if "trained" not in run.state:
                train_phase(run, data, tracker)
            if "evaluated" not in run.state:
                evaluate_phase(run, data, tracker)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            tracked = tracker.close(status)
            if not tracked:
                say(f"MLflow did not take everything ({tracker.problem}); it is kept and sent next time")
    if config.tracking.register and not register_phase(run, storage):
        return
    seconds = run.state.get("seconds", 0) + time.monotonic() - begin
    summary = summarise(run, storage, seconds)
    run.folder.write("summary.txt", summary)
    run.note(finished=True, seconds=round(seconds))


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


def train_phase(run: Run, data: Folder, tracker: Any) -> None:
    """Train, and copy the best weights to the run's ``model``."""
    import ray

    from mipnet.data.records import CocoFile
    from mipnet.training.trainer import Rows, make_plan, position, train

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
    pump = RowPump(rows, tracker, plan.total_steps, config.train.batch_size)
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
    from mipnet.tracking.registry import resolve_model

    folder = run.folder.join("initial")
    if not folder.exists("model.json"):
        storage = Folder(run.folder.uri.rpartition("/runs/")[0])
        source = resolve_model(run.config.train.init, storage)
        for name in ("weights.safetensors", "model.json"):
            folder.write(name, source.read(name))
    return folder.uri


def read_history(folder: Folder, step: int) -> list[dict[str, float]]:
    """The rows that were logged before the checkpoint of ``step``."""
    from mipnet.training.checkpoint import HISTORY, folder_name

    return json.loads(folder.read(f"{TRAINING}/{folder_name(step)}/{HISTORY}"))


class RowPump(threading.Thread):
    """Carries logged rows from the workers' actor to MLflow and to the terminal."""

    SECONDS_BETWEEN_LINES = 5.0

    def __init__(self, rows: Any, tracker: Any, total_steps: int, batch_size: int) -> None:
        super().__init__(name="rows", daemon=True)
        self.rows, self.tracker = rows, tracker
        self.total_steps, self.batch_size = total_steps, batch_size
        self._stop_asked = threading.Event()
        self._logged, self._last_line = -1, 0.0

    def replay(self, history: list[dict[str, float]], logged: int) -> None:
        """Send what an interrupted start had logged but MLflow did not get."""
        self._logged = logged
        for row in history:
            self._log(row)

    def _log(self, row: dict[str, float]) -> None:
        step = int(row["step"])
        values = {k: v for k, v in row.items() if k != "step"}
        if "loss" not in row:  # a validation, which comes when it is done
            self.tracker.metrics(values, step)
            say(f"step {step}/{self.total_steps}  validation AP {100 * row['validation_AP']:.1f}")
        elif step > self._logged:
            self._logged = step
            self.tracker.metrics(values, step)

    def run(self) -> None:
        import ray

        while True:
            stopping = self._stop_asked.wait(0.5)
            try:
                rows = ray.get(self.rows.take.remote(), timeout=30)
            except ray.exceptions.RayError:
                rows = []
            for row in rows:
                self._log(row)
            steps = [row for row in rows if "loss" in row]
            if steps:
                self._show(steps[-1])
            if stopping:
                return

    def _show(self, row: dict[str, float]) -> None:
        now = time.monotonic()
        left = self.total_steps - int(row["step"])
        if left and now - self._last_line < self.SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        minutes, seconds = divmod(int(left * self.batch_size / max(row["samples_per_second"], 1e-9)), 60)
        say(
            f"step {int(row['step'])}/{self.total_steps}  loss {row['loss']:.5f}  "
            f"{row['samples_per_second']:.0f} samples/s  waiting for data {row['waited_for_data']:.0%}  "
            f"{minutes}:{seconds:02d} left"
        )

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(60)


def evaluate_phase(run: Run, data: Folder, tracker: Any) -> None:
    """The tables of all splits and box sources, into the run's ``results`` and MLflow."""
    from mipnet.inference.evaluate import evaluate_splits, flat_metrics
    from mipnet.inference.tables import table

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
    text = table(entries, ceilings(config, data, config.data.evaluate))
    results = run.folder.join(RESULTS)
    write_results(results, config, entries, text)
    tracker.metrics(flat_metrics(entries), run.state["trained"]["steps"])
    tracker.text("results/table.txt", text)
    tracker.text("results/metrics.json", results.read("metrics.json").decode())
    run.note(evaluated=True)


def register_phase(run: Run, storage: Folder) -> bool:
    """Make the best weights the registry's next candidate; False if the registry does not answer."""
    if "version" in run.state:
        return True
    if "mlflow_run" not in run.state:
        say("not registered: MLflow did not answer; the same command tries again")
        return False
    from mipnet.tracking.registry import register_model

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


def summarise(run: Run, storage: Folder, seconds: float) -> str:
    """What the run came to, and what to do next."""
    from mipnet.tracking.tracker import tracking_uri

    best = run.state["trained"]["best"]
    lines = [
        f"run {run.name}: {run.state['trained']['steps']} steps, best at step {best['step']} "
        f"(validation AP {100 * best['validation_AP']:.1f}), {seconds / 60:.1f} minutes",
        "",
        run.folder.read(f"{RESULTS}/table.txt").decode(),
        f"weights   {run.folder.path(MODEL)}",
        f"results   {run.folder.path(RESULTS)}",
        f"MLflow    {tracking_uri(storage)}",
    ]
    model = run.folder.path(MODEL)
    if "version" in run.state:
        name = run.config.tracking.model_name
        lines.append(f"registry  {name} version {run.state['version']}, alias candidate")
        model = f"models:/{name}@candidate"
    lines += ["", f"next      mipnet predict PICTURES --model {model}"]
    return "\n".join(lines) + "\n"
