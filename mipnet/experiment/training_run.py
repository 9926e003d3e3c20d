"""A whole training run: preflight, training, evaluation, registration; continued where it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mipnet.config import Config
from mipnet.console import say
from mipnet.errors import as_user_error
from mipnet.experiment.corrupt_images import CorruptImageLog
from mipnet.experiment.run_summary import summarise
from mipnet.experiment.run_tracking import monitored_disk, open_tracker, timed_phase
from mipnet.logs import driver_log
from mipnet.run_folder import Run, locked, open_run
from mipnet.storage import Folder

if TYPE_CHECKING:
    from mipnet.data.coco import CocoKeypointFile
    from mipnet.experiment.preflight import Prepared
    from mipnet.tracking.tracker import Tracker


def complete_run(
    config: Config,
    storage: Folder,
    *,
    name: str = "",
    new: bool = False,
    verbose: bool = False,
    argv: Sequence[str] | None = None,
) -> Run:
    """Begin a run or continue it; it is not ``finished`` if MLflow did not take all records.

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
            with driver_log(run.folder) as save_log:
                run_phases(run, storage, argv, verbose, save_log)
    return run


def run_phases(
    run: Run, storage: Folder, argv: Sequence[str] | None, verbose: bool, save_log: Callable[[], None]
) -> None:
    """Run all phases that are not done yet.

    Args:
        run, storage, argv, verbose: see ``complete_run``.
        save_log: called at the end of each phase.
    """
    say(f"run {run.name}\n  {run.folder.uri}")
    from mipnet.experiment.preflight import prepared

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
        tags = {"command": "mipnet.train()"} if argv is None else None
        tracker = open_tracker(run, storage, argv or (), tags)
        status = "FAILED"
        try:
            train_and_evaluate(run, storage, ready, tracker, verbose=verbose, save_log=save_log)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            run.note(ended="interrupted")
            raise
        except Exception as error:
            run.note(ended=" ".join(str(as_user_error(error) or error).split()) or type(error).__name__)
            raise
        finally:
            tracked = tracker.close(status)
            if not tracked:
                say(f"MLflow did not take everything ({tracker.last_error}); it is kept and sent next time")
            if tracker.rejected:
                say(f"MLflow refused {len(tracker.rejected)} record(s), the first: {tracker.rejected[0]}")
    # A run whose records still wait for the server is not finished: the same command sends them.
    if tracked and (not run.config.tracking.register or register(run, storage)):
        run.folder.write("summary.txt", summarise(run, storage))
        run.note(finished=True)


def train_and_evaluate(
    run: Run,
    storage: Folder,
    ready: Prepared,
    tracker: Tracker,
    *,
    verbose: bool,
    save_log: Callable[[], None],
) -> None:
    """The phases on the cluster, see ``run_phases``."""
    from mipnet.experiment.evaluation_phase import evaluate_phase
    from mipnet.experiment.training_phase import train_phase, training_people
    from mipnet.tracking.system import SystemMetrics

    config, files = ready.config, ready.files
    with SystemMetrics(tracker.log_metrics, run.state["begun"], monitored_disk(storage)):
        if "trained" not in run.state:
            with timed_phase(run, "training"):
                people = training_people(config, ready.data, files, tracker)
                # Free the other splits, which are not read again: COCO's take gigabytes.
                for split in files.keys() - set(config.data.evaluate):
                    del files[split]
                train_phase(run, ready.data, people, tracker, plain=verbose)
            save_log()
        if "evaluated" not in run.state:
            with timed_phase(run, "evaluation"):
                evaluate_phase(run, storage, ready.data, files, tracker, plain=verbose)
            save_log()


def register(run: Run, storage: Folder) -> bool:
    """``register_phase``, imported only when it is needed."""
    from mipnet.experiment.registration_phase import register_phase

    return register_phase(run, storage)


def check_initial(run: Run) -> None:
    """Fetch the initial weights of a training that lies ahead, so that unusable ones are found at once."""
    from mipnet.experiment.training_phase import fetch_initial

    if run.config.train.init and "trained" not in run.state:
        fetch_initial(run)


def open_data(run: Run, data: Folder) -> dict[str, CocoKeypointFile]:
    """Open and check the splits that the phases still need; notes what is left out for the summary."""
    from mipnet.experiment.preflight import check_data

    if "evaluated" in run.state:
        return {}
    corrupt = CorruptImageLog(run.folder)
    files = check_data(run.config, data, training="trained" not in run.state, report_corrupt=corrupt)
    invalid_annotations = {file.path: file.invalid_annotations.lines() for file in files.values()}
    run.note(left_out={**run.state.get("left_out", {}), **invalid_annotations})
    return files
