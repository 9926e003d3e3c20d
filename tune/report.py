"""The search's reports: Markdown to paste, and one HTML file with tables, plots and all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from mipnet.config import to_yaml
from mipnet.evaluation.occlusion import SCORE
from mipnet.report.curves import Curve
from mipnet.report.document import document
from mipnet.report.page import duration
from mipnet.runs import Run
from tune.plots import cost_plot, curves_plot, effect_plot, label_of
from tune.ranking import (
    AP,
    LOSS,
    Result,
    cost_unit,
    effects_of_instances,
    effects_of_places,
    finished,
    measure_of,
    pareto_front,
)
from tune.records import TRIAL
from tune.tables import (
    Summary,
    best_config,
    columns,
    counts,
    failures,
    held_out,
    kept,
    metric_name,
    pair_table,
)
from tune.template import BODY, STYLE

IN_COLOUR = 4
LEAST_SPREAD = 0.02
"""AP between the palest and the darkest cell of a table, if not more: noise shall not look like an effect."""


def markdown(summary: Summary) -> str:
    """The table and the figures in words."""
    results, best = summary.results, summary.best
    header = columns(results)
    rows = [[str(rank), *(cell(r) for _, cell in header)] for rank, r in enumerate(results, 1)]
    lines = [
        f"# Search {summary.search.name}",
        "",
        f"Ranked by the {summary.metric}, in percent. {states(results)}; "
        f"{duration(summary.seconds)} of training.",
        "",
    ]
    if best and best.score:
        lines += [f"**Best: {best.point.words}** with {came_to(best, results)}.", ""]
    lines += ["| # | " + " | ".join(name for name, _ in header) + " |", "|" + "---|" * (len(header) + 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    if words := kept(results):
        lines += ["", f"All of them: {words}."]
    front = pareto_front(results)
    if front:
        measure = measure_of(results)
        lines += ["", f"Pareto front of {measure.title} against multiply-adds, the cheapest first: "]
        lines[-1] += "; ".join(f"{r.point.words} ({measure.shown(measure.of(r))})" for r in front) + "."
    for title, effects in effect_lines(results):
        lines += ["", f"{title}: {effects}."]
    if table := held_out(summary):
        lines += ["", "Splits that nothing was chosen on, merged poses:", "", "| | split | boxes | AP |"]
        lines += ["|---|---|---|---|"]
        lines += [f"| {r['role']} | {r['split']} | {r['boxes']} | {100 * r['AP']:.1f} |" for r in table]
    if broken := failures(results):
        lines += ["", "Failed:", "", *(f"- {name}: {why}" for name, why in broken)]
    if summary.next_commands:
        lines += ["", "```", *summary.next_commands, "```"]
    return "\n".join(lines) + "\n"


def text(summary: Summary) -> str:
    """The end of the search for the terminal."""
    results, best, search = summary.results, summary.best, summary.search
    header = columns(results)
    rows = [["#", *(name for name, _ in header)]]
    rows += [[str(rank), *(cell(r) for _, cell in header)] for rank, r in enumerate(results, 1)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    lines += ["", f"ranked by the {summary.metric}"]
    if words := kept(results):
        lines.append(f"all of them: {words}")
    if best and best.score:
        lines += ["", f"best      {best.point.words}: {came_to(best, results)}"]
        lines.append(f"config    {search.folder.path('best.yaml')}")
    else:
        lines += ["", "no trial came to its end"]
    lines.append(f"report    {search.folder.path('report.html')}")
    if "version" in search.state:
        lines.append(f"registry  {search.config.tracking.model_name} version {search.state['version']}")
    lines += [f"next      {command}" for command in summary.next_commands[:1]]
    return "\n".join(["", *lines])


def states(results: Sequence[Result]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts(results).items()) or "no trial yet"


def came_to(result: Result, results: Sequence[Result]) -> str:
    """The figure that ranked it, in words."""
    measure = measure_of(results)
    error = plus_minus(result) if measure is AP else ""
    return f"{measure.title} {measure.shown(measure.of(result))}{error}"


def plus_minus(result: Result) -> str:
    return f" ± {100 * result.error:.1f}" if result.error == result.error else ""


def effect_lines(results: Sequence[Result]) -> list[tuple[str, str]]:
    """The effects as text."""
    found, measure = [], measure_of(results)
    if by_n := effects_of_instances(results):
        words = (f"{e.name}: {measure.shown(e.mean)} ({e.count})" for e in by_n)
        found.append((f"Mean {measure.title} by N", "; ".join(words)))
    if by_place := effects_of_places(results):
        words = (
            f"{w.name}: {measure.shown(w.mean)} ({w.count}) with it, "
            f"{measure.shown(o.mean)} ({o.count}) without"
            for w, o in by_place
        )
        found.append((f"Mean {measure.title} by place", "; ".join(words)))
    return found


def html(summary: Summary, date: datetime | None = None) -> str:
    """One page that needs no other file and no network."""
    search, results, best = summary.search, summary.results, summary.best
    header = columns(results)
    front = {r.point for r in pareto_front(results)}
    return document(
        "search",
        BODY,
        style=STYLE,
        name=search.name,
        facts=facts(summary, date or datetime.now().astimezone()),
        notices=notices(summary),
        tiles=tiles(summary),
        metric=summary.metric,
        columns=[name for name, _ in header],
        rows=[
            {
                "rank": rank,
                "cells": [cell(r) for _, cell in header],
                "kind": f"{r.status}{' best' if r is best else ''}",
                "front": r.point in front,
            }
            for rank, r in enumerate(results, 1)
        ],
        kept=kept(results),
        cost=cost_plot(results),
        effects=effect_plots(results),
        curves=learning(results),
        pairs=pairs_of(results),
        held_out=held_out_rows(summary),
        both=summary.baseline is not None and summary.baseline is not best,
        failures=failures(results),
        yaml=to_yaml(best_config(search, best)) if best else "",
        next_commands=summary.next_commands,
        places={
            "search": search.folder.uri,
            "trials": search.folder.path("runs"),
            "best configuration": search.folder.path("best.yaml"),
        },
    )


def facts(summary: Summary, date: datetime) -> list[tuple[str, str]]:
    search = summary.search
    asked, config = search.state.get("asked", {}), search.config
    halving = asked.get("halving")
    return [
        ("date", f"{date:%Y-%m-%d %H:%M}"),
        ("preset", config.preset),
        ("space", str(asked.get("space_name", ""))),
        ("sampler", str(asked.get("sampler", ""))),
        ("halving", f"rungs at epochs {', '.join(map(str, halving['rungs']))}" if halving else "none"),
        ("configurations", states(summary.results)),
        ("trainings", str(sum(len(r.trials) for r in summary.results))),
        ("epochs", str(config.train.epochs)),
        ("training took", duration(summary.seconds)),
    ]


def notices(summary: Summary) -> list[str]:
    """What a reader must know before believing the figures."""
    results, found = summary.results, []
    data = summary.search.config.data
    if not summary.search.state.get("over"):
        found.append("The search is not over: the same command goes on with it.")
    if len(finished(results)) > 1 and measure_of(results) is LOSS:
        found.append(
            "No configuration finds people yet, or all find the same: AP cannot rank them. They are ranked "
            "by the loss of λ = 0 over the last epoch, which the plots show instead."
        )
    if finished(results) and not any(len(r.trials) > 1 for r in results):
        found.append(
            "One seed each: the spread between runs is not known, and may be larger than the differences. "
            "--seeds 3 tells."
        )
    if data.tune in data.evaluate:
        found.append(f"{data.tune} is also a split of the final tables: nothing there is held out.")
    if summary.search.config.preset == "debug":
        found.append("The preset debug only shows that everything runs: its figures mean nothing.")
    return found


def tiles(summary: Summary) -> list[dict[str, str]]:
    best, baseline = summary.best, summary.baseline
    if best is None or best.score is None:
        return []
    found = [
        {
            "title": "best configuration",
            "figure": best.point.words,
            "unit": "",
            "below": f"γ = {best.discount:g}, NMS {best.oks_nms:g}, r = {best.point.reduction}, "
            f"learning rate {best.point.learning_rate:g}",
        },
        {
            "title": f"its {metric_name(summary.search.config)}",
            "figure": f"{100 * best.score.ap:.1f}",
            "unit": plus_minus(best),
            "below": f"loss of λ = 0: {best.score.loss:.4f}",
        }
        if measure_of(summary.results) is not LOSS
        else {
            "title": f"its {LOSS.title}",
            "figure": LOSS.shown(best.score.loss),
            "unit": "",
            "below": f"{metric_name(summary.search.config)}: {100 * best.score.ap:.1f}",
        },
    ]
    if baseline and baseline.score and baseline is not best:
        gain = f"{100 * (best.score.ap - baseline.score.ap):+.1f}".replace("-", "−")
        below = f"baseline {100 * baseline.score.ap:.1f}; {best.cost / baseline.cost:.2f} × its multiply-adds"
        found.append({"title": "over the baseline", "figure": gain, "unit": "AP", "below": below})
    front = pareto_front(summary.results)
    unit, unit_name = cost_unit(summary.results)
    costs = [f"{r.cost / unit:.3g} · {unit_name}" for r in (front[0], front[-1])]
    below = (f"from {costs[0]} to {costs[1]}" if len(front) > 1 else costs[0]) + " multiply-adds"
    found.append({"title": "on the Pareto front", "figure": str(len(front)), "unit": "", "below": below})
    return found


def effect_plots(results: Sequence[Result]) -> list[Curve]:
    title = measure_of(results).title
    plots = [
        effect_plot(f"{title} by N", [[e] for e in effects_of_instances(results)], [""]),
        effect_plot(f"{title} by place", effects_of_places(results), ["with a MIMB there", "without"]),
    ]
    return [plot for plot in plots if plot]


def learning(results: Sequence[Result]) -> list[Curve]:
    """Validation and loss of every training over the epochs, the best ones in colour."""
    trials = {}
    for r in results:
        for trial, run in r.trials:
            seed = f", seed {trial.seed}" if len(r.trials) > 1 else ""
            trials[label_of(r, results) + seed] = run
    plots = [
        curves_plot(
            "Validation occlusion AP",
            {n: validations(run) for n, run in trials.items()},
            IN_COLOUR,
            "percent",
        ),
        curves_plot(
            "Training loss of λ = 0", {n: losses(run) for n, run in trials.items()}, IN_COLOUR, "log"
        ),
    ]
    return [plot for plot in plots if plot]


def validations(run: Run) -> tuple[list[float], list[float]]:
    """Epochs and occlusion AP of a training's validations."""
    per_epoch = run.state[TRIAL].get("steps_per_epoch")
    rows = sorted((row["step"], row[SCORE]) for row in run.state.get("validations", []) if SCORE in row)
    if not per_epoch:
        return [], []
    return [step / per_epoch for step, _ in rows], [score for _, score in rows]


