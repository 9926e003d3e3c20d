"""SampleSchedule: every sample once per epoch, independent of the start."""

from __future__ import annotations

import numpy as np
import pytest

from mipnet.data.sample_schedule import SampleSchedule, sample_rng


def schedule(counts=(3, 1, 4, 1, 5), batch_size=4, window_batches=2, epochs=3, seed=0) -> SampleSchedule:
    return SampleSchedule(np.concatenate([[0], np.cumsum(counts)]), seed, epochs, batch_size, window_batches)


def sequence(p: SampleSchedule) -> tuple[np.ndarray, np.ndarray]:
    parts = [p.samples(w) for w in range(p.num_windows)]
    return np.concatenate([e for e, *_ in parts]), np.concatenate([s for _, _, s, _ in parts])


@pytest.mark.parametrize(("batch_size", "window_batches"), [(4, 2), (1, 1), (16, 3), (5, 100)])
def test_each_sample_comes_once_per_epoch(batch_size, window_batches):
    p = schedule(batch_size=batch_size, window_batches=window_batches)
    epochs, samples = sequence(p)
    assert len(samples) == p.total_steps * batch_size
    for epoch in range(3):
        assert sorted(samples[epochs == epoch]) == list(range(14))
    extra = samples[epochs >= 3]  # the last batch is filled from what would come next
    assert len(extra) == p.total_steps * batch_size - 3 * 14


def test_people_of_an_image_stay_together_and_epochs_differ():
    p = schedule(batch_size=14, window_batches=1)
    first, second = p.samples(0), p.samples(1)
    assert (np.diff(first[1]) != 0).sum() == 4  # five images, each in one run
    assert not np.array_equal(first[1], second[1])
    assert not np.array_equal(first[3], second[3])


def test_window_position_shuffles_the_whole_window():
    p = schedule(counts=[2] * 50, batch_size=10, window_batches=4)
    *_, window_position = p.samples(0)
    assert sorted(window_position) == list(range(40))
    assert np.abs(np.diff(window_position)[::2]).mean() > 5  # an image's two people do not stay neighbours


def test_the_image_of_a_sample_is_the_one_that_holds_it():
    p = schedule()
    for window in range(p.num_windows):
        _, image, sample, _ = p.samples(window)
        assert (p.image_offsets[image] <= sample).all()
        assert (sample < p.image_offsets[image + 1]).all()


def test_seed_changes_the_order():
    assert not np.array_equal(sequence(schedule(seed=0))[1], sequence(schedule(seed=1))[1])


def test_a_window_does_not_depend_on_what_was_asked_before():
    p = schedule()
    late = p.samples(3)
    sequence(p)
    assert all(np.array_equal(a, b) for a, b in zip(late, p.samples(3), strict=True))


def test_sample_rng_separates_seed_epoch_and_sample():
    draws = {sample_rng(*key).random() for key in [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0)]}
    assert len(draws) == 4
    assert sample_rng(3, 4, 5).random() == sample_rng(3, 4, 5).random()


@pytest.mark.parametrize(
    ("batch_size", "ranks", "sizes"),
    [
        (16, 3, [6, 5, 5]),
        (16, 4, [4, 4, 4, 4]),
        (7, 7, [1] * 7),
        (15, 8, [2] * 7 + [1]),
        (5, 1, [5]),
    ],
)
def test_shares_differ_by_one_sample_at_most(batch_size, ranks, sizes):
    p = schedule(batch_size=batch_size)
    shares = p.shares(ranks)
    assert [len(share) for share in shares] == sizes
    assert [position for share in shares for position in share] == list(range(batch_size))
    assert p.rows_per_step(ranks) == max(sizes)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
def test_rank_rows_give_each_rank_its_share_of_every_step_in_the_order_of_one_rank(ranks):
    p = schedule(counts=[2] * 50, batch_size=5, window_batches=3)
    rows_per_step = p.rows_per_step(ranks)
    for window in range(p.num_windows):
        _, _, sample, position = p.samples(window)
        rows = np.full(ranks * p.window_batches * rows_per_step, -1)
        rows[p.rank_rows(position, ranks)] = sample
        parts = rows.reshape(ranks, p.window_batches, rows_per_step)
        for step in range(len(p.steps(window))):
            batch = np.concatenate([parts[r, step, : len(share)] for r, share in enumerate(p.shares(ranks))])
            assert np.array_equal(batch, sample[np.argsort(position)][step * 5 : step * 5 + 5])
        assert (rows >= 0).sum() == len(sample)


def test_rows_of_equal_shares_are_those_of_earlier_versions():
    p = schedule(batch_size=4, window_batches=2)
    position = p.samples(0)[3]
    step, place = np.divmod(position, 4)
    rank, local = np.divmod(place, 2)
    assert np.array_equal(p.rank_rows(position, 2), (rank * 2 + step) * 2 + local)
