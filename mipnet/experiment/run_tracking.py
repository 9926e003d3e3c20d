"""The MLflow run of a training run, and the time of its phases."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mipnet.config import to_dict, to_yaml
from mipnet.host import cores
from mipnet.logs import attach_libraries
from mipnet.run_folder import Run
from mipnet.storage import Folder

if TYPE_CHECKING:
    from mipnet.tracking.tracker import Tracker


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


def open_tracker(
    run: Run, storage: Folder, argv: Sequence[str], tags: Mapping[str, str] | None = None
) -> Tracker:
    """Open the run's MLflow run, that of earlier starts; ``tags`` win over those of ``mipnet train``."""
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
        run_id=run.state.get("mlflow_run", ""),
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
    tracker.log_text("config.yaml", to_yaml(run.config))
    return tracker