def losses(run: Run) -> tuple[list[float], list[float]]:
    """Epochs and loss of λ = 0."""
    points = run.state[TRIAL].get("losses", [])
    return [epoch for epoch, _ in points], [loss for _, loss in points]


def pairs_of(results: Sequence[Result]) -> dict[str, Any] | None:
    """The grid of γ and NMS thresholds, if more than one pair was tried."""
    table = pair_table(results)
    if not table:
        return None
    discounts, thresholds = (sorted({pair[i] for pair in table}) for i in (0, 1))
    means = [mean for mean, _ in table.values()]
    most, spread = max(means), max(max(means) - min(means), LEAST_SPREAD)
    rows = []
    for discount in discounts:
        cells = []
        for threshold in thresholds:
            mean, chosen = table.get((discount, threshold), (0.0, 0))
            share = max(1 - (most - mean) / spread, 0.0)
            cells.append({"text": f"{100 * mean:.1f}", "chosen": chosen, "share": share})
        rows.append({"discount": f"{discount:g}", "cells": cells})
    return {"thresholds": [f"{t:g}" for t in thresholds], "rows": rows}


def held_out_rows(summary: Summary) -> list[dict[str, str]]:
    """Best beside baseline, split by split."""
    by_line: dict[tuple[str, str], dict[str, float]] = {}
    for row in held_out(summary):
        by_line.setdefault((row["split"], row["boxes"]), {})[row["role"]] = row["AP"]
    rows = []
    for (split, boxes), values in by_line.items():
        best, baseline = values.get("best"), values.get("baseline")
        gain = "" if best is None or baseline is None else f"{100 * (best - baseline):+.1f}".replace("-", "−")
        texts = ("–" if v is None else f"{100 * v:.1f}" for v in (best, baseline))
        rows.append(dict(zip(("best", "baseline"), texts, strict=True)) | {"gain": gain})
        rows[-1] |= {"split": split, "boxes": boxes}
    return rows
