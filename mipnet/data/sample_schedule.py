"""The planned order of training: which samples make up which step, as a pure function of the seed.

The people of all images, image by image in a fresh permutation for each epoch, form one endless sequence.
A *window* is the next ``window_batches`` global batches of it, so that an image's people are cut out of one
decoding, and is then shuffled as a whole. Windows run across the epochs' borders: nothing is dropped, each
person comes exactly once per epoch, and step s can be reached without going through the steps before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Streams of random numbers that must not meet: every generator's seed starts with one of these.
ORDER, SHUFFLE, AUGMENT = 1, 2, 3


@dataclass(frozen=True)
class WindowPlan:
    """The order of all samples of a run.

    Attributes:
        first: (I + 1,) int64; samples first[i] : first[i + 1] belong to image i.
        seed: of the order.
        epochs: how often every sample is seen; the last batch is filled from the epoch after.
        batch_size: samples per optimiser step over all ranks.
        window_batches: batches per window.
    """

    first: np.ndarray
    seed: int
    epochs: int
    batch_size: int
    window_batches: int

    @property
    def num_samples(self) -> int:
        return int(self.first[-1])

    @property
    def total_steps(self) -> int:
        return math.ceil(self.epochs * self.num_samples / self.batch_size)

    @property
    def num_windows(self) -> int:
        return math.ceil(self.total_steps / self.window_batches)

    def window_of(self, step: int) -> int:
        """The window that holds a step."""
        return step // self.window_batches

    def steps(self, window: int) -> range:
        """The steps of a window; the last window may be shorter."""
        begin = window * self.window_batches
        return range(begin, min(begin + self.window_batches, self.total_steps))

    def samples(self, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The samples of a window, image by image.

        Returns:
            epoch, image, sample: (n,) int64 each, n = number of steps x batch_size.
            slot: (n,) int64, the place of each in the shuffled window: slot s is sample s % batch_size of
                the window's step s // batch_size.
        """
        steps = self.steps(window)
        begin, end = steps.start * self.batch_size, steps.stop * self.batch_size
        n = self.num_samples
        parts = [
            self._part(epoch, max(begin - epoch * n, 0), min(end - epoch * n, n))
            for epoch in range(begin // n, (end - 1) // n + 1)
        ]
        epoch, image, sample = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        slot = np.random.default_rng([SHUFFLE, self.seed, window]).permutation(end - begin)
        return epoch, image, sample, slot

    def rank_rows(self, slot: np.ndarray, ranks: int) -> np.ndarray:
        """The rows of a window's slots when each rank's samples of all of the window's steps lie together.

        Args:
            slot: (n,) int64, places in the shuffled window.
            ranks: how many share each batch equally, in its order.
        """
        share = self.batch_size // ranks
        step, place = np.divmod(slot, self.batch_size)
        rank, place = np.divmod(place, share)
        return (rank * self.window_batches + step) * share + place

    def _part(self, epoch: int, begin: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Samples begin : end of an epoch's sequence."""
        order = np.random.default_rng([ORDER, self.seed, epoch]).permutation(len(self.first) - 1)
        ends = np.cumsum(np.diff(self.first)[order])
        position = np.arange(begin, end)
        which = np.searchsorted(ends, position, side="right")
        image = order[which]
        sample = self.first[image + 1] - (ends[which] - position)
        return np.full(end - begin, epoch), image, sample


def sample_rng(seed: int, epoch: int, sample: int) -> np.random.Generator:
    """The generator of one sample's augmentation: the same wherever and whenever it is cut."""
    return np.random.default_rng([AUGMENT, seed, epoch, sample])
