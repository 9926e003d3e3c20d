"""The summary of a finished run: results, where they are, and the next commands."""

from __future__ import annotations

import shlex

from mipnet.errors import first_few
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.experiment.corrupt_images import CORRUPT_IMAGES_FILE, read_corrupt_images
from mipnet.experiment.metric_forwarder import event_line
from mipnet.run_folder import MODEL_FOLDER, RESULTS_FOLDER, Run
from mipnet.storage import Folder, default_storage


def summarise(run: Run, storage: Folder) -> str:
    """The text of summary.txt."""
    from mipnet.tracking.tracker import tracking_uri

    best = run.state["trained"]["best"]
    seconds = sum(run.state["seconds"].values())
    where = "" if storage == default_storage() else f" --storage {shlex.quote(storage.uri)}"
    lines = [
        f"run {run.name}: {run.state['trained']['steps']} steps, best at step {best['step']} "
        f"(validation occlusion AP {100 * best[SELECTION_METRIC]:.1f}), {seconds / 60:.1f} minutes",
        *map(event_line, run.state.get("events", [])),
        "",
        run.folder.read(f"{RESULTS_FOLDER}/table.txt").decode(),
        *left_out_lines(run),
        f"weights   {run.folder.path(MODEL_FOLDER)}",
        f"results   {run.folder.path(RESULTS_FOLDER)}",
        f"report    {run.folder.path('report.html')}",
        f"MLflow    {tracking_uri(storage)}",
    ]
    model = run.folder.path(MODEL_FOLDER)
    if "version" in run.state:
        name = run.config.tracking.model_name
        lines.append(f"registry  {name} version {run.state['version']}, alias candidate")
        model = f"models:/{name}@candidate"
        model += where
    lines += ["", f"look      mipnet ui{where}", f"next      mipnet predict PICTURES --model {model}"]
    return "\n".join(lines) + "\n"


def left_out_lines(run: Run) -> list[str]:
    """A line for each kind of sample that could not be used, with the first examples."""
    lines = [
        f"left out  {line} (in {path})"
        for path, found in run.state.get("left_out", {}).items()
        for line in found
    ]
    if names := read_corrupt_images(run.folder):
        where = run.folder.path(CORRUPT_IMAGES_FILE)
        lines.append(f"left out  {len(names)} x image that cannot be read: {first_few(names)} (all: {where})")
    return lines
