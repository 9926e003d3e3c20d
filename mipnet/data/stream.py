"""The training stream on Ray Data: planned windows in, equal rank blocks of uint8 crops and joints out.

A row that goes in is the number of a window (``mipnet.data.sample_schedule``). One task reads the window's
images, decodes each once, cuts all of its people straight to their places in the shuffled window, and
yields blocks of exactly one rank's share of it, step by step. With ``preserve_order`` Ray's splitter deals
these blocks to the ranks in turn, so rank r gets block r of every window, however many tasks and ranks
there are, and takes its batches out of it without a copy. Each sample carries its step and slot, and the
training loop refuses a batch that is not the one it expects.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.data import DataContext, DataIterator, Dataset, ExecutionOptions, ExecutionResources
from ray.train import DataConfig

from mipnet.data.buffer_pool import PixelMemory, new_pixels
from mipnet.data.coco import People
from mipnet.data.crops import CropSettings, cut_crop, read_image
from mipnet.data.sample_schedule import WindowPlan, sample_rng
from mipnet.host import keep_memory

Block = dict[str, np.ndarray]


DATA_NODES = {"mipnet.io/role": "data"}
"""The Ray label of nodes that are there to decode, as the files in ``cluster/`` set it."""


@dataclass(frozen=True)
class WindowCutter:
    """Cuts the crops of a window. Pure: the result depends on the plan, the data and the window's number.

    Attributes:
        people: the data set.
        plan: the order of its samples.
        settings: how a crop is cut.
    """

    people: People
    plan: WindowPlan
    settings: CropSettings

    def cut(
        self,
        window: int,
        empty: Callable[[tuple[int, ...]], np.ndarray] | None = None,
        ranks: int | None = None,
    ) -> Block:
        """All samples of a window in their shuffled order.

        Args:
            window: its number.
            empty: gives the uint8 array of a shape into which the crops go; a new one by default.
            ranks: puts the samples in the order of so many ranks, each one's of all steps together, and fills
                the last window up to the size of the others: with step -1, at the end of each rank's part.

        Returns:
            image (n, h, w, 3) uint8 RGB; joints (n, N, K, 3) float32 in crop px, v = 0 where not labelled
            or outside; sample and epoch (n,) int64; people (n, N) int64, the annotation id of each λ's
            person; step (n,) int64 and slot (n,) int64, its place in the step's global
            batch; corrupt (n,) bool: its image could not be read, the crop is black and no joint counts.
        """
        epoch, image, sample, slot = self.plan.samples(window)
        n, (width, height) = len(sample), self.settings.size
        steps, places = np.divmod(slot, self.plan.batch_size)
        row = slot
        if ranks is not None:
            n, row = self.plan.batch_size * self.plan.window_batches, self.plan.rank_rows(slot, ranks)
        joints_shape = (n, self.settings.instances, self.settings.skeleton.num_joints, 3)
        block: Block = {
            "image": (empty or new_pixels)((n, height, width, 3)),
            "joints": np.zeros(joints_shape, np.float32),
            "sample": np.zeros(n, np.int64),
            "epoch": np.zeros(n, np.int64),
            "people": np.zeros((n, self.settings.instances), np.int64),
            "step": np.full(n, -1),
            "slot": np.zeros(n, np.int64),
            "corrupt": np.zeros(n, bool),
        }
        block["sample"][row], block["epoch"][row] = sample, epoch
        block["step"][row], block["slot"][row] = self.plan.steps(window).start + steps, places
        starts = np.flatnonzero(np.diff(image, prepend=-1))
        for begin, end in zip(starts, [*starts[1:], len(sample)], strict=True):
            self._cut_image(int(image[begin]), epoch[begin:end], sample[begin:end], row[begin:end], block)
        return block

    def _cut_image(
        self, index: int, epochs: np.ndarray, samples: np.ndarray, rows: np.ndarray, block: Block
    ) -> None:
        """The samples of an image."""
        near = self.people.of_image(index)
        boxes, keypoints = self.people.boxes[near], self.people.keypoints[near]
        image = read_image(str(self.people.images.uris[index]))
        if image is None:
            block["image"][rows] = 0
            block["corrupt"][rows] = True
            block["people"][rows] = self.people.ids[samples][:, None]
            return
        for epoch, sample, row in zip(epochs.tolist(), samples.tolist(), rows.tolist(), strict=True):
            rng = sample_rng(self.plan.seed, epoch, sample)
            out = block["image"][row]
            primary = sample - near.start
            joints, people = cut_crop(image, boxes, keypoints, primary, self.settings, rng, out)
            block["joints"][row] = joints
            block["people"][row] = self.people.ids[near.start + people]


def rest_in_every_turn(context: DataContext) -> None:
    """Give Ray Data's scheduling loop a rest of 20 ms in every turn, where Ray lets us.

    While the consumer is slower than the tasks, the loop finds their outputs ready and may not take them, so
    it turns without waiting for anything: measured, 40 to 80 % of a core, which on a small machine is taken
    from the training. A turn handles all that is ready, so the rest costs no throughput.
    """
    try:
        from ray.data._internal.execution.execution_callback import ExecutionCallback
    except ImportError:  # Ray promises no such class: without it the samples are the same, only slower
        return

    class Rest(ExecutionCallback):
        def on_execution_step(self, executor: Any) -> None:
            time.sleep(0.02)

    context.custom_execution_callback_classes = [Rest]


def settle(
    blocks: Dataset, preserve_order: bool, label_selector: dict[str, str] | None = None, cpus: int = 0
) -> Dataset:
    """The execution options that all of our data sets share.

    Args:
        blocks: the data set.
        preserve_order: blocks come in the order of their rows.
        label_selector: binds every task of it.
        cpus: at most this many for its tasks; 0 is all.
    """
    blocks.context.execution_options = ExecutionOptions(
        resource_limits=ExecutionResources.for_limits(cpu=cpus or None),
        preserve_order=preserve_order,
        label_selector=label_selector,
    )
    rest_in_every_turn(blocks.context)
    blocks.context.enable_progress_bars = False
    return blocks


def decoding_nodes(nodes: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
    """The label selector that keeps decoding off the GPU nodes; None, for any node, without data nodes.

    Only nodes that somebody labelled count. To take every node without a GPU instead would put all decoding
    on the two cores of a head node beside eight GPU nodes with 96 each.

    Args:
        nodes: as ``ray.nodes()`` tells them.
    """
    ready = (node for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= 1)
    if any(DATA_NODES.items() <= node["Labels"].items() for node in ready):
        return dict(DATA_NODES)
    return None


class PlannedSplit(DataConfig):
    """Tells Ray Train how the windows become the ranks' batches; only here the number of ranks is known.

    Args:
        cutter: a reference to the ``WindowCutter`` in the object store, shared by all tasks.
        plan: its order.
        stream_workers: at most this many tasks at once; 0 leaves it to Ray.
    """

    def __init__(self, cutter: ray.ObjectRef, plan: WindowPlan, stream_workers: int = 0) -> None:
        super().__init__(enable_shard_locality=False)
        self.cutter, self.stream_workers = cutter, stream_workers
        self.window_samples = plan.window_batches * plan.batch_size

    def configure(
        self, datasets: dict[str, Dataset], world_size: int, *args: Any, **kwargs: Any
    ) -> list[dict[str, DataIterator]]:
        """One iterator per rank for every data set of window numbers."""
        output: list[dict[str, DataIterator]] = [{} for _ in range(world_size)]
        share = self.window_samples // world_size
        for name, windows in datasets.items():
            blocks = cut_windows(windows, self.cutter, world_size, share, self.stream_workers)
            for rank, iterator in enumerate(blocks.streaming_split(world_size, equal=True)):
                output[rank][name] = iterator
        return output


def window_numbers(plan: WindowPlan, from_step: int) -> Dataset:
    """The data set that spans all of the run's remaining windows, one task each."""
    first = plan.window_of(from_step)
    count = max(plan.num_windows - first, 0)
    return ray.data.range(count, override_num_blocks=max(count, 1)).map_batches(
        lambda batch: {"window": batch["id"] + first}, batch_size=1, zero_copy_batch=True
    )


