"""The search as plain data: what ``search.json`` holds, and the rows of its tables."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mipnet.config import Config
from mipnet.evaluation.occlusion import occlusion_ap
from mipnet.formats import percent, short_duration
from mipnet.run_folder import RESULTS, Run
from tune.ranking import Measure, Result, cost_unit, finished, measure_of, pareto_front
from tune.records import TRIAL
from tune.rungs import Trial


@dataclass(frozen=True)
class Summary:
    """All that the reports show.

    Attributes:
        search: its run: name, folder, configuration, what was asked for.
        results: ranked.
        next_commands: what to run now.
    """

    search: Run
    results: Sequence[Result]
    next_commands: Sequence[str] = ()

    @property
    def seconds(self) -> float:
        """Of all trainings."""
        return sum(r.seconds for r in self.results)

    @property
    def metric(self) -> str:
        """What they are ranked by: the occlusion AP of the split that is tuned on."""
        data = self.search.config.data
        split, source = data.tune, data.boxes[-1].partition("=")[0]
        names = [f"{split}/{source}/merged/{metric}" for metric in ("AP", "AP_overlap", "AP_hard")]
        return occlusion_ap(data, dict.fromkeys(names, 0.0)).name

    @property
    def measure(self) -> Measure:
        return measure_of(self.results)

    @property
    def front(self) -> list[Result]:
        return pareto_front(self.results)

    @property
    def best(self) -> Result | None:
        return next(iter(finished(self.results)), None)

    @property
    def baseline(self) -> Result | None:
        return next((r for r in finished(self.results) if r.point.instances == 1), None)


def best_config(search: Run, result: Result) -> Config:
    """What ``mipnet train --config`` is given to train the best seed of a result again."""
    config = result.point.applied(search.config, best_trial(result)[0].seed)
    return with_pair(config, result)


def with_pair(config: Config, result: Result) -> Config:
    """``config`` with the γ and NMS threshold that a result chose."""
    evaluation = replace(config.evaluation, discount=result.discount, oks_nms=result.oks_nms)
    return replace(config, evaluation=evaluation)


def best_trial(result: Result) -> tuple[Trial, Run]:
    """The seed with the best score."""
    return max(result.alive, key=lambda item: item[0].scores[max(item[0].scores)].order)


def to_json(summary: Summary) -> str:
    """``search.json``: all configurations, ranked, and what they came to."""
    search, best, front = summary.search, summary.best, summary.front
    content = {
        "search": search.name,
        "finished": bool(search.state.get("over")),
        "metric": summary.metric,
        **search.state.get("asked", {}),
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
                "occlusion_AP": number(r.score.ap) if r.score else None,
                "standard_error": number(r.error),
                "loss": number(r.score.loss) if r.score else None,
                "multiply_adds": r.cost,
                "parameters": r.parameters,
                "pareto": r in front,
                "seconds": round(r.seconds, 1),
                "trials": [trial_entry(trial, run) for trial, run in r.trials],
            }
            for rank, r in enumerate(summary.results, 1)
        ],
        "held_out": held_out(summary),
    }
    return json.dumps(content, indent=2) + "\n"


def trial_entry(trial: Trial, run: Run) -> dict[str, Any]:
    return {
        "name": trial.name,
        "seed": trial.seed,
        "folder": run.folder.uri,
        "mlflow_run": run.state.get("mlflow_run", ""),
        "scores": {
            str(epochs): {"occlusion_AP": number(score.ap), "loss": number(score.loss)}
            for epochs, score in trial.scores.items()
        },
        "choices": run.state[TRIAL].get("choices", []),
        "failed": trial.failed,
    }


def number(value: float) -> float | None:
    """JSON has neither nan nor inf."""
    return value if math.isfinite(value) else None


def held_out(summary: Summary) -> list[dict[str, Any]]:
    """The splits that nothing was chosen on: merged AP of the best and of the baseline, mean over seeds."""
    rows: list[dict[str, Any]] = []
    for role, result in (("best", summary.best), ("baseline", summary.baseline)):
        found = [metrics for _, run in result.trials if (metrics := held_out_metrics(run))] if result else []
        for name in found[0] if found else ():
            split, source, view, metric = name.split("/")
            if (view, metric) == ("merged", "AP"):
                values = [metrics[name] for metrics in found if name in metrics]
                row = {"role": role, "split": split, "boxes": source, "AP": sum(values) / len(values)}
                rows.append(row | {"seeds": len(values)})
    return rows


def held_out_metrics(run: Run) -> dict[str, float]:
    if not run.state.get(TRIAL, {}).get("evaluated"):
        return {}
    return json.loads(run.folder.read(f"{RESULTS}/metrics.json"))


Column = tuple[str, Callable[[Result], str]]

DIMENSIONS: dict[str, Callable[[Result], str]] = {
    "N": lambda r: str(r.point.instances),
    "places": lambda r: ", ".join(map(str, r.point.places)),
    "r": lambda r: str(r.point.reduction),
    "learning rate": lambda r: f"{r.point.learning_rate:g}",
    "γ": lambda r: f"{r.discount:g}",
    "NMS": lambda r: f"{r.oks_nms:g}",
}
OF_A_MIMB = ("places", "r", "γ")  # make no difference to a baseline


def columns(results: Sequence[Result]) -> list[Column]:
    """The table's columns; a dimension that was not searched is left out."""

    def dimension(name: str) -> Column:
        return name, lambda r: DIMENSIONS[name](r) if r.point.places or name not in OF_A_MIMB else "–"

    searched = [
        (name, cell)
        for name, cell in map(dimension, DIMENSIONS)
        if name in ("N", "places") or len({cell(r) for r in results} - {"–"}) > 1
    ]
    unit, unit_name = cost_unit(results)
    of_seeds: list[Column] = [("± SE", lambda r: percent(r.error)), ("seeds", seeds)]
    return [
        *searched,
        ("occlusion AP", lambda r: percent(r.score.ap if r.score else None)),
        *(of_seeds if any(len(r.trials) > 1 for r in results) else []),
        ("loss λ = 0", lambda r: f"{r.score.loss:.4f}" if r.score else "–"),
        ("epochs", lambda r: str(r.epochs)),
        (f"{unit_name} mult-adds", lambda r: f"{r.cost / unit:.3g}"),
        ("parameters", lambda r: f"{r.parameters / 1e6:.3g} M"),
        ("time", lambda r: short_duration(r.seconds)),
        ("status", lambda r: r.status),
    ]


def seeds(result: Result) -> str:
    alive, all_of_them = len(result.alive), len(result.trials)
    return f"{alive} of {all_of_them}" if alive < all_of_them else str(alive)


def kept(results: Sequence[Result]) -> str:
    """The dimensions that no column shows, in words."""
    if not results:
        return ""
    shown = dict(columns(results))
    first = next((r for r in results if r.point.places), results[0])
    words = {"r": "r = ", "learning rate": "learning rate ", "γ": "γ = ", "NMS": "NMS threshold "}
    return ", ".join(words[name] + DIMENSIONS[name](first) for name in words if name not in shown)


def failures(results: Sequence[Result]) -> list[tuple[str, str]]:
    return [(trial.name, trial.failed) for r in results for trial, _ in r.trials if trial.failed]
