"""When Ray Train changes the number of workers of a running training."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

logger = logging.getLogger(__name__)


def resize_after_checkpoints(policy: Any) -> Any:
    """Ray Train's elastic scaling policy, made to resize a running group only right after a checkpoint.

    A resize is a restart from the last checkpoint: at any other moment the steps since then would be made
    again. A lost worker is no resize of a running group: Ray goes on with those that are left at once.

    Ray has no public way to say so. Where its policy is another one, it stays as it is.

    Args:
        policy: as Ray made it.
    """
    try:
        from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision
    except ImportError:
        logger.info("this Ray has no ElasticScalingPolicy: it resizes at any step", exc_info=True)
        return policy
    if type(policy) is not ElasticScalingPolicy:
        logger.info("Ray's scaling policy is a %s: it resizes at any step", type(policy).__name__)
        return policy

    class CheckpointScalingPolicy(ElasticScalingPolicy):  # type: ignore[misc, unused-ignore]  # no types
        """Called in Ray Train's controller, after each look at the workers."""

        def make_decision_for_running_worker_group(
            self, worker_group_state: Any, worker_group_status: Any
        ) -> Any:
            try:
                if not self._checkpoint_is_new(worker_group_state, worker_group_status):
                    self._maybe_send_resource_request()  # else what is reserved for the training expires
                    return NoopDecision()
            except AttributeError:
                logger.info("this Ray does not tell of checkpoints: it resizes at any step", exc_info=True)
            return super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)

        def _checkpoint_is_new(self, state: Any, status: Any) -> bool:
            """Whether Ray has recorded a checkpoint since the last call: one that all ranks have reported."""
            if getattr(self, "_start_time", None) != state.start_time:  # another group
                self._start_time, self._reports, self._recorded = state.start_time, Counter[int](), 0
            self._reports.update(r for r, each in status.worker_statuses.items() if each.training_report)
            recorded = min(self._reports[rank] for rank in status.worker_statuses)
            self._recorded, before = recorded, self._recorded
            return recorded > before

    return CheckpointScalingPolicy(policy.scaling_config)
