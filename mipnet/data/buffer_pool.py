"""Memory for the crops of a window, used again and again."""

from __future__ import annotations

import math
import weakref

import numpy as np


def new_pixels(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty(shape, np.uint8)


class _Loan:
    """Hands memory out once: NumPy keeps it for as long as the array made of it, or a view on that, lives."""

    def __init__(self, memory: np.ndarray) -> None:
        self.__array_interface__ = memory.__array_interface__


class PixelMemory:
    """Large arrays of one process, handed out again as soon as nobody looks at them any more.

    Fresh memory costs a page fault for every 4 KiB when it is first written, a tenth of the time of cutting a
    window (measured). Ray copies what a task yields into its object store but may keep looking at the arrays
    for a while, so an array is free once it and all views on it are gone.

    Attributes:
        free: the memory (bytes,) uint8 that may be handed out.
    """

    def __init__(self) -> None:
        self.free: list[np.ndarray] = []

    def empty(self, shape: tuple[int, ...]) -> np.ndarray:
        """(shape) uint8 with any content, that nobody else holds."""
        size = math.prod(shape)
        while self.free:
            memory = self.free.pop()
            if memory.size >= size:
                break
            # Too small: of another run, or of a shorter window. It is let go.
        else:
            memory = np.empty(size, np.uint8)
        loan = _Loan(memory)
        weakref.finalize(loan, self.free.append, memory).atexit = False
        return np.asarray(loan)[:size].reshape(shape)
