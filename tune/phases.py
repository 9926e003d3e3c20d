"""The phases of a search: train the trials, evaluate the best one, register it, report."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mipnet.cli.train import disk_of, open_tracker, timed
from mipnet.config import to_dict, to_yaml
from mipnet.console import say
from mipnet.experiment import phases as training
from mipnet.experiment.common import data_folder, one_image_each, open_splits
from mipnet.experiment.preflight import check_data
from mipnet.models.weights import DESCRIPTION
from mipnet.ray_runtime.session import connect, probe_files, probe_storage, quieten
from mipnet.run_folder import MODEL, Run
from mipnet.storage import Folder, default_storage
from mipnet.tracking.system import SystemMetrics
from mipnet.tracking.tracker import Tracker, tracking_uri
from tune.driver import carry_out
from tune.ranking import Result, finished, rank
from tune.records import TRIAL, network_costs, read_trials
from tune.report import html, markdown, text
from tune.rungs import Board
from tune.samplers import count, make_sampler
from tune.spaces import Point, Space
from tune.tables import Summary, best_config, best_trial, to_json, with_pair
from tune.trials import PARENT, Work

if TYPE_CHECKING:
    from tune.search import Options

PARENT_PATIENCE = 60.0  # seconds for MLflow to open the parent's run, which the trials' runs have to name
FILES = {"search.json": to_json, "report.md": markdown, "report.html": html}


def search_and_report(
    search: Run, options: Options, space: Space, storage: Folder, argv: Sequence[str]
) -> int:
    """Whatever is left to do of a search; 0 if it has a best configuration."""
    quieten(options.verbose)
    say(f"search {search.name}\n  {search.folder.uri}")
    read_trials(search, options.retry)
    left = make_board(search, options, space).next() is not None
    if not left and search.state.get("over") and not to_evaluate(search):
        say("all trials are there; --trials, --seeds and --retry train more of them, --new starts another\n")
    else:
        search.note(over=False)
        try:
            on_cluster(search, options, space, storage, argv)
        except KeyboardInterrupt:
            end_mlflow_runs(search, storage)
            raise
    summary = summarise_search(search)
    if options.register_best and summary.best:
        register(summary.best, search, storage)
    write_reports(search)
    say(text(summarise_search(search)))
    return 0 if summary.best else 1


def make_board(search: Run, options: Options, space: Space) -> Board:
    """The board as the trials' folders tell it."""
    config, asked = search.config, search.state["asked"]
    halving = asked["halving"] or {"rungs": [config.train.epochs], "keep": 2}

    def cost(point: Point) -> int:
        return network_costs(point.applied(config, config.train.seed))[0]

    return Board(
        [trial for trial, _ in read_trials(search)],
        make_sampler(asked["sampler"], space, config, options.trials),
        cost,
        [config.train.seed + i for i in range(options.seeds)],
        **halving,
    )


def on_cluster(search: Run, options: Options, space: Space, storage: Folder, argv: Sequence[str]) -> None:
    """Train what is left, then evaluate the best configuration and the baseline."""
    config = search.config
    wanted = [] if config.data.generated else one_image_each(check_data(config, Folder.of(config.data.root)))
    with connect(config.resources, options.verbose, config.window_bytes) as resources:
        probe_storage(storage)
        data = data_folder(config, storage, options.verbose)
        probe_files(wanted)
        command = shlex.join(["python", "tune/search.py", *argv])
        tags = {"command": command, "mlflow.source.name": "tune/search.py", "search": search.name}
        tracker = open_tracker(search, storage, argv, tags)
        status = "FAILED"
        try:
            tags |= parent_tag(tracker)
            trials, uri = search.folder.join("runs"), tracking_uri(storage)
            work = Work(storage, trials, data, space, resources, uri, tags, argv, options.verbose)
            board = make_board(search, options, space)
            total = options.seeds * count(search.state["asked"]["sampler"], space, config, options.trials)
            with SystemMetrics(tracker.metrics, search.state["begun"], disk_of(storage)):
                carry_out(board, search, work, total, options.concurrent, lambda: tell(search, tracker))
                search.note(over=True)
                evaluate_final(search, work)
            tell(search, tracker)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            if not tracker.close(status):
                say(f"MLflow did not take everything ({tracker.problem}); it is kept and sent next time")


