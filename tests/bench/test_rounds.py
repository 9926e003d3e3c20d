"""Timing in turns."""

from __future__ import annotations

import pytest

from mipnet.bench.rounds import measured, table, time_interleaved


class Drift:
    """A clock on a machine that becomes slower all the time: every round costs more than the one before."""

    def __init__(self) -> None:
        self.now, self.pace, self.order = 0.0, 1.0, ""

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float) -> float:
        self.order += name
        self.now += seconds * self.pace
        self.pace *= 1.1
        return 6.0


def test_ratios_are_of_the_same_round_and_orders_alternate() -> None:
    clock = Drift()
    ways = {"plain": lambda: clock.work("p", 3), "fast": lambda: clock.work("f", 1)}
    plain, fast = time_interleaved(ways, "plain", rounds=4, clock=clock)
    assert clock.order == "pffppffppf"
    assert plain.ratios == (1.0,) * 4
    # Rounds in which the fast way comes first flatter it by 10 %, the others do the opposite.
    assert fast.ratios == pytest.approx((3.3, 3 / 1.1, 3.3, 3 / 1.1))
    assert fast.ratio == pytest.approx((3.3 + 3 / 1.1) / 2)
    assert len(fast.rates) == 4  # the warm-up is not counted


def test_table_and_measurement_say_the_same() -> None:
    clock = Drift()
    timings = time_interleaved(
        {"plain": lambda: clock.work("p", 2), "fast way": lambda: clock.work("f", 1)},
        "plain",
        2,
        clock=clock,
    )
    header, plain, fast = table(timings, "samples").splitlines()
    assert "samples/s" in header
    assert "x 1.00" in plain
    assert f"x {timings[1].ratio:.2f}" in fast
    found = measured("stream", timings, {"machine": "here"})
    assert found["benchmark"] == "stream"
    assert found["machine"] == "here"
    assert found["ways"]["fast way"]["ratios"] == list(timings[1].ratios)
