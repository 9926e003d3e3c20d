"""Runs in the storage: their names, continuation, locks and files.

STORAGE/data/generated-DIGEST/    the rendered benchmark
STORAGE/runs/NAME/config.yaml     the resolved configuration
STORAGE/runs/NAME/run.json        state of the run
STORAGE/runs/NAME/records/        what its processes recorded, and how much of it MLflow has
STORAGE/runs/NAME/data.parquet    size, time and digest of the data set's files
STORAGE/runs/NAME/training/       Ray Train's checkpoints
STORAGE/runs/NAME/model/          the best weights, their operating point, the model card
STORAGE/runs/NAME/pictures/       training crops, and the poses that each validation found
STORAGE/runs/NAME/results/        tables, figures, COCO results, pictures
STORAGE/runs/NAME/logs/           driver.log, worker-RANK.log
STORAGE/runs/NAME/profile/        traces of training steps, where --train.profile asked for them
STORAGE/registered/               copies of registered models, for all nodes
STORAGE/mlflow.db, mlartifacts/   MLflow, unless MLFLOW_TRACKING_URI names a server
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mipnet.config import Config, differences, digest, from_dict, to_yaml
from mipnet.errors import ConfigError, UserError, first_few
from mipnet.lease import lease
from mipnet.storage import Folder, split_uri

TRAINING_FOLDER = "training"
MODEL_FOLDER = "model"
MODEL_CARD_FILE = "model-card.md"  # in the model's folder
RESULTS_FOLDER = "results"
DATA_RECORD = "data.parquet"


@dataclass
class Run:
    """One training run and its folder.

    Attributes:
        name: of the run and its folder.
        folder: of all its files.
        config: resolved.
        state: content of run.json: "finished", "owed" and what the phases note.
    """

    name: str
    folder: Folder
    config: Config
    state: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def storage(self) -> Folder:
        """The folder whose folder ``runs`` has this run."""
        runs, _ = split_uri(self.folder.uri)
        return split_uri(runs.uri)[0]

    @property
    def finished(self) -> bool:
        """Whether the model is trained and evaluated."""
        return bool(self.state.get("finished"))

    @property
    def owed(self) -> bool:
        """Whether a finished run's records or model still have to be sent to MLflow."""
        return bool(self.state.get("owed"))

    @property
    def best_metrics(self) -> dict[str, Any]:
        """Metrics of the best checkpoint; nan where JSON had null."""
        return without_nulls(self.state["trained"]["best"])

    def reload(self) -> None:
        """Read run.json again: another process may have continued the run."""
        if self.folder.exists("run.json"):
            self.state = json.loads(self.folder.read("run.json"))

    def note(self, forget: Collection[str] = (), /, **values: Any) -> None:
        """Write values to run.json, without those of the keys ``forget``; threads take turns."""
        with self._lock:
            kept = {name: value for name, value in self.state.items() if name not in forget}
            self.state = {**kept, **values}
            self.folder.write("run.json", json.dumps(self.state, indent=2) + "\n")


def without_nulls(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics from JSON, which may have null where a metric is nan: Ray Train's snapshot does."""
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def default_name(config: Config) -> str:
    """Preset and digest: the same settings are the same run."""
    return f"{config.preset}-{digest(config)}"


def open_run(storage: Folder, config: Config, name: str = "", new: bool = False) -> Run:
    """Open the run of that name to continue it, or make a new one.

    Args:
        storage: root of all runs.
        config: what to run.
        name: by default preset and digest.
        new: take the next free name instead of continuing.

    Raises:
        UserError: a run of this name has other settings, or the name cannot be a folder's.
    """
    name = name or default_name(config)
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise UserError(f"--name: {name!r} cannot name a run", "use letters, digits, '-', '_' and '.'")
    runs = storage.join("runs")
    if new:
        taken = set(runs.names())
        base, number = name, 2
        while name in taken:
            name, number = f"{base}-{number}", number + 1
    folder = runs.join(name)
    if not folder.exists("config.yaml"):
        folder.write("config.yaml", to_yaml(config))
        return Run(name, folder, config)
    run = load_run(folder)
    changed = differences(run.config, config)
    if folder.exists(DATA_RECORD) and Folder.of(config.data.root).exists():
        # Whether the data in another folder are the same, the record tells.
        changed = [line for line in changed if not line.startswith("data.root:")]
    if changed:
        shown = first_few(changed, 3)
        raise UserError(f"run {name} exists with other settings ({shown})", "give another --name, or --new")
    run.config = config  # resources and tracking may differ from the first start's
    return run


def load_run(folder: Folder) -> Run:
    """A run that is already in the storage.

    Raises:
        UserError: its files cannot be read.
    """
    import yaml

    try:
        values = yaml.safe_load(folder.read("config.yaml"))
        state = json.loads(folder.read("run.json")) if folder.exists("run.json") else {}
        if not isinstance(values, dict) or not isinstance(state, dict):
            raise ValueError("config.yaml and run.json must hold settings")
        config = from_dict(values)
    except (OSError, ValueError, yaml.YAMLError, ConfigError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder.uri} is not a run ({reason})", "start another with --new") from None
    return Run(split_uri(folder.uri)[1], folder, config, state)


@contextmanager
def locked(run: Run) -> Iterator[None]:
    """Hold the run's lock: of the file system if it can lock, in an object store a lease.

    Raises:
        UserError: another process holds it.
    """
    what, hint = (
        f"run {run.name} is being worked on by another process",
        "wait for it, or start another with --new",
    )
    if not run.folder.is_local:
        with lease(run.folder.join("lock"), what, hint):
            run.reload()
            yield
        return
    with open(run.folder.local_path / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(what, hint) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise  # the others: a network file system that cannot lock
        run.reload()
        yield
