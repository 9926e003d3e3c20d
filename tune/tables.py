"""The search as plain data: what ``search.json`` holds, and the rows of its tables."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mipnet.config import Config
from mipnet.evaluation.occlusion import occlusion_ap
from mipnet.report.page import duration
from mipnet.runs import RESULTS, Run
from tune.ranking import FINISHED, Result, cost_unit, finished, pareto_front
from tune.records import TRIAL


@dataclass(frozen=True)
class Summary:
    """All that the reports show.

    Attributes:
        search: its run: name, folder, configuration, what was asked for.
        results: ranked.
        seconds: of all trainings.
        metric: what they are ranked by, in words.
        next_commands: what to run now.
    """

    search: Run
    results: Sequence[Result]
    seconds: float
    metric: str
    next_commands: Sequence[str]

    @property
    def best(self) -> Result | None:
        return next(iter(finished(self.results)), None)

    @property
    def baseline(self) -> Result | None:
        return next((r for r in finished(self.results) if r.point.instances == 1), None)


def summarise(search: Run, results: Sequence[Result], next_commands: Sequence[str] = ()) -> Summary:
    return Summary(
        search, results, sum(r.seconds for r in results), metric_name(search.config), next_commands
    )


def metric_name(config: Config) -> str:
    """What trials are ranked by: the occlusion AP of the split that is tuned on."""
    split, source = config.data.tune, config.data.boxes[-1].partition("=")[0]
    names = [f"{split}/{source}/merged/{metric}" for metric in ("AP", "AP_overlap", "AP_hard")]
    return occlusion_ap(config.data, dict.fromkeys(names, 0.0)).name


def best_config(search: Run, result: Result) -> Config:
    """What ``mipnet train --config`` is given to train the best seed of a result again."""
    config = result.point.applied(search.config, best_trial(result)[0].seed)
    return with_pair(config, result)


def with_pair(config: Config, result: Result) -> Config:
    """``config`` with the γ and NMS threshold that a result chose."""
    evaluation = replace(config.evaluation, discount=result.discount, oks_nms=result.oks_nms)
    return replace(config, evaluation=evaluation)


def best_trial(result: Result) -> tuple[Any, Run]:
    """The seed with the best score."""
    alive = [(trial, run) for trial, run in result.trials if not trial.failed]
    return max(alive, key=lambda item: item[0].scores[max(item[0].scores)].order)


def to_json(summary: Summary) -> str:
    """``search.json``: all configurations, ranked, and what they came to."""
    front = {r.point for r in pareto_front(summary.results)}
    search, best = summary.search, summary.best
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
                "pareto": r.point in front,
                "seconds": round(r.seconds, 1),
                "trials": [trial_entry(trial, run) for trial, run in r.trials],
            }
            for rank, r in enumerate(summary.results, 1)
        ],
        "held_out": held_out(summary),
    }
    return json.dumps(content, indent=2) + "\n"


def trial_entry(trial: Any, run: Run) -> dict[str, Any]:
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


def columns(results: Sequence[Result]) -> list[Column]:
    """The table's columns; a dimension that was not searched is left out."""
    dimensions: list[Column] = [
        ("N", lambda r: str(r.point.instances)),
        ("places", lambda r: ", ".join(map(str, r.point.places)) or "–"),
        ("r", lambda r: str(r.point.reduction) if r.point.places else "–"),
        ("learning rate", lambda r: f"{r.point.learning_rate:g}"),
        ("γ", lambda r: f"{r.discount:g}" if r.point.instances > 1 else "–"),
        ("NMS", lambda r: f"{r.oks_nms:g}"),
    ]
    searched = [
        c for c in dimensions if c[0] in ("N", "places") or len({c[1](r) for r in results} - {"–"}) > 1
    ]
    unit, unit_name = cost_unit(results)
    several = any(len(r.trials) > 1 for r in results)
    return [
        *searched,
        ("occlusion AP", lambda r: f"{100 * r.score.ap:.1f}" if r.score else "–"),
        *([("± SE", lambda r: f"{100 * r.error:.1f}" if r.error == r.error else "–")] if several else []),
        *([("seeds", seeds)] if several else []),
        ("loss λ = 0", lambda r: f"{r.score.loss:.4f}" if r.score else "–"),
        ("epochs", lambda r: str(r.epochs)),
        (f"{unit_name} mult-adds", lambda r: f"{r.cost / unit:.3g}"),
        ("parameters", lambda r: f"{r.parameters / 1e6:.3g} M"),
        ("time", lambda r: minutes(r.seconds)),
        ("status", lambda r: r.status),
    ]


def minutes(seconds: float) -> str:
    """As short as a table wants it: 41 s, 6 min, 3 h 05 min."""
    return f"{round(seconds / 60)} min" if 100 <= seconds < 3600 else duration(seconds)


def seeds(result: Result) -> str:
    alive = sum(not trial.failed for trial, _ in result.trials)
    return f"{alive} of {len(result.trials)}" if alive < len(result.trials) else str(alive)


def kept(results: Sequence[Result]) -> str:
    """The dimensions that no column shows, in words."""
    shown = {name for name, _ in columns(results)}
    first = next((r for r in results if r.point.places), results[0]) if results else None
    if first is None:
        return ""
    all_of_them = {
        "r": f"r = {first.point.reduction}",
        "learning rate": f"learning rate {first.point.learning_rate:g}",
        "γ": f"γ = {first.discount:g}",
        "NMS": f"NMS threshold {first.oks_nms:g}",
    }
    return ", ".join(words for name, words in all_of_them.items() if name not in shown)


def pair_table(results: Sequence[Result]) -> dict[tuple[float, float], tuple[float, int]]:
    """(γ, NMS threshold) -> mean AP over the whole trainings with N > 1, and how many chose it."""
    sums: dict[tuple[float, float], list[float]] = {}
    for r in finished(results):
        if r.point.instances > 1:
            for trial, run in r.trials:
                for choice in run.state[TRIAL].get("choices", []) if not trial.failed else ():
                    sums.setdefault((choice["discount"], choice["oks_nms"]), []).append(
                        choice["occlusion_AP"]
                    )
    chosen = [(r.discount, r.oks_nms) for r in results if r.status == FINISHED and r.point.instances > 1]
    means = {pair: (sum(values) / len(values), chosen.count(pair)) for pair, values in sorted(sums.items())}
    return means if len(means) > 1 else {}


def failures(results: Sequence[Result]) -> list[tuple[str, str]]:
    return [(trial.name, trial.failed) for r in results for trial, _ in r.trials if trial.failed]


def counts(results: Sequence[Result]) -> Mapping[str, int]:
    """Status -> how many configurations."""
    found: dict[str, int] = {}
    for r in results:
        found[r.status] = found.get(r.status, 0) + 1
    return found
