"""How the stream and the training grow with workers and ranks, and what a cluster of a given size needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from mipnet.bench.plain_loader import PlainLoader, stack
from mipnet.config import Config, from_dict, to_dict
from mipnet.data.stream import PlannedSplit, window_numbers
from mipnet.data.windows import WindowPlan
from mipnet.training.checkpoint import model_from_config
from mipnet.training.step import TrainStep
from mipnet.training.trainer import FIRST
from mipnet.training.worker import Unread, batches, timed

CLUSTERS = (8, 64, 512)


@ray.remote(num_cpus=1)
def load_plain(loader: PlainLoader, keys: Sequence[tuple[int, int]], batch: int, start_at: float) -> float:
    """Samples per second of one process that loads samples one by one, and stacks them."""
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    loader.load(*keys[0])
    time.sleep(max(start_at - time.time(), 0))
    begin = time.perf_counter()
    for at in range(0, len(keys), batch):
        stack([loader.load(epoch, sample) for epoch, sample in keys[at : at + batch]])
    return len(keys) / (time.perf_counter() - begin)


def plain(loader: ray.ObjectRef, plan: WindowPlan, workers: int, samples: int) -> tuple[float, float]:
    """Samples and seconds of so many plain loaders at the same time, each with its share of the samples."""
    share = max(samples // workers, 1)
    start_at = time.time() + 1.5
    tasks = []
    for worker in range(workers):
        keys = [divmod(worker * share + i, plan.num_samples) for i in range(share)]
        tasks.append(load_plain.remote(loader, keys, plan.batch_size, start_at))
    rate = sum(ray.get(tasks))
    return workers * share, workers * share / rate


@dataclass(frozen=True)
class Trained:
    """A few steps of training.

    Attributes:
        samples: of all ranks.
        seconds: that rank 0 took for them.
        waited: seconds that rank 0 waited for data.
        size: bytes of its batches.
    """

    samples: int
    seconds: float
    waited: float
    size: int


def train(config: Config, cutter: ray.ObjectRef, plan: WindowPlan, ranks: int, tasks: int) -> Trained:
    """Train through the plan on so many ranks as ``mipnet train`` does, without checkpoints."""
    with TemporaryDirectory() as scratch:
        trainer = TorchTrainer(
            steps,
            train_loop_config={"config": to_dict(config), "plan": plan, "cutter": cutter},
            datasets={"train": lambda: window_numbers(plan, 0)},
            dataset_config=PlannedSplit(cutter, plan, tasks),
            scaling_config=ScalingConfig(num_workers=ranks, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(name="bench", storage_path=scratch, worker_runtime_env=FIRST),
        )
        return Trained(**trainer.fit().return_value)


def steps(settings: dict[str, Any]) -> dict[str, Any]:
    """What every rank does; the first third of the steps brings it to its pace and does not count."""
    plan: WindowPlan = settings["plan"]
    context = ray.train.get_context()
    config = from_dict(settings["config"])
    torch.set_num_threads(1)
    step = TrainStep(
        model_from_config(config), config, plan.total_steps, ray.train.torch.get_device(), "fp32"
    )
    rank, share = context.get_world_rank(), plan.batch_size // context.get_world_size()
    taken = batches(step, plan, rank, share, plan.total_steps, Unread(settings["cutter"], None))
    warm, begin, waited, size = plan.total_steps // 3, 0.0, 0.0, 0
    for number, (batch, seconds) in enumerate(timed(taken)):
        if number >= warm:
            waited += seconds if number > warm else 0.0
            size += sum(tensor.nbytes for tensor in batch.values())
        if number == warm:
            begin = time.perf_counter()
        step(batch["image"], batch["joints"], batch["corrupt"])
    seconds = time.perf_counter() - begin
    samples = (plan.total_steps - warm) * plan.batch_size
    return {"samples": samples, "seconds": seconds, "waited": waited, "size": size}


@dataclass(frozen=True)
class Sizing:
    """What training on so many GPUs needs.

    Attributes:
        gpus: one rank each.
        workers: CPU cores that decode, per GPU.
        store: MB/s through the object store of a node of 8 GPUs: written once, read once.
        network: Gbit/s of crops into such a node when other nodes decode.
        images: MB/s of images out of the storage, for all.
        samples: per second, of all.
    """

    gpus: int
    workers: float
    store: float
    network: float
    images: float
    samples: float


def sizing(gpu_rate: float, core_rate: float, sample_bytes: float, image_bytes: float) -> list[Sizing]:
    """The needs of clusters of 8, 64 and 512 GPUs.

    Args:
        gpu_rate: samples per second that one GPU trains on.
        core_rate: samples per second that one core decodes and hands over.
        sample_bytes: of one sample in the stream.
        image_bytes: read from the storage for one sample: an image's by its number of people.
    """
    node = 8 * gpu_rate * sample_bytes
    return [
        Sizing(
            gpus,
            gpu_rate / core_rate,
            2 * node / 1e6,
            8 * node / 1e9,
            gpus * gpu_rate * image_bytes / 1e6,
            gpus * gpu_rate,
        )
        for gpus in CLUSTERS
    ]


def sizing_table(rows: Sequence[Sizing]) -> str:
    lines = [
        f"{'GPUs':>5}  {'samples/s':>10}  {'cores per GPU':>13}  {'cores':>7}  {'object store/node':>18}  "
        f"{'network/node':>13}  {'from storage':>13}"
    ]
    for row in rows:
        lines.append(
            f"{row.gpus:>5}  {row.samples:>10,.0f}  {row.workers:>13.2f}  {row.workers * row.gpus:>7,.0f}  "
            f"{row.store:>13,.0f} MB/s  {row.network:>6.1f} Gbit/s  {row.images:>8,.0f} MB/s"
        )
    return "\n".join(lines)
