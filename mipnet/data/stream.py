"""The training data loader on Ray Data: from shuffle windows to a block of crops and keypoints per rank.

An input row is the index of a window (``mipnet.data.sample_schedule``). One task reads the window's images,
decodes each once, writes the crops of all its persons to their rows in the shuffled window, and yields one
block per rank. With ``preserve_order``, Ray's splitter deals these blocks to the ranks in turn: rank r gets
block r of every window whatever the number of tasks and ranks, and slices its batches without a copy. Each
sample carries its step and batch position; the training loop refuses a batch out of order.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.data import DataContext, DataIterator, Dataset, ExecutionOptions, ExecutionResources
from ray.train import DataConfig

from mipnet.data.buffer_pool import BufferPool, new_buffer
from mipnet.data.coco import PersonAnnotations
from mipnet.data.crops import CropSettings, labelled_images, make_training_crop
from mipnet.data.sample_schedule import SampleSchedule, sample_rng
from mipnet.host import tune_malloc

logger = logging.getLogger(__name__)

Block = dict[str, np.ndarray]
"""Column name -> (rows, ...) array."""

DATA_NODE_LABEL = {"mipnet.io/role": "data"}
"""The Ray label of nodes for decoding, as the files in ``cluster/`` set it."""
SLOW_WINDOW_SECONDS = 30.0
"""Windows that take longer are logged."""


@dataclass(frozen=True)
class CropLoader:
    """Loads the crops of a window: a pure function of the schedule, the data and the window's index.

    Attributes:
        people: the annotated persons of the data set; a sample is one of them.
        schedule: the order of the samples.
        settings: of the crops.
    """

    people: PersonAnnotations
    schedule: SampleSchedule
    settings: CropSettings

    def load(
        self,
        window: int,
        allocate: Callable[[tuple[int, ...]], np.ndarray] = new_buffer,
        ranks: int | None = None,
    ) -> Block:
        """All n samples of a window, shuffled.

        Args:
            window: its index.
            allocate: shape -> uninitialised uint8 array for the crops.
            ranks: orders the rows by rank, then step, for so many ranks, and fills up with rows of step -1:
                the smaller shares of a batch, each to the largest, and the last window to the size of the
                others. Without: by window position.

        Returns:
            the columns
            image: (n, h, w, 3) uint8 RGB.
            keypoints: (n, N, K, 3) float32 x, y in crop px and v; v = 0 where unlabelled or outside the crop.
            sample, epoch: (n,) int64.
            annotation_ids: (n, N) int64, annotation id of the person of each λ.
            step, batch_position: (n,) int64, the training step and the row in its global batch.
            corrupt: (n,) bool, the image could not be read: a black crop without labelled keypoints.
        """
        begin_time = time.perf_counter()
        epoch, image, sample, window_position = self.schedule.samples(window)
        n, (width, height) = len(sample), self.settings.size
        step_in_window, batch_position = np.divmod(window_position, self.schedule.batch_size)
        row = window_position
        if ranks is not None:
            n = ranks * self.schedule.rows_per_step(ranks) * self.schedule.window_batches
            row = self.schedule.rank_rows(window_position, ranks)
        keypoints_shape = (n, self.settings.instances, self.settings.skeleton.num_joints, 3)
        block: Block = {
            "image": allocate((n, height, width, 3)),
            "keypoints": np.zeros(keypoints_shape, np.float32),
            "sample": np.zeros(n, np.int64),
            "epoch": np.zeros(n, np.int64),
            "annotation_ids": np.zeros((n, self.settings.instances), np.int64),
            "step": np.full(n, -1),
            "batch_position": np.zeros(n, np.int64),
            "corrupt": np.zeros(n, bool),
        }
        block["sample"][row], block["epoch"][row] = sample, epoch
        block["step"][row] = self.schedule.steps(window).start + step_in_window
        block["batch_position"][row] = batch_position
        starts = np.flatnonzero(np.diff(image, prepend=-1))
        pictures = labelled_images(self.people.images, image[starts].tolist())
        for begin, end, pixels in zip(starts, [*starts[1:], len(sample)], pictures, strict=True):
            samples = np.stack([epoch[begin:end], sample[begin:end], row[begin:end]], axis=1)
            self._crop_people(int(image[begin]), pixels, samples, block)
        seconds = time.perf_counter() - begin_time
        if seconds > SLOW_WINDOW_SECONDS:
            logger.debug("window %d: %d samples took %.1f s", window, len(sample), seconds)
        return block

    def _crop_people(self, index: int, image: np.ndarray | None, samples: np.ndarray, block: Block) -> None:
        """Write the samples of one image, (s, 3) int64 epoch, sample and row, into their rows."""
        near = self.people.slice_of_image(index)
        boxes, keypoints = self.people.boxes[near], self.people.keypoints[near]
        if image is None:
            rows = samples[:, 2]
            uri = self.people.images.uris[index]
            logger.info("corrupt image, %d samples are black: %s", len(rows), uri)
            block["image"][rows] = 0
            block["corrupt"][rows] = True
            block["annotation_ids"][rows] = self.people.ids[samples[:, 1]][:, None]
            return
        for epoch, sample, row in samples.tolist():
            rng = sample_rng(self.schedule.seed, epoch, sample)
            crop, primary = block["image"][row], sample - near.start
            block["keypoints"][row], people = make_training_crop(
                image, boxes, keypoints, primary=primary, settings=self.settings, rng=rng, out=crop
            )
            block["annotation_ids"][row] = self.people.ids[near.start + people]


def throttle_scheduling_loop(context: DataContext) -> None:
    """Make Ray Data's scheduling loop sleep for 20 ms in every iteration, if this Ray has a callback for it.

    While the consumer is slower than the tasks, backpressure keeps ready outputs in their tasks and the loop
    busy-waits: measured, 40 to 80 % of a core, which a small machine takes from the training. An iteration
    handles all outputs that are ready, so the sleep costs no throughput.
    """
    try:
        from ray.data._internal.execution.execution_callback import ExecutionCallback
    except ImportError:  # a private class of Ray: without it the samples are the same, only slower
        logger.info("this Ray has no ExecutionCallback: its scheduling loop is not throttled")
        return

    class ThrottleCallback(ExecutionCallback):
        def on_execution_step(self, executor: Any) -> None:
            time.sleep(0.02)

    context.custom_execution_callback_classes = [ThrottleCallback]


def apply_execution_options(
    blocks: Dataset, preserve_order: bool, label_selector: dict[str, str] | None = None, cpus: int = 0
) -> Dataset:
    """Set the execution options that all our Ray data sets share, in place.

    Args:
        blocks: the data set.
        preserve_order: blocks come in the order of their rows.
        label_selector: Ray node labels that all its tasks require.
        cpus: at most this many for its tasks; 0 is all.
    """
    blocks.context.execution_options = ExecutionOptions(
        resource_limits=ExecutionResources.for_limits(cpu=cpus or None),
        preserve_order=preserve_order,
        label_selector=label_selector,
    )
    throttle_scheduling_loop(blocks.context)
    blocks.context.enable_progress_bars = False
    return blocks


def decoding_label_selector(nodes: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
    """The label selector that binds decoding to the data nodes; None (any node) if there are none.

    Only labelled nodes count, not every node without a GPU: that would put all decoding on the two cores of a
    head node beside eight GPU nodes with 96 each.

    Args:
        nodes: as from ``ray.nodes()``.
    """
    ready = (node for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= 1)
    if any(DATA_NODE_LABEL.items() <= node["Labels"].items() for node in ready):
        return dict(DATA_NODE_LABEL)
    return None


class ScheduledDataConfig(DataConfig):
    """Ray Train's data config that splits windows into blocks for the ranks, whose number it learns here.

    Args:
        crop_loader: reference to the ``CropLoader`` in the object store, shared by all tasks.
        schedule: the order of the samples.
        stream_workers: at most this many tasks at once; 0 leaves it to Ray.
    """

    def __init__(self, crop_loader: ray.ObjectRef, schedule: SampleSchedule, stream_workers: int = 0) -> None:
        super().__init__(enable_shard_locality=False)
        self.crop_loader, self.stream_workers = crop_loader, stream_workers
        self.schedule = schedule

    def configure(
        self, datasets: dict[str, Dataset], world_size: int, *args: Any, **kwargs: Any
    ) -> list[dict[str, DataIterator]]:
        """For each rank, data set name -> iterator; as ``ray.train.DataConfig.configure``."""
        output: list[dict[str, DataIterator]] = [{} for _ in range(world_size)]
        rows_per_rank = self.schedule.window_batches * self.schedule.rows_per_step(world_size)
        for name, windows in datasets.items():
            blocks = load_windows(windows, self.crop_loader, world_size, rows_per_rank, self.stream_workers)
            for rank, iterator in enumerate(blocks.streaming_split(world_size, equal=True)):
                output[rank][name] = iterator
        return output


def window_dataset(schedule: SampleSchedule, from_step: int) -> Dataset:
    """The indices of the run's remaining windows from the one that contains a step, one task each."""
    first = schedule.window_of(from_step)
    count = max(schedule.num_windows - first, 0)
    return ray.data.range(count, override_num_blocks=max(count, 1)).map_batches(
        lambda batch: {"window": batch["id"] + first}, batch_size=1, zero_copy_batch=True
    )


