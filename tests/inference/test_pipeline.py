"""Where a prediction runs. That all places give the same poses is tested in ``test_invariance``."""

from __future__ import annotations

import pytest

from mipnet.config.schema import ResourcesConfig
from mipnet.inference.pipeline import prediction_workers, should_run_inline

LIVING, DEAD = {"Alive": True}, {"Alive": False}


@pytest.mark.parametrize(
    ("workers", "gpu", "nodes", "here"),
    [
        (1, False, [LIVING], True),
        (1, False, [LIVING, DEAD], True),  # a node that has left computes nothing
        (1, False, [LIVING, LIVING], False),
        (1, True, [LIVING], False),  # the driver has no GPU of Ray's
        (2, False, [LIVING], False),
    ],
)
def test_one_process_on_the_only_node_needs_no_other(workers, gpu, nodes, here):
    assert should_run_inline(ResourcesConfig(predict_workers=workers, gpu=gpu), nodes) is here


GPUS = [{"Alive": alive, "Resources": {"CPU": 96, "GPU": 8}} for alive in (True, True, False)]
CPUS = [{"Alive": True, "Resources": {"CPU": 4}}]


@pytest.mark.parametrize(
    ("wanted", "gpu", "nodes", "workers"),
    [
        (0, True, GPUS, 16),  # one for each GPU of living nodes
        (0, True, CPUS, 1),  # an autoscaler has still to start them
        (0, False, GPUS, 1),
        (0, False, CPUS, 1),
        (3, True, GPUS, 3),
        (2, False, CPUS, 2),
    ],
)
def test_each_gpu_predicts(wanted, gpu, nodes, workers):
    assert prediction_workers(ResourcesConfig(predict_workers=wanted, gpu=gpu), nodes) == workers
