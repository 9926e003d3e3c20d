"""Numbers, times and tables as people read them."""

from __future__ import annotations

import math

import pytest

from mipnet.formats import aligned, duration, gain, instance_mode_label, percent, short_duration


@pytest.mark.parametrize(
    ("seconds", "text", "short"),
    [
        (0.26, "0.3 s", "0.3 s"),
        (41.4, "41 s", "41 s"),
        (59.6, "1 min 00 s", "1 min 00 s"),
        (99.4, "1 min 39 s", "1 min 39 s"),
        (389, "6 min 29 s", "6 min"),
        (11100, "3 h 05 min", "3 h 05 min"),
    ],
)
def test_durations_read_well(seconds: float, text: str, short: str) -> None:
    assert duration(seconds) == text
    assert short_duration(seconds) == short


def test_shares_are_percentages_and_nobody_is_a_dash() -> None:
    assert [percent(share) for share in (0.5126, 0.0, 1.0)] == ["51.3", "0.0", "100.0"]
    assert [percent(share) for share in (None, math.nan)] == ["–", "–"]
    assert percent(math.nan, "-") == "-"


def test_gains_have_a_sign() -> None:
    assert [gain(change) for change in (0.0123, -0.0123)] == ["+1.2", "−1.2"]


def test_views_have_names() -> None:
    assert [instance_mode_label(instance_mode) for instance_mode in ("merged", "lambda1")] == [
        "merged",
        "λ = 1 alone",
    ]


def test_columns_stand_under_one_another() -> None:
    assert aligned([("split", "AP", "AR"), ("e", "9.1", "")], 1) == ["split   AP  AR", "e      9.1"]
