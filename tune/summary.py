"""A search as plain data: ``search.json`` and the rows of the reports' tables."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mipnet.config import Config
from mipnet.evaluation.occlusion import occlusion_ap
from mipnet.formats import percent, short_duration
from mipnet.run_folder import RESULTS_FOLDER, Run
from tune.ranking import PointResult, RankingMetric, cost_unit, finished_results, pareto_front, ranking_metric
from tune.search_space import with_pair
from tune.successive_halving import Trial
from tune.trial_folders import FINISHED_KEY, SPEC_KEY, TRIAL_KEY


@dataclass(frozen=True)
class SearchSummary:
    """What the reports show.

    Attributes:
        search: its run: name, folder, configuration, state.
        results: ranked, the best first.
        next_commands: shell commands to suggest.
    """

    search: Run
    results: Sequence[PointResult]
    next_commands: Sequence[str] = ()

    @property
    def seconds(self) -> float:
        """Training time of all trials."""
        return sum(r.seconds for r in self.results)

    @property
    def selection_metric(self) -> str:
        """Name of the occlusion AP on the validation split, by which points are selected."""
        data = self.search.config.data
        split, source = data.val, data.boxes[-1].partition("=")[0]
        names = [f"{split}/{source}/merged/{metric}" for metric in ("AP", "AP_overlap", "AP_hard")]
        return occlusion_ap(data, dict.fromkeys(names, 0.0)).name

    @property
    def metric(self) -> RankingMetric:
        return ranking_metric(self.results)

    @property
    def front(self) -> list[PointResult]:
        return pareto_front(self.results)

    @property
    def finished(self) -> list[PointResult]:
        return finished_results(self.results)

    @property
    def best(self) -> PointResult | None:
        return next(iter(self.finished), None)

    @property
    def baseline(self) -> PointResult | None:
        return next((r for r in self.finished if r.point.instances == 1), None)

    @property
    def columns(self) -> list[Column]:
        """Title and cell function of each column; dimensions that were not searched are left out."""

        def cell_of(name: str) -> Callable[[PointResult], str]:
            cell, of_mimb = DIMENSION_CELLS[name], name in MIMB_DIMENSIONS
            return lambda r: cell(r) if r.point.places or not of_mimb else "–"

        searched: list[Column] = []
        for name, cell in [(name, cell_of(name)) for name in DIMENSION_CELLS]:
            if name in ("N", "places") or len({cell(r) for r in self.results} - {"–"}) > 1:
                searched.append((name, cell))
        unit, unit_name = cost_unit(self.results)
        of_seeds: list[Column] = [("± SE", lambda r: percent(r.error)), ("seeds", seed_count)]
        return [
            *searched,
            ("occlusion AP", lambda r: percent(r.score.ap if r.score else None)),
            *(of_seeds if any(len(r.trials) > 1 for r in self.results) else []),
            ("loss λ = 0", lambda r: f"{r.score.loss:.4f}" if r.score else "–"),
            ("epochs", lambda r: str(r.epochs)),
            (f"{unit_name} mult-adds", lambda r: f"{r.cost / unit:.3g}"),
            ("parameters", lambda r: f"{r.parameters / 1e6:.3g} M"),
            ("time", lambda r: short_duration(r.seconds)),
            ("status", lambda r: r.status),
        ]

    @property
    def constants(self) -> str:
        """The dimensions that have no column, and their values, in words."""
        if not self.results:
            return ""
        with_column = dict(self.columns)
        first = next((r for r in self.results if r.point.places), self.results[0])
        words = {"r": "r = ", "learning rate": "learning rate ", "γ": "γ = ", "NMS": "NMS threshold "}
        constant = [name for name in words if name not in with_column]
        return ", ".join(words[name] + DIMENSION_CELLS[name](first) for name in constant)

    @property
    def failures(self) -> list[tuple[str, str]]:
        """Name and reason of each."""
        return [(trial.name, trial.failed) for r in self.results for trial, _ in r.trials if trial.failed]

    @property
    def held_out(self) -> list[dict[str, Any]]:
        """AP on the splits that no choice depends on, of the best point and of the baseline.

        Returns:
            role (best or baseline), split, boxes, AP (merged poses, mean over seeds, 0 to 1), seeds.
        """
        rows: list[dict[str, Any]] = []
        for role, result in (("best", self.best), ("baseline", self.baseline)):
            trials = result.trials if result else ()
            by_seed = [metrics for _, run in trials if (metrics := held_out_metrics(run))]
            for name in by_seed[0] if by_seed else ():
                split, source, instance_mode, metric = name.split("/")
                if (instance_mode, metric) == ("merged", "AP"):
                    values = [metrics[name] for metrics in by_seed if name in metrics]
                    row = {"role": role, "split": split, "boxes": source, "AP": sum(values) / len(values)}
                    rows.append(row | {"seeds": len(values)})
        return rows


def best_config(search: Run, result: PointResult) -> Config:
    """The configuration with which ``mipnet train --config`` repeats the best seed of a result."""
    config = result.point.apply_to(search.config, best_trial(result)[0].seed)
    return with_pair(config, result.discount, result.oks_nms)


def best_trial(result: PointResult) -> tuple[Trial, Run]:
    """The seed with the best score."""
    return max(result.succeeded, key=lambda item: item[0].scores[max(item[0].scores)].rank_key)


def search_json(summary: SearchSummary) -> str:
    """The content of ``search.json``: all points, ranked, with their results. AP is 0 to 1."""
    search, best, front = summary.search, summary.best, summary.front
    content = {
        "search": search.name,
        "finished": bool(search.state.get(FINISHED_KEY)),
        "metric": summary.selection_metric,
        **search.state.get(SPEC_KEY, {}),
        "seconds": round(summary.seconds, 1),
        "mlflow_run": search.state.get("mlflow_run", ""),
        "best": best.point.name if best else None,
        "registered_version": search.state.get("version"),
        "configurations": [
            {
                "rank": rank,
                "name": r.point.name,
                **asdict(r.point),
                "discount": r.discount,
                "oks_nms": r.oks_nms,
                "status": r.status,
                "epochs": r.epochs,
                "occlusion_AP": finite_or_none(r.score.ap) if r.score else None,
                "standard_error": finite_or_none(r.error),
                "loss": finite_or_none(r.score.loss) if r.score else None,
                "multiply_adds": r.cost,
                "parameters": r.parameters,
                "pareto": r in front,
                "seconds": round(r.seconds, 1),
                "trials": [trial_entry(trial, run) for trial, run in r.trials],
            }
            for rank, r in enumerate(summary.results, 1)
        ],
        "held_out": summary.held_out,
    }
    return json.dumps(content, indent=2) + "\n"


def trial_entry(trial: Trial, run: Run) -> dict[str, Any]:
    """A trial in ``search.json``."""
    return {
        "name": trial.name,
        "seed": trial.seed,
        "folder": run.folder.uri,
        "mlflow_run": run.state.get("mlflow_run", ""),
        "scores": {
            str(epochs): {"occlusion_AP": finite_or_none(score.ap), "loss": finite_or_none(score.loss)}
            for epochs, score in trial.scores.items()
        },
        "choices": run.state[TRIAL_KEY].get("choices", []),
        "failed": trial.failed,
    }


def finite_or_none(value: float) -> float | None:
    """JSON has no nan and no inf."""
    return value if math.isfinite(value) else None


def held_out_metrics(run: Run) -> dict[str, float]:
    """Metrics of the final evaluation of a run; empty if there was none."""
    if not run.state.get(TRIAL_KEY, {}).get("evaluated"):
        return {}
    return json.loads(run.folder.read(f"{RESULTS_FOLDER}/metrics.json"))


Column = tuple[str, Callable[[PointResult], str]]

DIMENSION_CELLS: dict[str, Callable[[PointResult], str]] = {
    "N": lambda r: str(r.point.instances),
    "places": lambda r: ", ".join(map(str, r.point.places)),
    "r": lambda r: str(r.point.reduction),
    "learning rate": lambda r: f"{r.point.learning_rate:g}",
    "γ": lambda r: f"{r.discount:g}",
    "NMS": lambda r: f"{r.oks_nms:g}",
}
MIMB_DIMENSIONS = ("places", "r", "γ")  # without meaning for the baseline


def seed_count(result: PointResult) -> str:
    succeeded, total = len(result.succeeded), len(result.trials)
    return f"{succeeded} of {total}" if succeeded < total else str(succeeded)
