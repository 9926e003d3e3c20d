"""Asynchronous successive halving (ASHA) with promotion from checkpoints.

Every point is trained to the first rung. As soon as a rung has ``keep`` points, its best 1/keep are trained
on to the next rung from their checkpoints. Without halving there is one rung, the whole training.

Ray's ASHAScheduler stops running trials: what it stops too early is lost, and its rungs end with its process.
``TrialScheduler`` derives all decisions from the scores in the trials' folders instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tune.samplers import Observation, Sampler
from tune.search_space import Point

MIN_OCCLUSION_AP = 0.01
"""An occlusion AP below this is chance and counts as 0."""


class Score(NamedTuple):
    """The result of a training.

    Attributes:
        ap: occlusion AP on the validation split, 0 to 1.
        loss: of λ = 0, which all networks have, mean over the last epoch; breaks ties of AP, as between
            networks that do not find people yet.
    """

    ap: float
    loss: float

    @property
    def rank_key(self) -> tuple[float, float]:
        """Larger is better."""
        return self.ap if self.ap >= MIN_OCCLUSION_AP else 0.0, -self.loss


def mean_score(scores: Sequence[Score]) -> Score:
    """Mean of AP and of loss."""
    return Score(*(sum(column) / len(scores) for column in zip(*scores, strict=True)))


@dataclass
class Trial:
    """One training: a point and a seed.

    Attributes:
        point, seed: what is trained.
        number: of the point, in the order of the sampler's proposals.
        target_epochs: epochs to train to; the current rung.
        scores: epochs -> score after them.
        failed: the reason for which it ended before ``target_epochs``; empty if it did not fail.
    """

    point: Point
    seed: int
    number: int
    target_epochs: int
    scores: Mapping[int, Score] = field(default_factory=dict)
    failed: str = ""

    @property
    def name(self) -> str:
        return f"{self.point.name}-s{self.seed}"

    @property
    def done(self) -> bool:
        """It failed, or was trained to ``target_epochs``."""
        return bool(self.failed) or any(epochs >= self.target_epochs for epochs in self.scores)

    def score_at(self, epochs: int) -> Score | None:
        """The score at ``epochs`` or, from a search with other rungs, at the next larger number of epochs."""
        known = [e for e in self.scores if e >= epochs]
        return self.scores[min(known)] if known else None


class TrialScheduler:
    """All trials of a search, and which one to train next.

    Args:
        trials: those that exist already.
        sampler: proposes the next point.
        cost: multiply-adds of a point's network, for one crop.
        seeds: every point is trained with each of them.
        rungs: epochs, ascending; the last is the whole training.
        keep: 1/keep of the points of a rung are promoted to the next one.
    """

    def __init__(
        self,
        trials: Iterable[Trial],
        sampler: Sampler,
        *,
        cost: Callable[[Point], float],
        seeds: Sequence[int],
        rungs: Sequence[int],
        keep: int = 3,
    ) -> None:
        self.trials: dict[Point, dict[int, Trial]] = {}
        for trial in sorted(trials, key=lambda t: t.number):
            trial.target_epochs = next((rung for rung in rungs if rung >= trial.target_epochs), rungs[-1])
            self.trials.setdefault(trial.point, {})[trial.seed] = trial
        self.sampler, self.cost, self.seeds, self.rungs, self.keep = sampler, cost, seeds, rungs, keep
        self.running: set[str] = set()

    @property
    def num_done(self) -> int:
        """Trials that failed or reached their rung, and do not run now."""
        trials = (trial for by_seed in self.trials.values() for trial in by_seed.values())
        return sum(trial.done and trial.name not in self.running for trial in trials)

    def next_trial(self) -> Trial | None:
        """The trial to train next, to its ``target_epochs``.

        None: there is none until a running trial ends; if none runs, the search is finished.
        """
        trial = self._pending_trial() or self._promoted_trial() or self._new_trial() or self._last_promotion()
        if trial is not None:
            self.running.add(trial.name)
        return trial

    def on_trial_end(self, trial: Trial) -> None:
        """Take over the result of a training, a score or a failure."""
        self.running.discard(trial.name)
        self.trials[trial.point][trial.seed] = trial

    def _pending_trial(self) -> Trial | None:
        """A trial that was started and did not end, or a missing seed of a point."""
        for point, by_seed in self.trials.items():
            target_epochs = self._target_epochs(point)
            number = next(iter(by_seed.values())).number
            for seed in self.seeds:
                trial = by_seed.setdefault(seed, Trial(point, seed, number, target_epochs))
                trial.target_epochs = target_epochs
                if not trial.done and trial.name not in self.running:
                    return trial
        return None

    def _promoted_trial(self) -> Trial | None:
        """A trial of one of the best points of a rung, higher rungs first."""
        for rung in reversed(self.rungs[:-1]):
            scored = [point for point in self.trials if self.score(point, rung)]
            best = sorted(scored, key=lambda point: self._rank_key(point, rung), reverse=True)
            for point in best[: len(scored) // self.keep]:
                if self._target_epochs(point) == rung:
                    return self._promote(point)
        return None

    def _new_trial(self) -> Trial | None:
        """The first seed of a new point."""
        observed = [Observation(point, self._observed_ap(point), self.cost(point)) for point in self.trials]
        point = self.sampler(observed)
        if point is None:
            return None
        self.trials[point] = {self.seeds[0]: Trial(point, self.seeds[0], len(self.trials), self.rungs[0])}
        return self.trials[point][self.seeds[0]]

    def _last_promotion(self) -> Trial | None:
        """Promote the best point if no more points come and no rung has ``keep`` of them.

        Otherwise a small search would end without any whole training.
        """
        if self.running or any(self.score(point, self.rungs[-1]) for point in self.trials):
            return None
        targets = {point: self._target_epochs(point) for point in self.trials}
        waiting = [p for p in self.trials if targets[p] < self.rungs[-1] and self.score(p, targets[p])]
        if not waiting:
            return None
        return self._promote(max(waiting, key=lambda p: (targets[p], self._rank_key(p, targets[p]))))

    def _promote(self, point: Point) -> Trial | None:
        higher = next(rung for rung in self.rungs if rung > self._target_epochs(point))
        for trial in self.trials[point].values():
            trial.target_epochs = higher
        return self._pending_trial()

    def _target_epochs(self, point: Point) -> int:
        return max(trial.target_epochs for trial in self.trials[point].values())

    def _rank_key(self, point: Point, rung: int) -> tuple[float, ...]:
        """Larger is better; of equal scores the cheaper network is better."""
        score = self.score(point, rung)
        assert score is not None
        return *score.rank_key, -self.cost(point)

    def score(self, point: Point, rung: int) -> Score | None:
        """Mean score at a rung over the seeds that did not fail; None if one is missing or all failed."""
        trials = self.trials[point]
        if any(seed not in trials for seed in self.seeds):
            return None
        scores = [score for trial in trials.values() if (score := trial.score_at(rung))]
        missing = [trial for trial in trials.values() if not trial.score_at(rung) and not trial.failed]
        return mean_score(scores) if scores and not missing else None

    def _observed_ap(self, point: Point) -> float | None:
        """AP at the highest rung that has a score, nan if all trainings failed, None if there is none yet."""
        if all(trial.failed for trial in self.trials[point].values()):
            return math.nan
        scores = [score for rung in self.rungs if (score := self.score(point, rung))]
        return scores[-1].ap if scores else None