def load_windows(
    windows: Dataset, crop_loader: Any, ranks: int, rows_per_rank: int, stream_workers: int = 0
) -> Dataset:
    """Blocks of exactly ``rows_per_rank`` rows in order: one per rank of every window.

    Ray fuses loading and repartitioning into one task, so a window is split without a copy between tasks. It
    fuses only operators with the same compute strategy; the number of tasks is therefore limited by the CPUs
    of the data set's execution options and not by ``compute``.
    """
    blocks = windows.map_batches(
        load_window_crops, batch_size=1, fn_kwargs={"crop_loader": crop_loader, "ranks": ranks}, num_cpus=1
    ).repartition(target_num_rows_per_block=rows_per_rank, strict=False)
    # Let a task yield all blocks of its window and end. With Ray's default of 2 it would wait, its CPU idle,
    # for an iteration of the scheduling loop (0.1 s) for every two ranks. The setting is private; a context
    # accepts any attribute, so a Ray without it is only slower.
    blocks.context._max_num_blocks_in_streaming_gen_buffer = max(ranks, 2)
    return apply_execution_options(blocks, True, decoding_label_selector(ray.nodes()), stream_workers)


CROP_BUFFERS = BufferPool()
"""The pool of this process, for all windows that it loads."""


def load_window_crops(batch: Block, crop_loader: Any, ranks: int) -> Iterator[Block]:
    """The samples of the windows of a batch, one block per window.

    Ray splits it into the ranks' blocks as views: the only copy of a crop is the one into the object store.
    """
    import cv2

    cv2.setNumThreads(1)  # tasks are the parallelism; OpenCV's own threads would compete with them
    tune_malloc()  # for the decoded images: decoding takes a quarter longer without it (measured)
    local: CropLoader = ray.get(crop_loader)
    for window in batch["window"].tolist():
        yield local.load(window, CROP_BUFFERS.empty, ranks)
