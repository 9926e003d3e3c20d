"""Rank the points of a search: AP against cost, the effects of N and of each place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import stdev
from typing import Any

from mipnet.config import Config
from tune.search_space import Point
from tune.successive_halving import Score, mean_score
from tune.trial_folders import TRIAL_KEY, TrialRun, network_costs

FINISHED, STOPPED, FAILED, UNFINISHED = "finished", "stopped", "failed", "unfinished"
STATUSES = (FINISHED, STOPPED, UNFINISHED, FAILED)
"""In the order in which they are ranked."""


@dataclass(frozen=True)
class RankingMetric:
    """AP or loss of a finished result, as the reports show it.

    Attributes:
        title: its name.
        of_score: takes it from a score.
        scale: the reports show the value times this.
        digits: after the decimal point.
        sign: 1 if larger is better, else -1.
    """

    title: str
    of_score: Callable[[Score], float]
    scale: float
    digits: int
    sign: int

    def of(self, result: PointResult) -> float:
        return self.scale * self.of_score(result.final_score)

    def format(self, value: float) -> str:
        return f"{value:.{self.digits}f}"

    def text(self, result: PointResult) -> str:
        return self.format(self.of(result))


OCCLUSION_AP = RankingMetric("occlusion AP", lambda score: score.ap, 100.0, 1, 1)
PRIMARY_LOSS = RankingMetric("loss (λ = 0)", lambda score: score.loss, 1.0, 4, -1)


@dataclass(frozen=True)
class PointResult:
    """One point, with all of its seeds.

    Attributes:
        point, number: the point, and its position in the order of proposals.
        status: finished: trained to the end; stopped: not promoted from its rung; unfinished: the search
            still goes on; failed: all seeds failed.
        epochs: trained by all seeds that did not fail.
        score: their mean, for ``discount`` and ``oks_nms``; None if none of them has one.
        error: standard error of the mean AP over seeds, 0 to 1; nan with fewer than two seeds.
        discount, oks_nms: the pair with the best mean AP.
        cost, parameters: multiply-adds of one crop for all λ; number of parameters.
        trials: the trainings and their runs.
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
    trials: tuple[TrialRun, ...]

    @property
    def final_score(self) -> Score:
        """``score`` of a finished result, which always has one."""
        assert self.score is not None
        return self.score

    @property
    def succeeded(self) -> list[TrialRun]:
        """The trainings that did not fail."""
        return [(trial, run) for trial, run in self.trials if not trial.failed]

    @property
    def seconds(self) -> float:
        """Training time of all seeds."""
        return float(sum(run.state.get("seconds", {}).get("training", 0.0) for _, run in self.trials))

    @property
    def rank_key(self) -> tuple[float, ...]:
        """Smaller is better: status, then longer trained, AP, loss, cheaper, proposed earlier."""
        ap, loss = self.score.rank_key if self.score else (-math.inf, -math.inf)
        return STATUSES.index(self.status), -self.epochs, -ap, -loss, self.cost, self.number


def rank_points(
    trials: Sequence[TrialRun], config: Config, search_finished: bool = True
) -> list[PointResult]:
    """All points of a search, the best first.

    Args:
        trials: from ``read_trials``.
        config: of all trials.
        search_finished: points that were not trained to the end are then stopped instead of unfinished.
    """
    by_point: dict[Point, list[TrialRun]] = {}
    for trial, run in trials:
        by_point.setdefault(trial.point, []).append((trial, run))
    results = [point_result(point, group, config, search_finished) for point, group in by_point.items()]
    return sorted(results, key=lambda result: result.rank_key)


def point_result(
    point: Point, trials: Sequence[TrialRun], config: Config, search_finished: bool
) -> PointResult:
    """The result of one point; arguments as for ``rank_points``."""
    succeeded = [(trial, run) for trial, run in trials if not trial.failed]
    epochs = min((max(trial.scores, default=0) for trial, _ in succeeded), default=0)
    status = FAILED if not succeeded else FINISHED if epochs >= config.train.epochs else UNFINISHED
    if status == UNFINISHED and search_finished and all(trial.done for trial, _ in succeeded):
        status = STOPPED
    pair = config.evaluation.discount, config.evaluation.oks_nms
    score, aps = None, []
    if epochs:
        scores = [trial.scores[epochs] for trial, _ in succeeded if epochs in trial.scores]
        score, aps = mean_score(scores), [score.ap for score in scores]
    if status == FINISHED and score:
        pair, aps = best_pair([run.state[TRIAL_KEY]["choices"] for _, run in succeeded], pair)
        score = Score(sum(aps) / len(aps), score.loss)
    cost, parameters = network_costs(point.apply_to(config, config.train.seed))
    number, error = trials[0][0].number, standard_error(aps)
    return PointResult(point, number, status, epochs, score, error, *pair, cost, parameters, tuple(trials))


