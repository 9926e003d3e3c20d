"""What the trials say: configurations ranked, AP against cost, the effect of N and of each place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

from mipnet.config import Config
from mipnet.run_folder import Run
from tune.records import TRIAL, network_costs
from tune.rungs import Score, Trial, mean_score
from tune.spaces import Point

FINISHED, STOPPED, FAILED, UNFINISHED = "finished", "stopped", "failed", "unfinished"
STATUSES = (FINISHED, STOPPED, UNFINISHED, FAILED)


@dataclass(frozen=True)
class Measure:
    """A figure of a score, as people see it."""

    field: str
    title: str
    scale: float
    digits: int
    sign: int  # 1: more is better

    def of(self, result: Result) -> float:
        return self.scale * getattr(result.score, self.field)

    def shown(self, value: float) -> str:
        return f"{value:.{self.digits}f}"

    def text(self, result: Result) -> str:
        return self.shown(self.of(result))


AP = Measure("ap", "occlusion AP", 100.0, 1, 1)
LOSS = Measure("loss", "loss (λ = 0)", 1.0, 4, -1)


@dataclass(frozen=True)
class Result:
    """One configuration over all of its seeds.

    Attributes:
        point, number: which, and when it was proposed.
        status: finished: trained to the end; stopped: not among the best of its rung; unfinished: the search
            is not over; failed: every seed is.
        epochs: trained by all seeds that did not fail.
        score: the mean over them, for ``discount`` and ``oks_nms``; None without any.
        error: standard error of its AP; nan with fewer than two seeds.
        discount, oks_nms: the pair with the best mean.
        cost, parameters: multiply-adds of one crop for all λ, and parameters.
        trials: the single trainings and their runs.
    """

    point: Point
    number: int
    status: str
    epochs: int
    score: Score | None
    error: float
    discount: float
    oks_nms: float
    cost: int
    parameters: int
    trials: tuple[tuple[Trial, Run], ...]

    @property
    def alive(self) -> list[tuple[Trial, Run]]:
        """Those of its trainings that did not fail."""
        return [(trial, run) for trial, run in self.trials if not trial.failed]

    @property
    def seconds(self) -> float:
        return sum(run.state.get("seconds", {}).get("training", 0.0) for _, run in self.trials)

    @property
    def order(self) -> tuple[float, ...]:
        """Smaller is better: the whole trainings by AP, then the longer ones; of equals the cheaper."""
        ap, loss = self.score.order if self.score else (-math.inf, -math.inf)
        return STATUSES.index(self.status), -self.epochs, -ap, -loss, self.cost, self.number


def rank(trials: Sequence[tuple[Trial, Run]], config: Config, over: bool = True) -> list[Result]:
    """All configurations, the best first.

    Args:
        trials: from ``read_trials``.
        config: what they share.
        over: the search is; what then trained less than the whole was stopped.
    """
    by_point: dict[Point, list[tuple[Trial, Run]]] = {}
    for trial, run in trials:
        by_point.setdefault(trial.point, []).append((trial, run))
    found = [result_of(point, group, config, over) for point, group in by_point.items()]
    return sorted(found, key=lambda result: result.order)


def result_of(point: Point, trials: Sequence[tuple[Trial, Run]], config: Config, over: bool) -> Result:
    alive = [(trial, run) for trial, run in trials if not trial.failed]
    epochs = min((max(trial.scores, default=0) for trial, _ in alive), default=0)
    whole = epochs >= config.train.epochs
    busy = any(not trial.done for trial, _ in alive)
    status = FAILED if not alive else FINISHED if whole else STOPPED if over and not busy else UNFINISHED
    pair = config.evaluation.discount, config.evaluation.oks_nms
    score, values = None, []
    if epochs:
        scores = [trial.scores[epochs] for trial, _ in alive if epochs in trial.scores]
        score, values = mean_score(scores), [score.ap for score in scores]
    if whole:
        pair, values = best_pair([run.state[TRIAL]["choices"] for _, run in alive], pair)
        assert score is not None
        score = Score(sum(values) / len(values), score.loss)
    cost, parameters = network_costs(point.applied(config, config.train.seed))
    number = trials[0][0].number
    error = standard_error(values)
    return Result(point, number, status, epochs, score, error, *pair, cost, parameters, tuple(trials))


def best_pair(
    choices: Sequence[Sequence[dict[str, Any]]], own: tuple[float, float] = (-1.0, -1.0)
) -> tuple[tuple[float, float], list[float]]:
    """The pair of γ and NMS threshold with the best mean over seeds, and the seeds' scores under it.

    Of equals it is ``own``, that of the configuration.
    """
    by_pair: dict[tuple[float, float], list[float]] = {}
    for of_seed in choices:
        for choice in of_seed:
            pair = choice["discount"], choice["oks_nms"]
            by_pair.setdefault(pair, []).append(choice["occlusion_AP"])
    most = max(map(len, by_pair.values()))  # a space may have grown between two seeds
    complete = {pair: values for pair, values in by_pair.items() if len(values) == most}
    return max(complete.items(), key=lambda item: (sum(item[1]), item[0] == own))


def standard_error(values: Sequence[float]) -> float:
    """Of the mean; nan for fewer than two values."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def finished(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result.status == FINISHED]


def cost_unit(results: Sequence[Result]) -> tuple[float, str]:
    """In which multiply-adds read well."""
    return (1e9, "10⁹") if max((r.cost for r in results), default=0) >= 1e9 else (1e6, "10⁶")


def measure_of(results: Sequence[Result]) -> Measure:
    """What ranks the whole trainings: AP, or the loss where AP says nothing or the same of all."""
    done = finished(results)
    return LOSS if len(done) > 1 and len({r.score.order[0] for r in done if r.score}) == 1 else AP


def pareto_front(results: Sequence[Result]) -> list[Result]:
    """The whole trainings that no cheaper one equals in the figure that ranks them; the cheapest first."""
    measure = measure_of(results)
    front: list[Result] = []
    for result in sorted(finished(results), key=lambda r: (r.cost, r.order)):
        if not front or measure.sign * (measure.of(result) - measure.of(front[-1])) > 0:
            front.append(result)
    return front


@dataclass(frozen=True)
class Effect:
    """What one choice does, as a mean over the whole trainings that made it.

    Attributes:
        name: of the choice.
        mean, error: of their measure as it is shown, and its standard error over them (nan for one).
        count: how many they are.
    """

    name: str
    mean: float
    error: float
    count: int


def effect(name: str, results: Sequence[Result], measure: Measure) -> Effect:
    values = [measure.of(r) for r in results]
    return Effect(name, sum(values) / len(values), standard_error(values), len(values))


def effects_of_instances(results: Sequence[Result]) -> list[Effect]:
    """For each N the mean over its configurations; nothing where there is one N."""
    done, measure = finished(results), measure_of(results)
    numbers = sorted({r.point.instances for r in done})
    found = [effect(f"N = {n}", [r for r in done if r.point.instances == n], measure) for n in numbers]
    return found if len(numbers) > 1 else []


def effects_of_places(results: Sequence[Result]) -> list[tuple[Effect, Effect]]:
    """For each place the mean of the configurations with a MIMB there, and of those without; N > 1 only."""
    done, measure = [r for r in finished(results) if r.point.places], measure_of(results)
    found = []
    for place in sorted({place for r in done for place in r.point.places}):
        there = [r for r in done if place in r.point.places]
        elsewhere = [r for r in done if place not in r.point.places]
        if elsewhere:
            name = f"place {place}"
            found.append((effect(name, there, measure), effect(name, elsewhere, measure)))
    return found
