"""SIGTERM and Ctrl-C take a checkpoint first: the way from the driver to its training processes and back."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mipnet.console import say

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 2.0
"""For the actor to say how long a checkpoint takes; it does nothing else."""


class StopSignal:
    """Actor that carries the wish to stop to the training processes, and their answer back.

    A process that waits for something waits in a call of its own, so that nobody has to ask again and again.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._requested, self._saved = asyncio.Event(), asyncio.Event()

    async def expect(self, seconds: float) -> None:
        """Note how long it takes at most until a checkpoint is saved; 0: there is nothing to save."""
        self._seconds = seconds

    async def request(self) -> float:
        """Tell all who wait for it to save a checkpoint; returns the seconds of ``expect``."""
        self._requested.set()
        return self._seconds

    async def wait_requested(self) -> None:
        await self._requested.wait()

    async def confirm(self) -> None:
        """Tell the driver that the checkpoint is saved, and that no step is made after it."""
        self._saved.set()

    async def wait_saved(self) -> None:
        await self._saved.wait()


def start_stop_signal() -> Any:
    """A handle of a ``StopSignal`` on the driver's node; None outside of the main thread, which gets signals.

    Without a place Ray would choose one, also on a node that is about to be taken away.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(StopSignal).options(scheduling_strategy=here).remote()


class InterruptHandler:
    """A handler of signals: the first of them has a checkpoint saved; then each acts as it did before.

    Args:
        stop: handle of the ``StopSignal`` that the training processes know.
    """

    def __init__(self, stop: Any) -> None:
        self._stop, self._asked = stop, False
        self._before: dict[int, Any] = {}

    def install(self, number: int) -> None:
        """Handle the signal ``number``, and then do what its present handler does."""
        self._before[number] = signal.signal(number, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self._asked:
            self._asked = True
            self._wait_for_checkpoint()
        before = self._before[number]
        if callable(before):
            before(number, frame)

    def _wait_for_checkpoint(self) -> None:
        """Have one saved. A second signal interrupts the waiting: its handler raises."""
        try:
            seconds = ray.get(self._stop.request.remote(), timeout=ANSWER_SECONDS)
            if seconds:
                say(f"stopping: saving a checkpoint, at most {seconds:.0f} s (once more: at once)")
                saved, _ = ray.wait([self._stop.wait_saved.remote()], timeout=seconds)
                logger.info("the checkpoint %s", "is saved" if saved else "took too long")
        except ray.exceptions.RayError:  # the actor is lost, or too slow: stop as without it
            logger.warning("no checkpoint before the end", exc_info=True)


@contextmanager
def checkpoint_before_interrupt(stop: Any) -> Iterator[InterruptHandler | None]:
    """Have SIGTERM and Ctrl-C save a checkpoint first, for the time of the ``with`` block.

    Args:
        stop: of ``start_stop_signal``; None changes nothing.
    """
    if stop is None:
        yield None
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    handler = InterruptHandler(stop)
    for number, old in before.items():
        if old != signal.SIG_IGN:  # a shell ignores Ctrl-C for its background jobs
            handler.install(number)
    try:
        yield handler
    finally:
        for number, old in before.items():
            signal.signal(number, old)
