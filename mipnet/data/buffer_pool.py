"""A pool of reusable buffers for the crops of a window."""

from __future__ import annotations

import math
import weakref

import numpy as np


def new_buffer(shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialised uint8 array that does not come from a pool."""
    return np.empty(shape, np.uint8)


class _BufferHandle:
    """Owner of a buffer for NumPy, which keeps it alive as long as an array or view on the buffer exists."""

    def __init__(self, memory: np.ndarray) -> None:
        self.__array_interface__ = memory.__array_interface__


class BufferPool:
    """Large arrays of one process, reused as soon as no array or view refers to them.

    Fresh memory costs a page fault for every 4 KiB when it is first written, a tenth of the time of loading a
    window (measured). Ray copies what a task yields into its object store but may refer to the arrays for a
    while longer, so a buffer becomes free when its array and all views on it are garbage-collected.

    Attributes:
        free: the unused buffers, (bytes,) uint8 each.
    """

    def __init__(self) -> None:
        self.free: list[np.ndarray] = []

    def empty(self, shape: tuple[int, ...]) -> np.ndarray:
        """An uninitialised uint8 array of a shape, as ``np.empty``, in memory that no other array uses."""
        size = math.prod(shape)
        while self.free:
            memory = self.free.pop()
            if memory.size >= size:
                break
            # Too small, of another run or a shorter window: dropped.
        else:
            memory = np.empty(size, np.uint8)
        handle = _BufferHandle(memory)
        weakref.finalize(handle, self.free.append, memory).atexit = False
        return np.asarray(handle)[:size].reshape(shape)
