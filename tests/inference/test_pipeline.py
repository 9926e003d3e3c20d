"""Where a prediction runs. That all places give the same poses is tested in ``test_invariance``."""

from __future__ import annotations

import pytest

from mipnet.config.schema import ResourcesConfig
from mipnet.inference.pipeline import should_run_inline

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
