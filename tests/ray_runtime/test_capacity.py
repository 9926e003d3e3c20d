"""What the stream may use of a cluster, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

from mipnet.config import Config
from mipnet.config.schema import InputConfig, ResourcesConfig, TrainConfig
from mipnet.ray_runtime.capacity import capacity

CONFIG = Config(input=InputConfig(192, 256), train=TrainConfig(batch_size=32, window_batches=8))
WINDOW = 256 * 192 * 256 * 3


def wanting(tasks: int) -> Config:
    return replace(CONFIG, resources=ResourcesConfig(stream_workers=tasks))


def node(cpus: float, memory: float = 1e12, data: bool = False, alive: bool = True) -> dict:
    labels = {"mipnet.io/role": "data"} if data else {}
    resources = {"CPU": cpus, "memory": memory, "object_store_memory": 2e9}
    return {"Alive": alive, "Resources": resources, "Labels": labels}


def test_all_cpus_that_the_training_leaves_and_more_when_more_come():
    found = capacity([node(8), node(8), node(8, alive=False)], CONFIG, training_cpus=3)
    assert (found.tasks, found.max_tasks, found.object_store_bytes, found.window_bytes) == (
        13,
        0,
        4e9,
        WINDOW,
    )
    assert found.line() == (
        "stream: 13 decoding task(s) on CPUs beside the training, each with a window of 256 crops (38 MB); "
        "object store 4.0 GB"
    )


def test_nodes_for_data_give_all_of_their_cpus():
    found = capacity([node(96), node(16, data=True)], CONFIG, training_cpus=8)
    assert (found.tasks, found.max_tasks, found.dedicated_nodes) == (16, 0, True)


def test_memory_limits_the_tasks():
    found = capacity([node(64, memory=4 * 10 * WINDOW)], CONFIG, training_cpus=1)
    assert (found.tasks, found.max_tasks) == (10, 10)


def test_what_was_asked_for_is_the_most():
    assert capacity([node(8)], wanting(2), 1).max_tasks == 2
    later = capacity([node(8)], wanting(100), 1)
    assert (later.tasks, later.max_tasks) == (7, 100)  # nodes may follow
    assert capacity([node(2)], CONFIG, 2).tasks == 1


def test_a_small_object_store_is_said():
    small = [{**node(8), "Resources": {"CPU": 8, "memory": 1e12, "object_store_memory": 2e8}}]
    found = capacity(small, CONFIG, training_cpus=1)
    assert found.line().endswith(
        "object store 0.2 GB, where all of them want 0.7; lower --train.window-batches"
    )