def cut_windows(windows: Dataset, cutter: Any, ranks: int, share: int, stream_workers: int = 0) -> Dataset:
    """Blocks of exactly ``share`` samples, in order: of every window one for each rank.

    The blocks are cut inside the task that made the window: Ray fuses the steps into one task, which copies
    nothing between tasks. It does so only where they agree on how they compute, so the number of tasks is
    limited by the CPUs of the whole and not by ``compute``.
    """
    blocks = windows.map_batches(
        cut_batch,
        batch_size=1,
        fn_kwargs={"cutter": cutter, "ranks": ranks},
        num_cpus=1,
    ).repartition(target_num_rows_per_block=share, strict=False)
    # A task hands over its window at once and ends. Ray's own 2 would make it wait, its CPU idle, for a turn
    # of the loop (a tenth of a second) for every two ranks. Ray promises no such setting; a context takes any
    # name, so that a Ray without it is only slower.
    blocks.context._max_num_blocks_in_streaming_gen_buffer = max(ranks, 2)
    return settle(blocks, True, decoding_nodes(ray.nodes()), stream_workers)


@functools.cache
def pixel_memory() -> PixelMemory:
    """Of this process, for all the windows that it cuts."""
    return PixelMemory()


def cut_batch(batch: Block, cutter: Any, ranks: int) -> Iterator[Block]:
    """The samples of the windows of a batch, each window in one piece.

    Ray cuts it into the ranks' blocks: views, so that the only copy of a crop is that into the object store.
    """
    import cv2

    cv2.setNumThreads(1)  # tasks are the parallelism; OpenCV's own threads would only fight them
    keep_memory()  # decoded images are large as well: without it decoding takes a quarter longer (measured)
    local: WindowCutter = ray.get(cutter)
    for window in batch["window"].tolist():
        yield local.cut(window, pixel_memory().empty, ranks)


def stream_factory(plan: WindowPlan, position: Callable[[], int]) -> Callable[[], Dataset]:
    """A callable for ``TorchTrainer(datasets=...)``, evaluated whenever the workers start.

    Args:
        plan: the order of the samples.
        position: reads from storage the step to go on from.
    """
    return lambda: window_numbers(plan, position())
