"""The steps of a search: train its trials, evaluate and register the best point, report."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from mipnet.config import to_dict, to_yaml
from mipnet.console import say
from mipnet.experiment.data_identity import check_same_data, note_data
from mipnet.experiment.datasets import dataset_location, ensure_dataset, open_splits, sample_image_uris
from mipnet.experiment.final_phases import evaluate_phase, register_phase
from mipnet.experiment.preflight import check_data
from mipnet.experiment.training_run import (
    close_tracker,
    monitored_disk,
    new_tracker,
    open_tracker,
    timed_phase,
)
from mipnet.models.weights import DESCRIPTION_FILE
from mipnet.ray_runtime.probes import probe_files, probe_storage
from mipnet.ray_runtime.session import connect, silence_ray
from mipnet.run_folder import MODEL_FOLDER, Run
from mipnet.storage import Folder, default_storage
from mipnet.tracking.store import tracking_uri, warn_of_tracking_store
from mipnet.tracking.system import SystemMetrics
from mipnet.tracking.tracker import Tracker
from tune.driver import run_trials
from tune.options import SearchOptions
from tune.ranking import PointResult, finished_results, rank_points
from tune.samplers import make_sampler, num_points
from tune.search_report import render_html, render_markdown, render_text
from tune.search_space import SearchSpace, with_pair
from tune.successive_halving import TrialScheduler
from tune.summary import SearchSummary, best_config, best_trial, search_json
from tune.trainable import TrialContext, tracked
from tune.trial_folders import FINISHED_KEY, SPEC_KEY, TRIAL_KEY, network_costs, note_trial, read_trials

PARENT_RUN_TIMEOUT_SECONDS = 60.0
"""For MLflow to create the search's run, which the runs of its trials name as their parent."""
SEARCH_FILES = {"search.json": search_json, "report.md": render_markdown, "report.html": render_html}


def run_search(
    search: Run, options: SearchOptions, space: SearchSpace, argv: Sequence[str], save_log: Callable[[], None]
) -> int:
    """Do what is left of a search: train its trials, evaluate and register the best point, write the reports.

    Args:
        search: from ``open_search``, locked.
        options, argv: flags, parsed and as they were given.
        space: resolved.
        save_log: called after each trial, see ``driver_log``.

    Returns:
        the exit status: 0 if there is a best point and MLflow has all records, else 1.

    Raises:
        UserError: the data have changed since the search began.
    """
    silence_ray(options.verbose)
    say(f"search {search.name}\n  {search.folder.uri}")
    warn_of_tracking_store(storage_of(search))
    data, missing = dataset_location(search.config, storage_of(search))
    if not missing:
        check_same_data(f"search {search.name}", search.folder, data)
    read_trials(search, options.retry)
    left = make_scheduler(search, options, space).next_trial() is not None
    if not left and search.state.get(FINISHED_KEY) and not pending_evaluations(search):
        say("all trials are there; --trials, --seeds and --retry train more of them, --new starts another\n")
    else:
        search.note(**{FINISHED_KEY: False})
        try:
            run_on_cluster(search, options, space, argv, save_log)
        except KeyboardInterrupt:
            end_mlflow_runs(search)
            raise
    summary = summarise_search(search)
    if options.register_best and summary.best:
        register_best(summary.best, search)
    write_reports(search)
    sent = send_owed(search)
    say(render_text(summarise_search(search)))
    return 0 if summary.best and sent else 1


def send_owed(search: Run) -> bool:
    """Send what MLflow lacks of the search and its trials; whether it has all of it now."""
    for run in (search, *(run for _, run in read_trials(search))):
        if run.owed:
            status = "FAILED" if run.state.get(TRIAL_KEY, {}).get("failed") else "FINISHED"
            run.note(owed=not close_tracker(new_tracker(run, storage_of(search)), status))
        if run.owed:
            return False  # nor will MLflow take the others now
    return True


