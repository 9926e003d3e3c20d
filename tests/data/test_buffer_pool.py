"""Memory that is used again, but never while somebody looks at it."""

from __future__ import annotations

import gc

import numpy as np
import pyarrow as pa
from ray.data._internal.tensor_extensions.arrow import ArrowTensorArray

from mipnet.data.buffer_pool import PixelMemory


def test_an_array_comes_again_when_nobody_holds_it() -> None:
    memory = PixelMemory()
    first = memory.empty((4, 5, 3))
    where = first.__array_interface__["data"]
    first[:] = 7
    other = memory.empty((4, 5, 3))
    assert not np.shares_memory(first, other)
    del first
    again = memory.empty((2, 5, 3))
    assert again.__array_interface__["data"] == where
    assert not memory.free


def test_a_view_keeps_it() -> None:
    memory = PixelMemory()
    last = memory.empty((4, 5))[3:].T[1:]
    gc.collect()
    assert not memory.free
    assert not np.shares_memory(memory.empty((4, 5)), last)
    del last
    assert len(memory.free) == 2


def test_views_and_arrow_arrays_keep_it() -> None:
    memory = PixelMemory()
    crops = memory.empty((4, 5, 6, 3))
    crops[:] = np.arange(4)[:, None, None, None]
    kept = pa.table({"image": ArrowTensorArray.from_numpy(crops)}).slice(2, 2)
    del crops
    memory.empty((4, 5, 6, 3))[:] = 99
    assert np.unique(kept["image"].combine_chunks().to_numpy_ndarray()).tolist() == [2, 3]


def test_what_became_too_small_is_let_go() -> None:
    memory = PixelMemory()
    for size in (10, 20, 30):
        assert memory.empty((size,)).shape == (size,)
    assert [array.size for array in memory.free] == [30]
