"""How well a window mixes: how many people of one image meet in a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mipnet.data.windows import WindowPlan

COCO_PEOPLE = 150_000


@dataclass(frozen=True)
class Mixing:
    """What a window size does to a batch.

    Attributes:
        window_batches: the window, in global batches.
        others: how many others of the own image a sample meets in its batch, on average.
        images: different images in a batch, as a share of its samples.
        megabytes: of crops in one window.
    """

    window_batches: int
    others: float
    images: float
    megabytes: float


def mixing(
    plan: WindowPlan, crop_bytes: int, sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32), batches: int = 128
) -> tuple[list[Mixing], Mixing]:
    """The table by window size, and what a full shuffle of all people would give.

    A small data set is repeated, as other images with as many people, to the size of COCO: with few images a
    batch holds some of them twice however well it is mixed.

    Args:
        plan: counts of people, batch size and seed.
        crop_bytes: of one sample.
        sizes: windows to try, in batches.
        batches: how many to count.
    """
    counts = np.diff(plan.first)
    counts = np.tile(counts, max(1, round(COCO_PEOPLE / max(plan.num_samples, 1))))
    large = replace(plan, first=np.concatenate([[0], np.cumsum(counts)]), epochs=1)
    owner = np.repeat(np.arange(len(counts)), counts)
    size = plan.batch_size

    def measure(images: np.ndarray, window_batches: int) -> Mixing:
        meet = [np.unique(batch, return_counts=True)[1] for batch in images.reshape(-1, size)]
        others = np.concatenate([n * (n - 1) for n in meet]).sum() / images.size
        different = sum(map(len, meet)) / images.size
        return Mixing(window_batches, float(others), different, window_batches * size * crop_bytes / 1e6)

    table = []
    for window_batches in sizes:
        sized = replace(large, window_batches=window_batches)
        windows = range(min(max(batches // window_batches, 2), sized.total_steps // window_batches))
        table.append(measure(np.concatenate([_images(sized, window) for window in windows]), window_batches))
    count = min(batches * size, len(owner) // size * size)
    shuffled = np.random.default_rng(plan.seed).permutation(owner)[:count]
    return table, measure(shuffled, 0)


def _images(plan: WindowPlan, window: int) -> np.ndarray:
    """The image of every sample of a window, in the order of its batches."""
    _, image, _, slot = plan.samples(window)
    placed = np.empty_like(image)
    placed[slot] = image
    return placed


def mixing_table(table: list[Mixing], shuffled: Mixing) -> str:
    lines = [f"{'window':>16}  {'others of the own image':>24}  {'different images':>17}  {'memory':>10}"]
    for row in table:
        name = f"{row.window_batches} batch" + ("es" if row.window_batches > 1 else "")
        lines.append(
            f"{name:>16}  {row.others:>24.3f}  {100 * row.images:>15.1f} %  {row.megabytes:>7,.0f} MB"
        )
    lines.append(f"{'a full shuffle':>16}  {shuffled.others:>24.3f}  {100 * shuffled.images:>15.1f} %")
    return "\n".join(lines)