def make_scheduler(search: Run, options: SearchOptions, space: SearchSpace) -> TrialScheduler:
    """A scheduler that continues from the trials' folders."""
    config, search_spec = search.config, search.state[SPEC_KEY]
    halving = search_spec["halving"] or {"rungs": [config.train.epochs], "keep": 2}
    return TrialScheduler(
        [trial for trial, _ in read_trials(search)],
        make_sampler(search_spec["sampler"], space, config, options.trials),
        cost=lambda point: network_costs(point.apply_to(config, config.train.seed))[0],
        seeds=[config.train.seed + i for i in range(options.seeds)],
        **halving,
    )


def run_on_cluster(
    search: Run, options: SearchOptions, space: SearchSpace, argv: Sequence[str], save_log: Callable[[], None]
) -> None:
    """Train the missing trials, then evaluate the best point and the baseline."""
    config, storage = search.config, storage_of(search)
    root = Folder.of(config.data.root)
    files = {} if config.data.generated else check_data(config, root)
    wanted = sample_image_uris(files)
    with connect(config.resources, options.verbose, config.window_bytes) as resources:
        probe_storage(storage)
        data = ensure_dataset(config, storage, options.verbose)
        probe_files(wanted)
        note_data(search.folder, config.data, data, files)
        del files  # each trial opens its own
        command = shlex.join(["python", "tune/search.py", *argv])
        tags = {"command": command, "mlflow.source.name": "tune/search.py", "search": search.name}
        tracker = open_tracker(search, storage, argv, tags)
        status = "FAILED"
        try:
            context = TrialContext(
                storage=storage,
                trials_folder=search.folder.join("runs"),
                data=data,
                space=space,
                resources=resources,
                tracking_uri=tracking_uri(storage),
                tags=tags | parent_tag(tracker),
                argv=argv,
                verbose=options.verbose,
            )
            scheduler = make_scheduler(search, options, space)
            sampler = search.state[SPEC_KEY]["sampler"]
            total = options.seeds * num_points(sampler, space, config, options.trials)

            def report() -> None:
                log_progress(search, tracker)
                save_log()

            with SystemMetrics(tracker.log_metrics, search.state["begun"], monitored_disk(storage)):
                run_trials(scheduler, search, context, total=total, limit=options.concurrent, on_end=report)
                search.note(**{FINISHED_KEY: True})
                run_final_evaluations(search, context)
            report()
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            search.note(owed=not close_tracker(tracker, status))


def parent_tag(tracker: Tracker) -> dict[str, str]:
    """The MLflow tag that makes a run a child of the search's; empty if MLflow does not answer in time."""
    deadline = time.monotonic() + PARENT_RUN_TIMEOUT_SECONDS
    while not tracker.run_id and not tracker.last_error and time.monotonic() < deadline:
        time.sleep(0.1)
    if not tracker.run_id:
        error = tracker.last_error or "no answer"
        say(f"MLflow did not open the search's run ({error}): trials have no parent")
        return {}
    return {"mlflow.parentRunId": tracker.run_id}


def log_progress(search: Run, tracker: Tracker) -> None:
    """Write the reports and send them and the best AP so far to the search's MLflow run."""
    write_reports(search)
    summary = summarise_search(search)
    finished = summary.finished
    # A promoted trial ends once more.
    ended = sum(len(trial.scores) + bool(trial.failed) for r in summary.results for trial, _ in r.trials)
    if finished:
        best = finished[0].final_score.ap
        values = {"search/best_occlusion_AP": best, "search/finished": float(len(finished))}
        # The report after the last trial, and another start, have the same values again.
        tracker.log_metrics(values, ended, once=f"search {json.dumps(values)}")
    tracker.set_tags({"mlflow.note.content": search.folder.read("report.md").decode()})
    for name in (*SEARCH_FILES, *(["best.yaml"] if finished else [])):
        tracker.log_file(name)


