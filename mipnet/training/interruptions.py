"""A node's notice and the user's wish to stop, seen by the training processes: save a checkpoint, then wait.

A notice says that a node will be taken away, at a deadline or some time soon. Ray Train starts the training
processes again when the deadline is over, from the last checkpoint. So one is saved as soon as the notice is
seen, and a last one shortly before the deadline. After that one no step is made: it would be made again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.collective
from ray.train import PreemptionInfo

from mipnet.tracking.journal import Journal

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_QUESTIONS, MAX_SECONDS_BETWEEN_QUESTIONS = 1.0, 5.0
"""The second on a machine so busy that a question takes long: some notices are of 15 seconds."""
MAX_QUESTION_SHARE = 0.01
"""Of the time of a training, for asking whether there is a notice: a question waits for all ranks."""
UNKNOWN_CHECKPOINT_SECONDS = 5.0
"""How long a checkpoint takes, before one was saved."""
RESERVE_SECONDS = 5.0
"""Between the last checkpoint and the deadline: Ray Train's controller takes note of a checkpoint when it
looks at the workers, every 2 seconds."""
NO_DEADLINE_SECONDS = 100.0
"""From a notice without a deadline to the one that is assumed. Ray Train starts the processes again 120
seconds after it has seen such a notice; the rest is for seeing it later than Ray Train."""
MAX_HOLD_SECONDS = 600.0
"""A process that waits so long for its end has been forgotten: it fails, and is started again."""


@dataclass(frozen=True)
class Decision:
    """What all ranks do after a step.

    Attributes:
        save: save a checkpoint.
        hold: make no further step.
        next_step: ask again after this one.
    """

    save: bool
    hold: bool
    next_step: int


class Planner:
    """Decides what to do about notices and stops; on rank 0 alone, whose clock counts for all.

    Args:
        step: number of steps done.
        clock: seconds since 1970.
    """

    def __init__(self, step: int, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._last_step, self._last_time = step, clock()
        self._notice: PreemptionInfo | None = None
        self.deadline = float("inf")
        self.interval = SECONDS_BETWEEN_QUESTIONS

    def decide(
        self,
        step: int,
        notice: PreemptionInfo | None,
        *,
        stop: bool,
        question_seconds: float,
        checkpoint_seconds: float,
    ) -> Decision:
        """Decide after a step.

        Args:
            step: number of steps done.
            notice: Ray Train's word of nodes that will be taken away.
            stop: the user wants to stop.
            question_seconds: how long it takes to ask.
            checkpoint_seconds: how long a checkpoint takes.
        """
        now = self._clock()
        step_seconds = max(now - self._last_time, 1e-3) / max(step - self._last_step, 1)
        wanted = max(SECONDS_BETWEEN_QUESTIONS, question_seconds / MAX_QUESTION_SHARE)
        wanted = min(wanted, MAX_SECONDS_BETWEEN_QUESTIONS)
        steps = max(round(wanted / step_seconds), 1)
        self.interval = steps * step_seconds
        self._last_step, self._last_time = step, now
        new = notice is not None and notice != self._notice
        if notice is not None and new:
            assumed = now + NO_DEADLINE_SECONDS
            given = assumed if notice.deadline_ms is None else notice.deadline_ms / 1000
            self._notice, self.deadline = notice, min(self.deadline, given)
        # If this is not the last checkpoint, the last one is begun after the next question.
        needed = self.interval + checkpoint_seconds * (2 if new else 1) + RESERVE_SECONDS
        last = stop or now + needed > self.deadline
        return Decision(save=new or last, hold=last, next_step=step + steps)


class Interruptions:
    """What a training process does about notices and stops; nothing, unless one comes.

    Args:
        stop: handle of the driver's ``StopSignal``, None if there is none.
        journal: of the run; is told of notices.
        rank: of this process.
        step: number of steps done.
    """

    def __init__(self, stop: Any, journal: Journal, rank: int, step: int) -> None:
        self._stop, self._journal, self._rank = stop, journal, rank
        self._stop_requested = stop.wait_requested.remote() if stop is not None else None
        self._planner = Planner(step)
        self._next_step, self._first_step = step + 1, step
        self._question_seconds = 0.0
        self._checkpoint_seconds = 0.0
        self._notice: PreemptionInfo | None = None
        self._expected = -1.0
        self._expect(0.0)

    def after_step(self, step: int, save: Callable[[], None]) -> None:
        """Ask, if it is time to; save a checkpoint and wait for the end, if one has to. Call it on all ranks.

        Args:
            step: number of steps done.
            save: has a checkpoint of this step stored, on all ranks.
        """
        if step < self._next_step:
            return
        begin = time.perf_counter()
        notice = ray.train.get_preemption_info()
        decision = None
        if self._rank == 0:
            decision = self._planner.decide(
                step,
                notice,
                stop=self._is_stop_requested(),
                question_seconds=self._question_seconds,
                checkpoint_seconds=self.checkpoint_seconds,
            )
        if ray.train.get_context().get_world_size() > 1:
            decision = ray.train.collective.broadcast_from_rank_zero(decision)
        assert decision is not None  # rank 0 has made one
        # The shortest: the others have waited for a rank that was late, which the next step would have done.
        seconds = time.perf_counter() - begin
        self._question_seconds = min(self._question_seconds or seconds, seconds)
        self._next_step = decision.next_step
        if self._rank == 0:
            self._note(notice)
            self._expect(2 * self._planner.interval + self.checkpoint_seconds + RESERVE_SECONDS)
        if decision.save and step > self._first_step:
            logger.info("rank %d: a checkpoint of step %d because of a notice or a stop", self._rank, step)
            with self.saving():
                save()
        if decision.hold:
            self._hold(step)

    @property
    def checkpoint_seconds(self) -> float:
        return self._checkpoint_seconds or UNKNOWN_CHECKPOINT_SECONDS

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure how long a checkpoint takes."""
        begin = time.perf_counter()
        yield
        self._checkpoint_seconds = max(self._checkpoint_seconds, time.perf_counter() - begin)

    def urgent(self, seconds: float = 0.0) -> bool:
        """Whether a checkpoint comes before other work of so many seconds; for this rank alone.

        Args:
            seconds: how long the work takes that can be left for later.
        """
        if self._is_stop_requested():
            return True
        notice = notice_of_this_process()
        if notice is None:
            return False
        if notice.deadline_ms is None:
            return True
        done = time.time() + seconds + self.checkpoint_seconds + RESERVE_SECONDS
        return bool(done > notice.deadline_ms / 1000)

    def close(self) -> None:
        """The last step is made, and its checkpoint saved: a stop need not wait any more."""
        self._expect(0.0)
        milliseconds = 1000 * self._question_seconds
        logger.info("rank %d: asking for notices took %.1f ms each time", self._rank, milliseconds)
        if self._rank == 0 and self._is_stop_requested():
            self._stop.confirm.remote()

    def _is_stop_requested(self) -> bool:
        if self._stop_requested is None or not ray.wait([self._stop_requested], timeout=0)[0]:
            return False
        try:
            ray.get(self._stop_requested)
        except ray.exceptions.RayError:
            logger.warning("rank %d: the driver can ask for no checkpoint", self._rank, exc_info=True)
            self._stop_requested = None
            return False
        return True

    def _expect(self, seconds: float) -> None:
        """Tell the driver how long it takes until a checkpoint is saved, if that has changed by a second."""
        changed = abs(seconds - self._expected) > 1 or not seconds
        if self._rank == 0 and self._stop is not None and changed:
            self._stop.expect.remote(seconds)
            self._expected = seconds

    def _note(self, notice: PreemptionInfo | None) -> None:
        if notice is None or notice == self._notice:
            return
        self._notice = notice
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        nodes = [
            {"id": node, "address": addresses.get(node, node), "ranks": ranks}
            for node, ranks in sorted(notice.preempted_node_to_ranks.items())
        ]
        deadline = notice.deadline_ms
        seconds = None if deadline is None else round(deadline / 1000 - time.time())
        logger.warning("notice of %s, in %s s", nodes, seconds)
        self._journal.add("notice", nodes=nodes, seconds=seconds)

    def _hold(self, step: int) -> None:
        """Make no further step, until Ray Train or the driver ends this process.

        To raise would count as a failure of the training, to return would end it as finished.

        Raises:
            RuntimeError: nobody has ended it.
        """
        logger.info("rank %d: waiting for the end after step %d", self._rank, step)
        self._journal.flush()
        begin, confirmed = time.monotonic(), False
        while time.monotonic() < begin + MAX_HOLD_SECONDS:
            # Also if the user stops a training that waits because of a notice.
            if self._rank == 0 and not confirmed and self._is_stop_requested():
                self._stop.confirm.remote()
                confirmed = True
            time.sleep(0.2)
        raise RuntimeError(f"nobody has ended this process, which waits since step {step}")


def notice_of_this_process() -> PreemptionInfo | None:
    """The notice that this process knows, without asking the other ranks; None if there is none.

    The public ``ray.train.get_preemption_info`` waits for all ranks, which a validation must not: one rank
    may have left it. If Ray renames what is read here, a validation is not left because of a notice.
    """
    try:
        from ray.train.v2._internal.execution.context import get_train_context

        return get_train_context().preemption_context.preemption_info
    except (ImportError, AttributeError, RuntimeError):
        logger.debug("this Ray does not tell a process of a notice", exc_info=True)
        return None
