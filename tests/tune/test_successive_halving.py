"""The trial scheduler: the next trial alone, after a kill, with several at once and after failures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mipnet.config import Config
from tune.samplers import make_sampler
from tune.search_space import Point, named_space, space_from_values
from tune.successive_halving import Score, Trial, TrialScheduler

Outcome = Callable[[Trial], Score | None]
"""What a training comes to; None: it fails."""


def by_places(trial: Trial) -> Score:
    """More epochs are better, and more places too."""
    return Score(0.01 * trial.target_epochs + 0.1 * len(trial.point.places), 0.02)


class Search:
    """A search whose trainings take no time: scheduler, notes and trainings."""

    def __init__(self, config: Config, rungs: list[int], seeds: int = 1, keep: int = 3, values=None) -> None:
        space = space_from_values(values, config, "file") if values else named_space("placement", config)
        self.sampler = make_sampler("grid", space, config, 0)
        self.arguments = {
            "cost": lambda point: 1e6 * sum(point.places),
            "seeds": list(range(seeds)),
            "rungs": rungs,
            "keep": keep,
        }
        self.notes: dict[str, Trial] = {}
        self.jobs: list[tuple[str, int]] = []
        self.restart()

    def restart(self) -> None:
        """All that the process knew is gone."""
        trials = [replace(trial) for trial in self.notes.values()]
        self.scheduler = TrialScheduler(trials, self.sampler, **self.arguments)

    def start(self) -> Trial | None:
        trial = self.scheduler.next_trial()
        if trial is not None:
            self.notes[trial.name] = replace(trial)
        return trial

    def end(self, trial: Trial, outcome: Outcome) -> None:
        score = outcome(trial)
        self.jobs.append((trial.name, trial.target_epochs))
        if score is None:
            done = replace(trial, failed="broken")
        else:
            done = replace(trial, scores={**trial.scores, trial.target_epochs: score})
        self.notes[trial.name] = done
        self.scheduler.on_trial_end(replace(done))

    def run(self, outcome: Outcome, at_once: int = 1, kill_after: frozenset[int] = frozenset()) -> None:
        """To the end; after so many trainings everything that runs is lost."""
        running: list[Trial] = []
        while True:
            while len(running) < at_once and (trial := self.start()) is not None:
                assert trial.name not in [t.name for t in running]
                running.append(trial)
            if not running:
                return
            self.end(running.pop(0), outcome)
            if len(self.jobs) in kill_after:
                running = []
                self.restart()

    def reached(self, epochs: int) -> set[str]:
        return {name for name, trial in self.notes.items() if epochs in trial.scores}


def test_without_halving_everything_is_trained_once(debug: Config) -> None:
    search = Search(debug, [3], seeds=2)
    search.run(by_places)
    assert len(search.jobs) == len(set(search.jobs)) == 14
    assert [trial.number for trial in search.notes.values()] == [n for n in range(7) for _ in range(2)]


def test_halving_promotes_the_best_third_from_where_it_stands(debug: Config) -> None:
    search = Search(debug, [1, 3, 9])
    search.run(by_places)
    assert len(search.reached(1)) == 7
    assert search.reached(3) == {f"n2-p{places}-r4-lr0.005-s0" for places in ("1", "1.2", "1.3", "1.2.3")}
    assert search.reached(9) == {f"n2-p{places}-r4-lr0.005-s0" for places in ("1.2", "1.2.3")}
    best = search.notes["n2-p1.2.3-r4-lr0.005-s0"]
    assert sorted(best.scores) == [1, 3, 9]  # one trial, trained on


def test_a_trial_is_promoted_as_soon_as_a_third_can_be_told(debug: Config) -> None:
    search = Search(debug, [1, 3])
    search.run(lambda trial: Score(0.1 / trial.number if trial.number else 0.5, 0.0))
    assert [until for _, until in search.jobs].index(3) == 3  # after three at the first rung
    assert search.jobs[3][0] == "n2-p1-r4-lr0.005-s0"


def test_equal_scores_are_told_apart_by_loss_then_by_cost(debug: Config) -> None:
    def outcome(trial: Trial) -> Score:
        return Score(0.0, 0.01 if trial.point.places in ((3,), (1, 2)) else 0.02)

    search = Search(debug, [1, 9], keep=7)
    search.run(outcome)
    assert search.reached(9) == {"n2-p3-r4-lr0.005-s0"}  # (1, 2) costs the same 3e6; the first one stays


def test_a_failed_trial_is_neither_repeated_nor_the_end(debug: Config) -> None:
    search = Search(debug, [1, 3], seeds=2)

    def outcome(trial: Trial) -> Score | None:
        broken = trial.point.places == (2,) or (trial.point.places == (1, 2, 3) and trial.target_epochs == 3)
        return None if broken else by_places(trial)

    search.run(outcome)
    assert len(search.jobs) == len(set(search.jobs))
    assert {t.failed for t in search.notes.values() if t.point.places == (2,)} == {"broken"}
    assert search.reached(3)  # somebody else came to the end
    search.restart()
    assert search.scheduler.next_trial() is None


def test_more_seeds_and_trials_extend_a_search(debug: Config) -> None:
    search = Search(debug, [3])
    search.sampler = make_sampler("grid", named_space("placement", debug), debug, 2)
    search.restart()
    search.run(by_places)
    assert len(search.jobs) == 2
    search.arguments["seeds"] = [0, 1]
    search.sampler = make_sampler("grid", named_space("placement", debug), debug, 3)
    search.restart()
    search.run(by_places)
    assert len(search.jobs) == len(set(search.jobs)) == 6


def test_a_mean_waits_for_all_seeds(debug: Config) -> None:
    search = Search(debug, [1, 3], seeds=3)
    point = Point(2, (1,), 4, 5e-3)
    for expected in (None, None, pytest.approx(0.2)):
        trial = search.start()
        assert trial is not None
        assert trial.point == point
        search.end(trial, lambda t: Score(0.1 * (t.seed + 1), 0.0))
        score = search.scheduler.score(point, 1)
        assert (score and score.ap) == expected


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.integers(0, 3), min_size=7, max_size=7),
    broken=st.sets(st.integers(0, 6), max_size=3),
    at_once=st.integers(1, 4),
    kills=st.frozensets(st.integers(1, 20), max_size=4),
    seeds=st.integers(1, 2),
    rungs=st.sampled_from([[9], [1, 9], [1, 3, 9], [2, 4, 8, 9]]),
)
def test_no_trial_is_lost_or_repeated_however_often_a_search_is_killed(
    debug: Config, scores, broken, at_once, kills, seeds, rungs
) -> None:
    def outcome(trial: Trial) -> Score | None:
        if trial.number in broken and trial.target_epochs == rungs[-1]:
            return None
        return Score(scores[trial.number] / 10, 0.0)

    search = Search(debug, rungs, seeds)
    search.run(outcome, at_once, kills)
    assert len(search.jobs) == len(set(search.jobs))  # what was noted is never trained again
    assert len(search.notes) == 7 * seeds
    for trial in search.notes.values():
        assert trial.done
    if len(broken) < 3 or len(rungs) == 1:
        assert search.reached(rungs[-1])
    search.restart()
    assert search.scheduler.next_trial() is None


@settings(max_examples=30, deadline=None)
@given(kills=st.frozensets(st.integers(1, 12), max_size=4), rungs=st.sampled_from([[9], [1, 3, 9]]))
def test_one_at_a_time_a_killed_search_ends_as_the_one_that_was_not(debug: Config, kills, rungs) -> None:
    whole, cut = Search(debug, rungs), Search(debug, rungs)
    whole.run(by_places)
    cut.run(by_places, kill_after=kills)
    assert cut.jobs == whole.jobs
    assert cut.notes == whole.notes