def storage_of(search: Run) -> Folder:
    """Root of data sets, searches and MLflow."""
    root, _, rest = search.folder.uri.rpartition("/searches/")
    _, mark, query = rest.partition("?")
    return Folder(f"{root}{mark}{query}")


def summarise_search(search: Run) -> SearchSummary:
    """The results in the trials' folders now, and the commands to suggest."""
    results = rank_points(read_trials(search), search.config, bool(search.state.get(FINISHED_KEY)))
    commands: list[str] = []
    if finished := finished_results(results):
        storage = storage_of(search)
        where = "" if storage == default_storage() else f" --storage {shlex.quote(storage.uri)}"
        model = shlex.quote(best_trial(finished[0])[1].folder.path(MODEL_FOLDER))
        if "version" in search.state:
            model = f"models:/{search.config.tracking.model_name}@candidate{where}"
        commands = [
            f"mipnet train --config {shlex.quote(search.folder.path('best.yaml'))}{where}",
            f"mipnet predict PICTURES --model {model}",
        ]
    return SearchSummary(search, results, commands)


def write_reports(search: Run) -> None:
    """Write search.json, both reports and, if there is a finished point, best.yaml."""
    summary = summarise_search(search)
    if summary.best:
        search.folder.write("best.yaml", to_yaml(best_config(search, summary.best)))
    for name, render in SEARCH_FILES.items():
        search.folder.write(name, render(summary))


def pending_evaluations(search: Run) -> list[tuple[PointResult, Run]]:
    """Runs of the best point and of the baseline without a final evaluation with the chosen pair."""
    summary = summarise_search(search)
    results = [summary.best] if summary.best is summary.baseline else [summary.best, summary.baseline]
    return [
        (result, run)
        for result in filter(None, results)
        for trial, run in result.trials
        if not trial.failed and run.state[TRIAL_KEY].get("evaluated") != [result.discount, result.oks_nms]
    ]


def run_final_evaluations(search: Run, context: TrialContext) -> None:
    """Evaluate all ``pending_evaluations`` on the splits of ``data.evaluate``."""
    for result, run in pending_evaluations(search):
        say(f"{run.name}: final tables")
        evaluate_trial(run, result, context)
        note_trial(run, evaluated=[result.discount, result.oks_nms])


def evaluate_trial(run: Run, result: PointResult, context: TrialContext) -> None:
    """Evaluate a trial's network with the γ and NMS threshold of its result."""
    run.config = replace(with_pair(run.config, result.discount, result.oks_nms), resources=context.resources)
    with tracked(run, context) as tracker, timed_phase(run, "evaluation"):
        files = open_splits(run.config, context.data, run.config.data.evaluate)
        evaluate_phase(run, context.storage, context.data, files, tracker, plain=context.verbose)


def register_best(result: PointResult, search: Run) -> None:
    """Register the best seed of a result; its model gets the γ and NMS threshold of the result."""
    _, run = best_trial(result)
    run.config = with_pair(run.config, result.discount, result.oks_nms)
    description = json.loads(run.folder.read(f"{MODEL_FOLDER}/{DESCRIPTION_FILE}"))
    description["extra"]["config"] = to_dict(run.config)
    run.folder.write(f"{MODEL_FOLDER}/{DESCRIPTION_FILE}", json.dumps(description, indent=2) + "\n")
    if register_phase(run, storage_of(search)):
        search.note(version=run.state["version"], registered=run.name)
        name = search.config.tracking.model_name
        say(f"registered {run.name} as {name} version {run.state['version']}, alias candidate")


def end_mlflow_runs(search: Run) -> None:
    """Mark the MLflow runs of interrupted trials as killed; the same command opens them again."""
    for trial, run in read_trials(search):
        if not trial.done and "mlflow_run" in run.state:
            run.note(ended="interrupted")
            new_tracker(run, storage_of(search)).close("KILLED", 10)
