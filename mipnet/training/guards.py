"""When a training has no result: updates that are not finite, or too many images that cannot be read."""

from __future__ import annotations

import logging
import math

import numpy as np
import ray

from mipnet.config import Config
from mipnet.data.coco import PersonAnnotations
from mipnet.data.sample_schedule import SampleSchedule
from mipnet.data.validation import bad_share_hint
from mipnet.errors import first_few
from mipnet.tracking.journal import Journal
from mipnet.training.device_batches import Batch
from mipnet.training.step import TrainStep

logger = logging.getLogger(__name__)


class CorruptImageTracker:
    """Names the images of this rank's samples that could not be read, and reports each once.

    Args:
        crop_loader: reference to the loader, which has the names; only fetched if there is such an image.
        journal: of the run.
    """

    def __init__(self, crop_loader: ray.ObjectRef, journal: Journal) -> None:
        self.crop_loader, self.journal = crop_loader, journal
        self.names: dict[int, str] = {}  # by index of the image

    def update(self, batch: Batch) -> None:
        """Note the corrupt images of a batch on the CPU: reading it waits for no device."""
        if not batch["corrupt"].any():
            return
        people: PersonAnnotations = ray.get(self.crop_loader).people
        samples = batch["sample"][batch["corrupt"]].numpy()
        found = np.unique(np.searchsorted(people.image_offsets, samples, side="right") - 1).tolist()
        new = {image: str(people.images.uris[image]) for image in found if image not in self.names}
        self.names |= new
        if new:
            logger.warning("cannot read %s", first_few(list(new.values())))
            self.journal.add("unreadable", names=list(new.values()))


MAX_LOSS = 1.0
"""A larger loss is no result: heatmaps that are off by a peak's height in every cell have 0.5."""
DIVERGED_HINT = "lower --train.learning-rate or set --train.clip-norm"


def divergence(step: TrainStep, metrics: dict[str, float]) -> str:
    """Why a training that ends here has no result, or ""; alike on all ranks.

    Args:
        step: after its last update.
        metrics: the last row.
    """
    if not step.is_finite():
        return f"the last update or the weights are not finite; {DIVERGED_HINT}"
    if not metrics["loss"] <= MAX_LOSS:  # nan too
        return f"the training has diverged, its last loss is {metrics['loss']:.2g}; {DIVERGED_HINT}"
    return ""


class Guard:
    """Decides when to stop a training; alike on all ranks because the metrics are.

    Args:
        config: has the limits.
        schedule: the order of all samples.
        corrupt_images: names them for the message.
        first_step: that this process makes.
    """

    def __init__(
        self, config: Config, schedule: SampleSchedule, corrupt_images: CorruptImageTracker, first_step: int
    ) -> None:
        self.max_skipped, self.max_bad_share = config.train.max_skipped, config.data.max_bad_share
        self.num_samples, self.batch_size = schedule.num_samples, schedule.batch_size
        self.corrupt_images, self.first_step = corrupt_images, first_step
        self.skipped = self.corrupt = 0.0

    def reason_to_stop(self, step: int, metrics: dict[str, float]) -> str:
        """Why to stop, or "".

        Args:
            step: the last one done.
            metrics: of the steps since the last call.
        """
        all_skipped = math.isnan(metrics["loss"])
        self.skipped = self.skipped + metrics["skipped"] if all_skipped else 0.0
        self.corrupt += metrics["corrupt"]
        if self.skipped >= self.max_skipped:
            return f"the last {self.skipped:g} updates were not finite; {DIVERGED_HINT}"
        # No sample comes twice within an epoch; in later epochs the same images count again, in more samples.
        samples = (step - self.first_step) * self.batch_size
        seen = max(self.num_samples, samples)
        if self.corrupt > self.max_bad_share * seen:
            names = first_few(sorted(self.corrupt_images.names.values()))
            what = f"{self.corrupt:g} of {seen} samples have images that cannot be read ({names})"
            return f"{what}; {bad_share_hint(int(self.corrupt), samples, 'mend them')}"
        return ""
