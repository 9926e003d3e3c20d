"""The sampler: which samples make up which training step, as a pure function of the seed.

The persons of all images, image by image in a new permutation of the images for each epoch, form one endless
sequence. A *window* is the next ``window_batches`` global batches of this sequence, shuffled as a whole; the
persons of an image lie in the same window, so each image is decoded once for all of them. Windows run across
epoch borders: no sample is dropped, each comes exactly once per epoch, and any step can be computed without
the steps before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# First number of each generator's seed, so that the random streams are independent.
ORDER_STREAM, SHUFFLE_STREAM, AUGMENT_STREAM = 1, 2, 3


@dataclass(frozen=True)
class SampleSchedule:
    """The order of all samples of a run.

    Attributes:
        image_offsets: (I + 1,) int64; samples image_offsets[i] : image_offsets[i + 1] belong to image i.
        seed: of the order.
        epochs: how often every sample is seen; the last batch is filled from the next epoch.
        batch_size: global batch size: samples per optimiser step over all ranks.
        window_batches: global batches per shuffle window.
    """

    image_offsets: np.ndarray
    seed: int
    epochs: int
    batch_size: int
    window_batches: int

    @property
    def num_samples(self) -> int:
        return int(self.image_offsets[-1])

    @property
    def total_steps(self) -> int:
        return math.ceil(self.epochs * self.num_samples / self.batch_size)

    @property
    def num_windows(self) -> int:
        return math.ceil(self.total_steps / self.window_batches)

    def window_of(self, step: int) -> int:
        """The index of the window that contains a step."""
        return step // self.window_batches

    def steps(self, window: int) -> range:
        """The steps of a window; the last window may be shorter."""
        begin = window * self.window_batches
        return range(begin, min(begin + self.window_batches, self.total_steps))

    def samples(self, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The samples of a window, ordered by image so that each image is decoded once.

        Returns:
            epoch, image, sample: (n,) int64 each, n = number of steps x batch_size.
            window_position: (n,) int64, index of each sample in the shuffled window. Position p is row
                p % batch_size of the global batch of the window's step p // batch_size.
        """
        steps = self.steps(window)
        begin, end = steps.start * self.batch_size, steps.stop * self.batch_size
        n = self.num_samples
        segments = [
            self._epoch_samples(epoch, max(begin - epoch * n, 0), min(end - epoch * n, n))
            for epoch in range(begin // n, (end - 1) // n + 1)
        ]
        epoch, image, sample = (np.concatenate(columns) for columns in zip(*segments, strict=True))
        window_position = np.random.default_rng([SHUFFLE_STREAM, self.seed, window]).permutation(end - begin)
        return epoch, image, sample, window_position

    def shares(self, ranks: int) -> list[range]:
        """The positions of each rank in every global batch: contiguous, sizes differ by one at most.

        Args:
            ranks: number of ranks, at most ``batch_size``; the first ones have the larger shares.
        """
        size, larger = divmod(self.batch_size, ranks)
        begins = [rank * size + min(rank, larger) for rank in range(ranks + 1)]
        return [range(*pair) for pair in pairwise(begins)]

    def rows_per_step(self, ranks: int) -> int:
        """Rows of a rank for each step in the stream: the largest share, so that all ranks have as many."""
        return math.ceil(self.batch_size / ranks)

    def rank_rows(self, window_position: np.ndarray, ranks: int) -> np.ndarray:
        """Row of each sample when the window is ordered by rank, then step.

        Args:
            window_position: (n,) int64, as from ``samples``.
            ranks: number of ranks, see ``shares``.

        Returns:
            (n,) int64; the rows of a rank are those of the window's steps, one after another, each its share
            filled up to ``rows_per_step``.
        """
        step, batch_position = np.divmod(window_position, self.batch_size)
        begins = np.array([share.start for share in self.shares(ranks)])
        rank = np.searchsorted(begins, batch_position, side="right") - 1
        row_of_step = (rank * self.window_batches + step) * self.rows_per_step(ranks)
        rows: np.ndarray = row_of_step + batch_position - begins[rank]
        return rows

    def _epoch_samples(self, epoch: int, begin: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Epoch, image and sample number of positions begin : end in an epoch's sequence."""
        rng = np.random.default_rng([ORDER_STREAM, self.seed, epoch])
        order = rng.permutation(len(self.image_offsets) - 1)
        ends = np.cumsum(np.diff(self.image_offsets)[order])
        position = np.arange(begin, end)
        rank = np.searchsorted(ends, position, side="right")  # of the image in this epoch's order
        image = order[rank]
        sample = self.image_offsets[image + 1] - (ends[rank] - position)
        return np.full(end - begin, epoch), image, sample


def sample_rng(seed: int, epoch: int, sample: int) -> np.random.Generator:
    """The random generator of one sample's augmentation; it depends on nothing else."""
    return np.random.default_rng([AUGMENT_STREAM, seed, epoch, sample])
