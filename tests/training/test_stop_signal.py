"""SIGTERM and Ctrl-C wait for a checkpoint, if there is one to wait for, and then act as they did before."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.train.torch import TorchTrainer

from mipnet.host import Termination
from mipnet.training.stop_signal import InterruptHandler, checkpoint_before_interrupt, start_stop_signal
from mipnet.training.trainer import Trainer

pytestmark = pytest.mark.ray


@pytest.fixture
def stop(ray_session: Any) -> Iterator[Any]:
    actor = start_stop_signal()
    yield actor
    ray.kill(actor)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGTERM, Termination())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist's processes ignore it
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def interrupted(stop: Any, number: int) -> None:
    """Have a signal come while this thread waits for Ray, as it does in ``fit``."""

    @ray.remote(num_cpus=0)
    def never() -> None:
        threading.Event().wait()

    training = never.remote()
    threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
    with checkpoint_before_interrupt(stop), pytest.raises(KeyboardInterrupt):
        ray.get(training, timeout=60)
    ray.cancel(training, force=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_the_checkpoint(
    stop: Any, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    ray.get(stop.expect.remote(30.0))
    told = stop.wait_requested.remote()
    saved: list[float] = []

    def save() -> None:
        ray.get(told)
        saved.append(time.monotonic())
        ray.get(stop.confirm.remote())

    worker = threading.Thread(target=save)
    worker.start()
    interrupted(stop, number)
    worker.join()
    assert saved
    line = "stopping: saving a checkpoint, at most 30 s (once more: at once)"
    assert capsys.readouterr().out.splitlines() == [line]


def test_nothing_is_waited_for_where_nothing_can_be_saved(
    stop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the first step, for instance."""
    interrupted(stop, signal.SIGTERM)
    assert capsys.readouterr().out == ""


def test_a_checkpoint_that_does_not_come_is_waited_for_as_long_as_was_said(stop: Any) -> None:
    ray.get(stop.expect.remote(0.6))
    begin = time.monotonic()
    interrupted(stop, signal.SIGTERM)
    assert time.monotonic() - begin >= 0.6


def test_a_second_signal_ends_at_once(stop: Any) -> None:
    ray.get(stop.expect.remote(300.0))
    told = stop.wait_requested.remote()

    def again() -> None:
        ray.get(told)
        os.kill(os.getpid(), signal.SIGINT)

    second = threading.Thread(target=again)
    second.start()
    begin = time.monotonic()
    interrupted(stop, signal.SIGTERM)
    assert time.monotonic() - begin < 100
    second.join()


def test_a_lost_actor_delays_nothing(stop: Any) -> None:
    ray.kill(stop)
    with checkpoint_before_interrupt(stop), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


def test_the_handlers_are_as_before_afterwards(stop: Any) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    with checkpoint_before_interrupt(stop) as handler:
        assert isinstance(handler, InterruptHandler)
        signal.signal(signal.SIGINT, lambda number, frame: None)  # as Ray Train does
        handler.install(signal.SIGINT)
    assert [signal.getsignal(number) for number in numbers] == before
    with checkpoint_before_interrupt(None) as nothing:
        assert nothing is None


def test_an_ignored_signal_stays_ignored(stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with checkpoint_before_interrupt(stop):
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert isinstance(signal.getsignal(signal.SIGTERM), InterruptHandler)


def test_ctrl_c_comes_to_ours_before_it_comes_to_rays(stop: Any) -> None:
    """Fails as well if Ray renames what we override: then Ctrl-C would save no checkpoint."""
    trainer = Trainer(print)
    assert hasattr(TorchTrainer, "_register_sigint_handler")
    with checkpoint_before_interrupt(stop) as trainer.on_interrupt:
        trainer._register_sigint_handler(None)
        assert signal.getsignal(signal.SIGINT) is trainer.on_interrupt