def best_pair(
    choices: Sequence[Sequence[dict[str, Any]]], default: tuple[float, float] = (-1.0, -1.0)
) -> tuple[tuple[float, float], list[float]]:
    """The pair of γ and NMS threshold with the best mean AP over seeds.

    Args:
        choices: of each seed, as ``note_scores`` keeps them. Only pairs that most seeds have are compared,
            because the space may have grown between two seeds.
        default: preferred to other pairs with the same AP.

    Returns:
        the pair, and the AP of each seed with it, 0 to 1.
    """
    by_pair = aps_by_pair(choices)
    most = max(map(len, by_pair.values()))
    complete = {pair: values for pair, values in by_pair.items() if len(values) == most}
    return max(complete.items(), key=lambda item: (sum(item[1]), item[0] == default))


def aps_by_pair(choices: Sequence[Sequence[dict[str, Any]]]) -> dict[tuple[float, float], list[float]]:
    """Pair of γ and NMS threshold -> its AP for each seed that has it; ``choices`` as for ``best_pair``."""
    by_pair: dict[tuple[float, float], list[float]] = {}
    for choice in chain.from_iterable(choices):
        by_pair.setdefault((choice["discount"], choice["oks_nms"]), []).append(choice["occlusion_AP"])
    return by_pair


def standard_error(values: Sequence[float]) -> float:
    """Of the mean; nan for fewer than two values."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def finished_results(results: Sequence[PointResult]) -> list[PointResult]:
    """Those trained to the end."""
    return [result for result in results if result.status == FINISHED]


def cost_unit(results: Sequence[PointResult]) -> tuple[float, str]:
    """Unit of multiply-adds that suits all results: its value and its name."""
    return (1e9, "10⁹") if max((r.cost for r in results), default=0) >= 1e9 else (1e6, "10⁶")


def ranking_metric(results: Sequence[PointResult]) -> RankingMetric:
    """What ranks the finished results: AP, or the loss if AP is the same for all of them."""
    finished = finished_results(results)
    same_ap = len({r.final_score.rank_key[0] for r in finished}) == 1
    return PRIMARY_LOSS if len(finished) > 1 and same_ap else OCCLUSION_AP


def pareto_front(results: Sequence[PointResult]) -> list[PointResult]:
    """Finished results that are better in the ranking metric than all cheaper ones, cheapest first."""
    metric = ranking_metric(results)
    front: list[PointResult] = []
    for result in sorted(finished_results(results), key=lambda r: (r.cost, r.rank_key)):
        if not front or metric.sign * (metric.of(result) - metric.of(front[-1])) > 0:
            front.append(result)
    return front


@dataclass(frozen=True)
class Effect:
    """Mean of the finished results that have one value of a dimension.

    Attributes:
        name: of the value, e.g. N = 2.
        mean: of the ranking metric, scaled as in the reports.
        error: standard error of the mean; nan for one result.
        count: number of results.
    """

    name: str
    mean: float
    error: float
    count: int


def mean_effect(name: str, results: Sequence[PointResult], metric: RankingMetric) -> Effect:
    values = [metric.of(r) for r in results]
    return Effect(name, sum(values) / len(values), standard_error(values), len(values))


def instance_effects(results: Sequence[PointResult]) -> list[Effect]:
    """The effect of each N; empty if there is one N only."""
    finished, metric = finished_results(results), ranking_metric(results)
    counts = sorted({r.point.instances for r in finished})
    groups = [(n, [r for r in finished if r.point.instances == n]) for n in counts]
    effects = [mean_effect(f"N = {n}", group, metric) for n, group in groups]
    return effects if len(counts) > 1 else []


def place_effects(results: Sequence[PointResult]) -> list[tuple[Effect, Effect]]:
    """For each place: the effect of a MIMB there, and of none there; N > 1 only."""
    metric, effects = ranking_metric(results), []
    finished = [r for r in finished_results(results) if r.point.places]
    for place in sorted({place for r in finished for place in r.point.places}):
        there = [r for r in finished if place in r.point.places]
        elsewhere = [r for r in finished if place not in r.point.places]
        if elsewhere:
            name = f"place {place}"
            effects.append((mean_effect(name, there, metric), mean_effect(name, elsewhere, metric)))
    return effects
