"""Validation of a checkpoint by the training processes: each predicts its share, rank 0 scores all poses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from mipnet.config import Config
from mipnet.data.coco import Boxes, CocoKeypointFile
from mipnet.data.dataset_formats import open_split
from mipnet.errors import as_user_error, root_cause
from mipnet.evaluation.occlusion import SELECTION_METRIC
from mipnet.evaluation.predicted_poses import PredictionsBySplit
from mipnet.inference.crop_predictor import CropPredictor, DivergedError
from mipnet.inference.pipeline import Block, boxes_of_splits, collect_poses, poses_by_split, predict_batches
from mipnet.run_folder import TRAINING_FOLDER
from mipnet.storage import Folder
from mipnet.tracking.journal import Journal
from mipnet.training.checkpoint import checkpoint_name, evaluated_model, step_from_path
from mipnet.training.checkpoint_validation import (
    Metrics,
    record_validation,
    selection_source,
)
from mipnet.training.recovery import prune, read_record
from mipnet.training.step import TrainStep
from mipnet.training.validation_pictures import ValidationPicture
from mipnet.training.validation_plan import ValidationPlan
from mipnet.training.validation_wait import ValidationWait

logger = logging.getLogger(__name__)

Share = list[Block] | Exception
"""What a rank predicted, or why it could not."""


class LeftValidationError(Exception):
    """A validation was left because a checkpoint has to be saved at once."""


@dataclass
class ValidationSplit:
    """The annotations of the validation split, and the boxes in which its poses are predicted."""

    files: dict[str, CocoKeypointFile]
    boxes: Boxes


@dataclass
class WorkerValidation:
    """What a training process does about the validation of its checkpoints.

    Attributes:
        plan: which checkpoints are validated, and by whom.
        config: of the run.
        run_folder: of the run.
        data: the data set's folder.
        threads: CPU threads of this process.
        journal: of the run.
        rank: of this process.
        urgent: takes the seconds that work will take; whether a checkpoint has to be saved before.
        first_step: number of steps done when this process began.
        wait: for those beside the training.
    """

    plan: ValidationPlan
    config: Config
    run_folder: Folder
    data: Folder
    threads: int
    journal: Journal
    rank: int
    urgent: Callable[[float], bool] = lambda seconds: False
    first_step: int = 0

    def __post_init__(self) -> None:
        self.wait = ValidationWait(self.plan, self.journal, lambda s: self.urgent(s), self.first_step)
        self._training = self.run_folder.join(TRAINING_FOLDER)
        self._split: ValidationSplit | None = None
        self._scores: dict[str, Metrics] = {}  # of this process: Ray records them some time after
        self._pictures: list[ValidationPicture] = []  # to be put into the storage
        # Failed or interrupted ones of earlier processes are validated when the training has ended.
        recorded = read_record(self._training) if self.rank == 0 else {}
        unvalidated = [name for name, metrics in recorded.items() if SELECTION_METRIC not in metrics]
        self._waiting = [name for name in unvalidated if self.plan.due(step_from_path(name))]

    def before_report(self, step: TrainStep, here: bool = False) -> Metrics:
        """What has to be done before the checkpoint of ``step`` is reported; call it on all ranks.

        Args:
            step: after ``all_reduce_bn_buffers``.
            here: validate it now whatever the plan says: the training may end with it.

        Returns:
            the metrics on rank 0 if the training processes validate it; empty if nobody can or shall now.
        """
        if self.plan.beside(step.step) and not here:
            # One may wait at most: else the last step would be followed by those that came too late.
            if self.rank == 0:
                self.wait(step.step)
            return {}
        if not here and not self.plan.inline(step.step):
            return {}
        shares = self._gather(self._predict_share(step), step.distributed)
        if shares is None:
            return {}
        try:
            return record_validation(
                step.step,
                self.config,
                self.run_folder,
                self.journal,
                lambda: self._poses(shares),
                self._pictures.append,
            )
        except LeftValidationError:
            self._waiting.append(checkpoint_name(step.step))
            return {}
        except Exception:
            # It is recorded, and the training goes on: the driver tries again after the last step.
            return {}

    def put_pictures(self) -> None:
        """Put what the last validation has drawn into the storage."""
        while self._pictures:
            self._pictures.pop(0).put(self.run_folder, self.journal)

    def after_report(self, step: int, metrics: Metrics) -> None:
        """Remove checkpoints that are not needed any more, where no task beside the training does that."""
        if self.rank == 0 and self.plan.where == "inline":
            name = checkpoint_name(step)
            self._scores[name] = metrics
            prune(self._training, name, self._scores, self._waiting)

    def _predict_share(self, step: TrainStep) -> Share:
        """This rank's share of the batches; an exception is returned, so that no rank waits for another."""
        ranks = dist.get_world_size() if step.distributed else 1
        try:
            with _threads(self.threads):
                predictor = CropPredictor.of(
                    evaluated_model(step), self.config, self.config.evaluation, step.device
                )
                blocks = predict_batches(
                    predictor,
                    self.split.boxes,
                    self.config,
                    part=slice(self.rank, None, ranks),
                    decoding_threads=self.threads if step.device.type == "cuda" else 0,
                )
                return list(self._until_urgent(blocks, len(self.split.boxes) / ranks))
        except LeftValidationError as error:
            return error
        except Exception as error:
            logger.warning("rank %d: cannot validate step %d", self.rank, step.step, exc_info=True)
            return as_user_error(error) or RuntimeError(root_cause(error))

    def _until_urgent(self, blocks: Iterator[Block], boxes: float) -> Iterator[Block]:
        """The blocks of a share of so many boxes.

        Raises:
            LeftValidationError: the rest would take too long.
        """
        begin, done = time.monotonic(), 0
        for block in blocks:
            done += len(block["keypoints"])
            left = (time.monotonic() - begin) / max(done, 1) * max(boxes - done, 0)
            if self.urgent(left):
                raise LeftValidationError("a notice or a stop; it is made up for after the last step")
            yield block

    def _gather(self, share: Share, distributed: bool) -> list[Share] | None:
        """The shares of all ranks on rank 0, None on the others."""
        if not distributed:
            return [share]
        shares: list[Share] | None = [[]] * dist.get_world_size() if self.rank == 0 else None
        dist.gather_object(share, shares)
        return shares

    def _poses(self, shares: Sequence[Share]) -> tuple[PredictionsBySplit, dict[str, CocoKeypointFile]]:
        failures = [share for share in shares if isinstance(share, Exception)]
        if failures:
            raise min(failures, key=lambda error: not isinstance(error, DivergedError))
        blocks = [block for share in shares if not isinstance(share, Exception) for block in share]
        poses = collect_poses(self.split.boxes, blocks, self.config)
        if poses.corrupt_images:
            self.journal.add("unreadable", names=poses.corrupt_images)
        files = self.split.files
        return poses_by_split(poses, files, [selection_source(self.config)]), files

    @property
    def split(self) -> ValidationSplit:
        """The validation split, read once.

        Raises:
            UserError: it cannot be used any more.
        """
        if self._split is None:
            name = self.config.data.val
            files = {name: open_split(self.config.data, self.data, name)}
            boxes = boxes_of_splits(self.config, self.data, files, [selection_source(self.config)])
            self._split = ValidationSplit(files, boxes)
        return self._split


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """PyTorch with so many threads: a training step may give each of its micro-batches a part of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