def parent_tag(tracker: Tracker) -> dict[str, str]:
    """What makes a run the child of the search's; empty if MLflow does not answer."""
    deadline = time.monotonic() + PARENT_PATIENCE
    while not tracker.run_id and not tracker.problem and time.monotonic() < deadline:
        time.sleep(0.1)
    if not tracker.run_id:
        say(f"MLflow did not open the search's run ({tracker.problem or 'no answer'}): trials have no parent")
        return {}
    return {PARENT: tracker.run_id}


def tell(search: Run, tracker: Tracker) -> None:
    """Reports and MLflow, as far as the search is."""
    write_reports(search)
    results = summarise_search(search).results
    done = finished(results)
    trained = sum(trial.done for r in results for trial, _ in r.trials)
    if done and done[0].score:
        values = {"search/best_occlusion_AP": done[0].score.ap, "search/finished": float(len(done))}
        tracker.metrics(values, trained)
    tracker.set_tags({"mlflow.note.content": search.folder.read("report.md").decode()})
    for name in (*FILES, *(["best.yaml"] if done else [])):
        tracker.text(name, search.folder.read(name).decode())


def summarise_search(search: Run) -> Summary:
    """What the trials' folders say now."""
    results = rank(read_trials(search), search.config, bool(search.state.get("over")))
    commands: list[str] = []
    if done := finished(results):
        storage = Folder(search.folder.uri.rpartition("/searches/")[0])
        where = "" if storage == default_storage() else f" --storage {shlex.quote(storage.uri)}"
        model = shlex.quote(best_trial(done[0])[1].folder.path(MODEL))
        if "version" in search.state:
            model = f"models:/{search.config.tracking.model_name}@candidate{where}"
        commands = [
            f"mipnet train --config {shlex.quote(search.folder.path('best.yaml'))}{where}",
            f"mipnet predict PICTURES --model {model}",
        ]
    return Summary(search, results, commands)


def write_reports(search: Run) -> None:
    """search.json, both reports and the best configuration, whatever there is yet."""
    summary = summarise_search(search)
    if summary.best:
        search.folder.write("best.yaml", to_yaml(best_config(search, summary.best)))
    for name, make in FILES.items():
        search.folder.write(name, make(summary))


def to_evaluate(search: Run) -> list[tuple[Result, Run]]:
    """What lacks its final tables of all seeds of the best configuration and of the baseline."""
    summary = summarise_search(search)
    results = [summary.best] if summary.best is summary.baseline else [summary.best, summary.baseline]
    return [
        (result, run)
        for result in filter(None, results)
        for trial, run in result.trials
        if not trial.failed and run.state[TRIAL].get("evaluated") != [result.discount, result.oks_nms]
    ]


def evaluate_final(search: Run, work: Work) -> None:
    """The final tables that are missing."""
    for result, run in to_evaluate(search):
        say(f"{run.name}: final tables")
        evaluate_trial(run, result, work)
        run.note(**{TRIAL: {**run.state[TRIAL], "evaluated": [result.discount, result.oks_nms]}})


def evaluate_trial(run: Run, result: Result, work: Work) -> None:
    run.config = replace(with_pair(run.config, result), resources=work.resources)
    tracker = open_tracker(run, work.storage, work.argv, work.tags)
    status = "FAILED"
    try:
        with timed(run, "evaluation"):
            files = open_splits(run.config, work.data, run.config.data.evaluate)
            training.evaluate_phase(run, work.storage, work.data, files, tracker, work.verbose)
        status = "FINISHED"
    finally:
        tracker.close(status)


def register(result: Result, search: Run, storage: Folder) -> None:
    """Register the best seed of a configuration, with the γ and NMS threshold that were chosen."""
    _, run = best_trial(result)
    run.config = with_pair(run.config, result)
    description = json.loads(run.folder.read(f"{MODEL}/{DESCRIPTION}"))
    description["extra"]["config"] = to_dict(run.config)
    run.folder.write(f"{MODEL}/{DESCRIPTION}", json.dumps(description, indent=2) + "\n")
    if training.register_phase(run, storage):
        search.note(version=run.state["version"], registered=run.name)
        name = search.config.tracking.model_name
        say(f"registered {run.name} as {name} version {run.state['version']}, alias candidate")


def end_mlflow_runs(search: Run, storage: Folder) -> None:
    """The trials that an interruption left open; the same command opens them again."""
    for trial, run in read_trials(search):
        if not trial.done and "mlflow_run" in run.state:
            run.note(ended="interrupted")
            experiment = search.config.tracking.experiment
            Tracker(storage, run.folder, experiment, run.name, run.state["mlflow_run"]).close("KILLED", 10)
