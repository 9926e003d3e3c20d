"""Checks that need the pixels: corrupt files, sizes other than annotated, duplicate images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mipnet.data.crops import labelled_image
from mipnet.data.image_index import ImageIndex
from mipnet.host import cores, tune_malloc

FINGERPRINT_SIZE = 16
"""S: a fingerprint (difference hash) has S² bits: is a cell of a small grey image brighter than the next?"""
MAX_DUPLICATE_BITS = 20
"""Fingerprints of one image, recompressed or scaled, differ in fewer bits than this; those of two images in
more. Measured on 80 images of COCO, saved again at qualities 40 to 80 and at 0.3 to 1 of their size: 96 to
99 % of the former do, and the closest two of the latter differ in 92 bits."""
MIN_CONTRAST = 4.0
"""Images whose grey levels have a lower standard deviation have no content to compare."""
IMAGES_PER_TASK = 64

Columns = dict[str, np.ndarray]
"""Of n images: size (n, 2) int64 width and height in px, 0 where unreadable; fingerprint (n, S² / 64) uint64
and has_content (n,) bool, see ``fingerprint``."""


@dataclass(frozen=True)
class ImageInspection:
    """The results of reading n images.

    Attributes:
        names: (n,) path or URI of each.
        readable: (n,) bool.
        resized: names of images whose size differs from the annotated one.
        fingerprints: (n, S² / 64) uint64, see ``fingerprint``.
        has_content: (n,) bool, the fingerprint can be compared.
    """

    names: np.ndarray
    readable: np.ndarray
    resized: list[str]
    fingerprints: np.ndarray
    has_content: np.ndarray

    @property
    def unreadable(self) -> list[str]:
        return [str(name) for name in self.names[~self.readable]]

    def duplicates(self) -> list[tuple[str, str]]:
        """Pairs (first, copy) of images with equal fingerprints; each copy is in one pair."""
        names, prints = self.names[self.has_content], self.fingerprints[self.has_content]
        _, first, inverse = np.unique(prints, axis=0, return_index=True, return_inverse=True)
        first = first[inverse.reshape(-1)]
        return [(str(names[f]), str(names[i])) for i, f in enumerate(first.tolist()) if f != i]

    def duplicates_in(self, other: ImageInspection) -> list[tuple[str, str]]:
        """Pairs (ours, theirs) of duplicates; each of theirs at most once, with our most similar image."""
        ours, theirs = self.fingerprints[self.has_content], other.fingerprints[other.has_content]
        mine, others = self.names[self.has_content], other.names[other.has_content]
        found = []
        rows = max(1, 4_000_000 // max(len(ours), 1))  # at most 128 MB of differences at once
        for begin in range(0, len(theirs), rows):
            differ = theirs[begin : begin + rows, None] ^ ours[None]
            bits = np.bitwise_count(differ).sum(-1, dtype=np.int64)
            if not bits.size:
                break
            closest = bits.argmin(1)
            for row in np.flatnonzero(bits[np.arange(len(closest)), closest] < MAX_DUPLICATE_BITS).tolist():
                found.append((str(mine[closest[row]]), str(others[begin + row])))
        return found


def inspection_of(
    images: ImageIndex, sizes: np.ndarray | Sequence[tuple[float, float]], columns: Columns
) -> ImageInspection:
    """What was found in images.

    Args:
        images: n images.
        sizes: annotated (width, height) in px of each.
        columns: of ``read_columns`` or ``read_columns_on_ray``.
    """
    readable = columns["size"][:, 0] > 0
    other = readable & (columns["size"] != np.reshape(sizes, (-1, 2))).any(1)
    resized = [str(uri) for uri in images.uris[other]]
    return ImageInspection(images.uris, readable, resized, columns["fingerprint"], columns["has_content"])


def empty_columns(count: int) -> Columns:
    return {
        "size": np.zeros((count, 2), np.int64),
        "fingerprint": np.zeros((count, FINGERPRINT_SIZE**2 // 64), np.uint64),
        "has_content": np.zeros(count, bool),
    }


def read_columns(
    images: ImageIndex, progress: Callable[[int], None] = lambda done: None, threads: int = 0
) -> Columns:
    """Read and decode images as training does, in threads, because decoding releases the GIL.

    Args:
        images: n images.
        progress: called with the number of images done.
        threads: 0 is one for each core.
    """
    columns = empty_columns(len(images))

    def inspect(index: int) -> None:
        image = labelled_image(images, index)
        if image is not None:
            columns["size"][index] = image.shape[1], image.shape[0]
            columns["fingerprint"][index], columns["has_content"][index] = fingerprint(image)

    with ThreadPoolExecutor(threads or cores()) as pool:
        for done, _ in enumerate(pool.map(inspect, range(len(images))), 1):
            progress(done)
    return columns


def read_columns_on_ray(
    images: ImageIndex, progress: Callable[[int], None] = lambda done: None, tasks: int = 0
) -> Columns:
    """``read_columns`` on all CPUs of the Ray that this process is connected to.

    Args:
        images: n images, which every node can read.
        progress: called with the number of images done.
        tasks: at most so many at once; 0 leaves it to Ray.
    """
    import ray.data

    from mipnet.data.stream import apply_execution_options, decoding_label_selector

    columns, done = empty_columns(len(images)), 0
    blocks = ray.data.range(len(images), override_num_blocks=max(1, -(-len(images) // IMAGES_PER_TASK)))
    read = blocks.map_batches(
        _read_columns_task, batch_size=None, fn_kwargs={"images": ray.put(images)}, num_cpus=1
    )
    apply_execution_options(read, False, decoding_label_selector(ray.nodes()), tasks)
    for block in read.iter_batches(batch_size=None, batch_format="numpy"):
        for name, column in columns.items():
            column[block["id"]] = block[name]
        done += len(block["id"])
        progress(done)
    return columns


def _read_columns_task(batch: Columns, images: Any) -> Columns:
    """The images with the indices ``batch["id"]``; ``images`` is a reference to all."""
    import ray

    cv2.setNumThreads(1)  # tasks are the parallelism
    tune_malloc()
    return {"id": batch["id"], **read_columns(ray.get(images).where(batch["id"]), threads=1)}


def fingerprint(image: np.ndarray) -> tuple[np.ndarray, bool]:
    """A difference hash that is robust to recompression and scaling.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (S² / 64,) uint64, and whether the image has content to compare.
    """
    small = cv2.resize(image, (FINGERPRINT_SIZE + 1, FINGERPRINT_SIZE), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    bits = grey[:, :-1] > grey[:, 1:]
    return np.packbits(bits.ravel()).view(np.uint64), bool(grey.std() >= MIN_CONTRAST)
