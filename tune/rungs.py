"""Which training comes next. Successive halving with promotion (ASHA), on notes of what was trained so far.

A configuration trains to the first rung; the best third of a rung goes on to the next one from its
checkpoints, as soon as a third can be told. (Ray's scheduler of that name stops trainings instead: what it
stopped too early is lost, and what it knows ends with its process.) Without halving there is one rung.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tune.samplers import Sampler, Tried
from tune.spaces import Point

FOUND = 0.01
"""Occlusion AP from which on a network finds people: below it the figure is luck, and taken as none."""


class Score(NamedTuple):
    """What a training is judged by.

    Attributes:
        ap: occlusion AP on the split that is tuned on, 0 to 1.
        loss: of λ = 0, which all networks have, over the last epoch; decides where AP does not, as between
            networks that find nobody yet.
    """

    ap: float
    loss: float

    @property
    def order(self) -> tuple[float, float]:
        """Larger is better."""
        return self.ap if self.ap >= FOUND else 0.0, -self.loss


def mean_score(scores: Sequence[Score]) -> Score:
    return Score(*(sum(column) / len(scores) for column in zip(*scores, strict=True)))


@dataclass
class Trial:
    """One training: a point and a seed.

    Attributes:
        point, seed: what.
        number: of the point, in the order in which they were proposed.
        until: how many epochs it was asked for.
        scores: epochs trained -> score there.
        failed: why it ended before that, for good.
    """

    point: Point
    seed: int
    number: int
    until: int
    scores: Mapping[int, Score] = field(default_factory=dict)
    failed: str = ""

    @property
    def name(self) -> str:
        return f"{self.point.name}-s{self.seed}"

    @property
    def done(self) -> bool:
        return bool(self.failed) or any(epochs >= self.until for epochs in self.scores)

    def at(self, epochs: int) -> Score | None:
        """The score when so many epochs were trained; of a search with other rungs, the next one known."""
        known = [e for e in self.scores if e >= epochs]
        return self.scores[min(known)] if known else None


class Board:
    """All trials of a search, and what is to be done next.

    Args:
        trials: that there are already.
        propose: the next point.
        cost: multiply-adds of a point's network.
        seeds: to train every point with.
        rungs: epochs, rising; the last is the whole training.
        keep: one in so many goes on to the next rung.
    """

    def __init__(
        self,
        trials: Iterable[Trial],
        propose: Sampler,
        cost: Callable[[Point], float],
        seeds: Sequence[int],
        rungs: Sequence[int],
        keep: int = 3,
    ) -> None:
        self.trials: dict[Point, dict[int, Trial]] = {}
        for trial in sorted(trials, key=lambda t: t.number):
            trial.until = next((rung for rung in rungs if rung >= trial.until), rungs[-1])
            self.trials.setdefault(trial.point, {})[trial.seed] = trial
        self.propose, self.cost, self.seeds, self.rungs, self.keep = propose, cost, seeds, rungs, keep
        self.running: set[str] = set()

    def next(self) -> Trial | None:
        """The trial to train next, to its ``until``; None: none for now, and none at all if none runs."""
        trial = self._started() or self._promoted() or self._fresh() or self._last_promoted()
        if trial is not None:
            self.running.add(trial.name)
        return trial

    def ended(self, trial: Trial) -> None:
        """A trial is over, for now or for good; it says itself how."""
        self.running.discard(trial.name)
        self.trials[trial.point][trial.seed] = trial

    def _started(self) -> Trial | None:
        """What was begun and not ended, and seeds that are missing."""
        for point, seeds in self.trials.items():
            until = max(trial.until for trial in seeds.values())
            number = next(iter(seeds.values())).number
            for seed in self.seeds:
                trial = seeds.setdefault(seed, Trial(point, seed, number, until))
                trial.until = until
                if not trial.done and trial.name not in self.running:
                    return trial
        return None

    def _promoted(self) -> Trial | None:
        """One of the best of a rung, the higher rungs first."""
        for rung in reversed(self.rungs[:-1]):
            here = [point for point in self.trials if self.score(point, rung)]
            best = sorted(here, key=lambda point: self._order(point, rung), reverse=True)
            for point in best[: len(here) // self.keep]:
                if self._until(point) == rung:
                    return self._promote(point)
        return None

    def _fresh(self) -> Trial | None:
        """A point that was not tried."""
        point = self.propose([Tried(point, self._known(point), self.cost(point)) for point in self.trials])
        if point is None:
            return None
        self.trials[point] = {self.seeds[0]: Trial(point, self.seeds[0], len(self.trials), self.rungs[0])}
        return self.trials[point][self.seeds[0]]

    def _last_promoted(self) -> Trial | None:
        """When all rungs are full and too small for their best third: somebody has to reach the end."""
        if self.running or any(self.score(point, self.rungs[-1]) for point in self.trials):
            return None
        waiting = [
            p for p in self.trials if self._until(p) < self.rungs[-1] and self.score(p, self._until(p))
        ]
        if not waiting:
            return None
        return self._promote(max(waiting, key=lambda p: (self._until(p), self._order(p, self._until(p)))))

    def _promote(self, point: Point) -> Trial | None:
        higher = next(rung for rung in self.rungs if rung > self._until(point))
        for trial in self.trials[point].values():
            trial.until = higher
        return self._started()

    def _until(self, point: Point) -> int:
        return max(trial.until for trial in self.trials[point].values())

    def _order(self, point: Point, rung: int) -> tuple[float, ...]:
        score = self.score(point, rung)
        assert score is not None
        return *score.order, -self.cost(point)

    def score(self, point: Point, rung: int) -> Score | None:
        """The mean over seeds at a rung, when all of them are there or failed; None if none is."""
        trials = self.trials[point]
        if any(seed not in trials for seed in self.seeds):
            return None
        found = [score for trial in trials.values() if (score := trial.at(rung))]
        missing = [trial for trial in trials.values() if not trial.at(rung) and not trial.failed]
        return mean_score(found) if found and not missing else None

    def _known(self, point: Point) -> float | None:
        """For the sampler: the score at the highest rung that it reached, nan if all trainings failed."""
        if all(trial.failed for trial in self.trials[point].values()):
            return math.nan
        scores = [score for rung in self.rungs if (score := self.score(point, rung))]
        return scores[-1].ap if scores else None
