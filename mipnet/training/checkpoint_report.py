"""Report checkpoints to Ray Train, which stores them in the run's folder.

Into an object store they are uploaded while the training goes on, one at a time. If an upload fails, Ray
Train restarts the workers.
"""

from __future__ import annotations

import logging
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import ray.train
from ray.train import Checkpoint, CheckpointConsistencyMode, CheckpointUploadMode

from mipnet.errors import UserError
from mipnet.run_folder import TRAINING_FOLDER
from mipnet.storage import Folder
from mipnet.tracking.journal import Journal
from mipnet.training.checkpoint import (
    MANIFEST_FILE,
    checkpoint_bytes,
    checkpoint_name,
    save_files,
    write_manifest,
)
from mipnet.training.checkpoint_validation import Metrics
from mipnet.training.step import TrainStep

logger = logging.getLogger(__name__)


class CheckpointReporter:
    """Reports the checkpoints of one training process.

    Args:
        run_folder: of the run.
        journal: of this process; it is written before a checkpoint counts.
        rank: of this process.
    """

    def __init__(self, run_folder: Folder, journal: Journal, rank: int) -> None:
        self.run_folder, self.journal, self.rank = run_folder, journal, rank
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="after a checkpoint")
        self._afterwards: Future[None] | None = None
        self._uploaded = threading.Event()
        self._uploaded.set()

    def report(
        self,
        step: TrainStep,
        history: list[dict[str, float]],
        metrics: Metrics,
        *,
        beside: bool,
        before: Callable[[], None] = lambda: None,
        afterwards: Callable[[], None] = lambda: None,
    ) -> None:
        """Report a checkpoint; call it on all ranks.

        Args:
            step: after ``all_reduce_bn_buffers``.
            history: rows of metrics so far; none if it is interrupted before the first.
            metrics: of the validation, empty without.
            beside: have it validated by a task of its own.
            before: called on rank 0 before the files are stored; in a thread if they are uploaded.
            afterwards: called on rank 0 when they are; then when Ray Train has the checkpoint, in a thread.

        Raises:
            UserError: this node has no room for the files.
        """
        name = checkpoint_name(step.step)
        if self.rank != 0:
            self.journal.flush()
            # SYNC waits until Ray Train has taken the report before, for which it needs that of rank 0.
            mode = CheckpointUploadMode.SYNC if self.run_folder.is_local else CheckpointUploadMode.ASYNC
            ray.train.report({"step": step.step}, checkpoint_dir_name=name, checkpoint_upload_mode=mode)
            return
        self._uploaded.wait()  # one at a time
        folder = local_copy(step, history)
        loss = {"loss": history[-1]["loss"]} if history else {}
        row = {"step": step.step, **loss, **metrics}
        if not self.run_folder.is_local:
            self._uploaded.clear()
            ray.train.report(
                row,
                checkpoint=Checkpoint.from_directory(folder),
                checkpoint_dir_name=name,
                checkpoint_upload_mode=CheckpointUploadMode.ASYNC,  # deletes the local folder
                checkpoint_upload_fn=partial(self._upload, before, afterwards),
                validation=beside,
            )
            return
        try:
            before()
            self.journal.flush()
            write_manifest(folder)
            ray.train.report(
                row, Checkpoint.from_directory(folder), checkpoint_dir_name=name, validation=beside
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        logger.info("saved %s", name)
        afterwards()

    def wait(self) -> None:
        """Wait until Ray Train has the last checkpoint, as before the process is lost; rank 0 only does."""
        if self.rank == 0 and not self.run_folder.is_local:
            ray.train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED)

    def finish(self) -> None:
        """Wait for the last checkpoint, and for what is done afterwards."""
        self.wait()
        if self._afterwards is not None:
            self._afterwards.result()

    def _upload(
        self, before: Callable[[], None], afterwards: Callable[[], None], checkpoint: Checkpoint, name: str
    ) -> Checkpoint:
        """Store a checkpoint in the run's folder; Ray Train calls it in a thread.

        Ray's own upload makes three requests for each file, one after the other.
        """
        folder = Path(checkpoint.path)
        try:
            before()
            self.journal.flush()
            write_manifest(folder)
            self.run_folder.join(f"{TRAINING_FOLDER}/{name}").upload(folder, last=MANIFEST_FILE)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # Ray deletes it only after an upload
            raise
        finally:
            self._uploaded.set()
        logger.info("saved %s", name)
        self._afterwards = self._thread.submit(self._tidy, afterwards)
        storage = ray.train.get_context().get_storage()
        return Checkpoint(f"{storage.experiment_fs_path}/{name}", storage.storage_filesystem)

    def _tidy(self, afterwards: Callable[[], None]) -> None:
        self.wait()  # what Ray Train would go on from must not be removed
        afterwards()
        self.journal.flush()


def local_copy(step: TrainStep, history: list[dict[str, float]]) -> Path:
    """A new folder on this node's disk with the files of a checkpoint, but the manifest.

    Raises:
        UserError: it has no room for them.
    """
    folder = Path(tempfile.mkdtemp(prefix="mipnet-checkpoint-"))
    try:
        needed, free = checkpoint_bytes(step), shutil.disk_usage(folder).free
        if needed > free:
            what = f"no room for a checkpoint in {folder.parent} of {socket.gethostname()}"
            what += f": it takes {needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB are left"
            raise UserError(what, "make room there, then the same command goes on", 1)
        save_files(folder, step, history)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder
