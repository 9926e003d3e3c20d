"""BufferPool reuses memory, but never while an array or view refers to it."""

from __future__ import annotations

import gc

import numpy as np
import pyarrow as pa
from ray.data._internal.tensor_extensions.arrow import ArrowTensorArray

from mipnet.data.buffer_pool import BufferPool


def test_empty_reuses_memory_without_references() -> None:
    pool = BufferPool()
    first = pool.empty((4, 5, 3))
    where = first.__array_interface__["data"]
    first[:] = 7
    other = pool.empty((4, 5, 3))
    assert not np.shares_memory(first, other)
    del first
    again = pool.empty((2, 5, 3))
    assert again.__array_interface__["data"] == where
    assert not pool.free


def test_a_view_keeps_its_buffer() -> None:
    pool = BufferPool()
    last = pool.empty((4, 5))[3:].T[1:]
    gc.collect()
    assert not pool.free
    assert not np.shares_memory(pool.empty((4, 5)), last)
    del last
    assert len(pool.free) == 2


def test_views_and_arrow_arrays_keep_their_buffer() -> None:
    pool = BufferPool()
    crops = pool.empty((4, 5, 6, 3))
    crops[:] = np.arange(4)[:, None, None, None]
    kept = pa.table({"image": ArrowTensorArray.from_numpy(crops)}).slice(2, 2)
    del crops
    pool.empty((4, 5, 6, 3))[:] = 99
    assert np.unique(kept["image"].combine_chunks().to_numpy_ndarray()).tolist() == [2, 3]


def test_empty_drops_buffers_that_are_too_small() -> None:
    pool = BufferPool()
    for size in (10, 20, 30):
        assert pool.empty((size,)).shape == (size,)
    assert [array.size for array in pool.free] == [30]
