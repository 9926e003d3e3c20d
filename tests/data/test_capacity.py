"""What the stream may use of a cluster, and what is said of it."""

from __future__ import annotations

import numpy as np

from mipnet.config.schema import AugmentConfig
from mipnet.data.capacity import capacity
from mipnet.data.crops import CropSettings
from mipnet.data.windows import WindowPlan
from mipnet.skeletons import COCO17

PLAN = WindowPlan(np.arange(1000), 0, 1, 32, 8)
SETTINGS = CropSettings((192, 256), 1.25, 2, COCO17, AugmentConfig())
WINDOW = 256 * 192 * 256 * 3


def node(cpus: float, memory: float = 1e12, data: bool = False, alive: bool = True) -> dict:
    labels = {"mipnet.io/role": "data"} if data else {}
    resources = {"CPU": cpus, "memory": memory, "object_store_memory": 2e9}
    return {"Alive": alive, "Resources": resources, "Labels": labels}


def test_all_cpus_that_the_training_leaves_and_more_when_more_come():
    found = capacity([node(8), node(8), node(8, alive=False)], PLAN, SETTINGS, training_cpus=3)
    assert (found.tasks, found.limit, found.store, found.window) == (13, 0, 4e9, WINDOW)
    assert found.line() == (
        "stream: 13 decoding task(s) on CPUs beside the training, each with a window of 256 crops (38 MB); "
        "object store 4.0 GB"
    )


def test_nodes_for_data_give_all_of_their_cpus():
    found = capacity([node(96), node(16, data=True)], PLAN, SETTINGS, training_cpus=8)
    assert (found.tasks, found.limit, found.apart) == (16, 0, True)


def test_memory_limits_the_tasks():
    found = capacity([node(64, memory=4 * 10 * WINDOW)], PLAN, SETTINGS, training_cpus=1)
    assert (found.tasks, found.limit) == (10, 10)


def test_what_was_asked_for_is_the_most():
    assert capacity([node(8)], PLAN, SETTINGS, 1, wanted=2).limit == 2
    later = capacity([node(8)], PLAN, SETTINGS, 1, wanted=100)
    assert (later.tasks, later.limit) == (7, 100)  # nodes may follow
    assert capacity([node(2)], PLAN, SETTINGS, 2).tasks == 1
