"""The two ways of making training samples, side by side on one core: rates, bytes and pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import cycle, islice

import numpy as np

from mipnet.bench.plain_loader import PlainLoader, stack
from mipnet.data.buffer_pool import PixelMemory
from mipnet.data.shards import PackedImage, Packing, pack, pieces
from mipnet.data.stream import WindowCutter
from mipnet.storage import Folder, parent_of


@dataclass
class Loading:
    """One cutter and its plain counterpart, each walking through the windows of the plan without end.

    Attributes:
        cutter: the fast way.
        plain: the plain way, for the same data, order and random numbers.
        samples: per call of the fast way, at least; the plain way makes a quarter of them.
    """

    cutter: WindowCutter
    plain: PlainLoader
    samples: int
    memory: PixelMemory = field(default_factory=PixelMemory)

    def __post_init__(self) -> None:
        self._fast_windows = cycle(range(self.cutter.plan.num_windows))
        self._plain_batches = self._batches()

    def cut_fast(self) -> float:
        """Windows, until there are ``samples``."""
        done = 0
        while done < self.samples:
            done += len(self.cutter.cut(next(self._fast_windows), self.memory.empty)["step"])
        return done

    def packed(self, scratch: Folder) -> Loading:
        """The same from shards, which are packed into ``scratch``."""
        people, images = self.cutter.people, self.cutter.people.images
        folder, _ = parent_of(str(images.uris[0]))
        names = [str(uri).removeprefix(f"{folder.uri}/") for uri in images.uris]
        rows = [
            PackedImage(name, number, "[]") for name, number in zip(names, images.ids.tolist(), strict=True)
        ]
        pack(Packing(folder, scratch, rows, 500, {}))
        found = pieces(scratch)
        uris = np.array([scratch.path(found.get(name, name)) for name in names])
        people = replace(people, images=replace(images, uris=uris))
        return replace(self, cutter=replace(self.cutter, people=people))

    def cut_plain(self) -> float:
        """Batches of single samples, until there are a quarter of ``samples``."""
        done = 0
        while done < self.samples / 4:
            keys = next(self._plain_batches)
            stack([self.plain.load(epoch, sample) for epoch, sample in keys])
            done += len(keys)
        return done

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        plan = self.cutter.plan
        for window in cycle(range(plan.num_windows)):
            epoch, _, sample, slot = plan.samples(window)
            order = np.argsort(slot)  # the same samples in the same batches as the fast way's
            keys = list(zip(epoch[order].tolist(), sample[order].tolist(), strict=True))
            for begin in range(0, len(keys), plan.batch_size):
                yield keys[begin : begin + plan.batch_size]

    def bytes_per_sample(self) -> tuple[float, float]:
        """What each way hands over for a sample, (fast, plain)."""
        block = self.cutter.cut(0)
        one = self.plain.load(0, int(block["sample"][0]))
        fast, plain = (sum(column.nbytes for column in way.values()) for way in (block, one))
        return fast / len(block["step"]), float(plain)

    def difference(self, samples: int) -> Difference:
        """How the fast way's crops differ from the plain way's, over so many samples."""
        blocks = map(self.cutter.cut, range(self.cutter.plan.num_windows))
        rows = ((block, row) for block in blocks for row in range(len(block["step"])))
        found = []
        for block, row in islice(rows, samples):
            crop, joints = self.plain.crop(int(block["epoch"][row]), int(block["sample"][row]))
            apart = np.abs(block["image"][row].astype(np.int16) - crop)
            joints_apart = np.abs(block["joints"][row] - joints).max()
            found.append((apart.max(), np.count_nonzero(apart) / apart.size, joints_apart))
        largest, shares, joints_apart = zip(*found, strict=True)
        return Difference(len(found), float(max(largest)), float(np.mean(shares)), float(max(joints_apart)))


@dataclass(frozen=True)
class Difference:
    """Between the crops of two ways.

    Attributes:
        samples: how many were compared.
        largest: of all pixel values, in grey levels.
        share: of the values that differ at all.
        joints: the largest between joint coordinates, in crop px.
    """

    samples: int
    largest: float
    share: float
    joints: float

    def line(self) -> str:
        return (
            f"{self.samples} crops compared: at most {self.largest:g} grey level(s) apart, in "
            f"{100 * self.share:.4f} % of the values; joints at most {self.joints:.2g} px apart"
        )
