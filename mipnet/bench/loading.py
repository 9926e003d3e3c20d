"""Compare the window loader with the plain loader on one core: rates, bytes per sample and pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import cycle, islice

import numpy as np

from mipnet.bench.plain_loader import PlainLoader, stack
from mipnet.data.buffer_pool import BufferPool
from mipnet.data.shards import PackedImage, PackingJob, byte_ranges, pack
from mipnet.data.stream import CropLoader
from mipnet.storage import Folder, split_uri


@dataclass
class LoaderComparison:
    """The window loader and the plain loader over the same samples, repeated without end.

    Attributes:
        crop_loader: the window loader.
        plain: the plain loader, with the same data, order and random numbers.
        samples: of a call of the window loader, at least; the plain loader makes a quarter of them.
    """

    crop_loader: CropLoader
    plain: PlainLoader
    samples: int
    memory: BufferPool = field(default_factory=BufferPool)

    def __post_init__(self) -> None:
        self._fast_windows = cycle(range(self.crop_loader.schedule.num_windows))
        self._plain_batches = self._batches()

    def run_window_loader(self) -> float:
        """Load windows until there are ``samples``; returns the number."""
        done = 0
        while done < self.samples:
            done += len(self.crop_loader.load(next(self._fast_windows), self.memory.empty)["step"])
        return done

    def with_packed_shards(self, scratch: Folder) -> LoaderComparison:
        """The same data from packed shards, written into ``scratch``."""
        people, images = self.crop_loader.people, self.crop_loader.people.images
        folder, _ = split_uri(str(images.uris[0]))
        names = [str(uri).removeprefix(f"{folder.uri}/") for uri in images.uris]
        numbered = zip(names, images.ids.tolist(), strict=True)
        rows = [PackedImage(name, number, "[]") for name, number in numbered]
        pack(PackingJob(folder, scratch, rows, 500, {}))
        found = byte_ranges(scratch)
        uris = np.array([scratch.path(found.get(name, name)) for name in names])
        people = replace(people, images=replace(images, uris=uris))
        return replace(self, crop_loader=replace(self.crop_loader, people=people))

    def run_plain_loader(self) -> float:
        """Load batches sample by sample until there are ``samples`` / 4; returns the number."""
        done = 0
        while done < self.samples / 4:
            keys = next(self._plain_batches)
            stack([self.plain.load(epoch, sample) for epoch, sample in keys])
            done += len(keys)
        return done

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        schedule = self.crop_loader.schedule
        for window in cycle(range(schedule.num_windows)):
            epoch, _, sample, slot = schedule.samples(window)
            order = np.argsort(slot)  # the same batches as those of the window loader
            keys = list(zip(epoch[order].tolist(), sample[order].tolist(), strict=True))
            for begin in range(0, len(keys), schedule.batch_size):
                yield keys[begin : begin + schedule.batch_size]

    def bytes_per_sample(self) -> tuple[float, float]:
        """Bytes of a sample, (window loader, plain loader)."""
        block = self.crop_loader.load(0)
        one = self.plain.load(0, int(block["sample"][0]))
        fast, plain = (sum(column.nbytes for column in way.values()) for way in (block, one))
        return fast / len(block["step"]), float(plain)

    def difference(self, samples: int) -> CropDifference:
        """How crops of the two loaders differ, over the first ``samples``."""
        blocks = map(self.crop_loader.load, range(self.crop_loader.schedule.num_windows))
        rows = ((block, row) for block in blocks for row in range(len(block["step"])))
        found = []
        for block, row in islice(rows, samples):
            crop, joints = self.plain.crop(int(block["epoch"][row]), int(block["sample"][row]))
            apart = np.abs(block["image"][row].astype(np.int16) - crop)
            joints_apart = np.abs(block["keypoints"][row] - joints).max()
            found.append((apart.max(), np.count_nonzero(apart) / apart.size, joints_apart))
        grey, shares, pixels = (np.array(column) for column in zip(*found, strict=True))
        return CropDifference(len(found), float(grey.max()), float(shares.mean()), float(pixels.max()))


@dataclass(frozen=True)
class CropDifference:
    """Difference between the crops of two loaders.

    Attributes:
        samples: how many were compared.
        largest: maximum over all pixel values, in grey levels.
        share: fraction of the values that differ at all.
        joints: maximum over keypoint coordinates, in crop px.
    """

    samples: int
    largest: float
    share: float
    joints: float

    def line(self) -> str:
        apart = f"at most {self.largest:g} grey level(s) apart, in {100 * self.share:.4f} % of the values"
        return f"{self.samples} crops compared: {apart}; joints at most {self.joints:.2g} px apart"
