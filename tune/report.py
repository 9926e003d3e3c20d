"""The search's reports: Markdown to paste, and one HTML file with tables, plots and all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from mipnet.config import to_yaml
from mipnet.evaluation.occlusion import SCORE
from mipnet.formats import aligned, duration, gain, percent
from mipnet.run_folder import Run
from mipnet.visualization.curves import Curve
from mipnet.visualization.html_page import Tile, document, render
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
)
from tune.records import TRIAL
from tune.tables import Summary, best_config, columns, failures, held_out, kept

LEAST_SPREAD = 0.02
"""AP between the palest and the darkest cell of a table, if not more: noise shall not look like an effect."""


def markdown(summary: Summary) -> str:
    """The table and the figures in words."""
    results, best = summary.results, summary.best
    return render(
        "search.md.j2",
        "tune",
        summary=summary,
        states=states(results),
        figure=came_to(best, summary) if best else "",
        columns=columns(results),
        kept=kept(results),
        by_instances=effects_of_instances(results),
        by_place=effects_of_places(results),
        held_out=held_out(summary),
        failures=failures(results),
    )


def text(summary: Summary) -> str:
    """The end of the search for the terminal."""
    results, best, search = summary.results, summary.best, summary.search
    header = columns(results)
    rows = [["#", *(name for name, _ in header)]]
    rows += [[str(rank), *(cell(r) for _, cell in header)] for rank, r in enumerate(results, 1)]
    lines = aligned(rows, 0)
    lines.insert(1, "-" * len(lines[0]))
    lines += ["", f"ranked by the {summary.metric}"]
    if words := kept(results):
        lines.append(f"all of them: {words}")
    if best:
        lines += ["", f"best      {best.point.words}: {came_to(best, summary)}"]
        lines.append(f"config    {search.folder.path('best.yaml')}")
    else:
        lines += ["", "no trial came to its end"]
    lines.append(f"report    {search.folder.path('report.html')}")
    if "version" in search.state:
        lines.append(f"registry  {search.config.tracking.model_name} version {search.state['version']}")
    lines += [f"next      {command}" for command in summary.next_commands[:1]]
    return "\n".join(["", *lines])


def states(results: Sequence[Result]) -> str:
    counts = Counter(r.status for r in results)
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or "no trial yet"


def came_to(result: Result, summary: Summary) -> str:
    """The figure that ranked it, in words."""
    measure = summary.measure
    return f"{measure.title} {measure.text(result)}{plus_minus(result) if measure is AP else ''}"


def plus_minus(result: Result) -> str:
    return f" ± {percent(result.error)}" if result.error == result.error else ""


def html(summary: Summary, date: datetime | None = None) -> str:
    """One page that needs no other file and no network."""
    search, results, best = summary.search, summary.results, summary.best
    return document(
        "search",
        search.config,
        date,
        facts(summary),
        notices(summary),
        package="tune",
        name=search.name,
        summary=summary,
        tiles=tiles(summary),
        columns=columns(results),
        kept=kept(results),
        cost=cost_plot(results),
        effects=effect_plots(results),
        curves=learning(results),
        pairs=pairs_of(results),
        held_out=held_out_lines(summary),
        failures=failures(results),
        yaml=to_yaml(best_config(search, best)) if best else "",
        places={
            "search": search.folder.uri,
            "trials": search.folder.path("runs"),
            "best configuration": search.folder.path("best.yaml"),
        },
    )


def facts(summary: Summary) -> list[tuple[str, str]]:
    asked = summary.search.state.get("asked", {})
    halving = asked.get("halving")
    return [
        ("space", str(asked.get("space_name", ""))),
        ("sampler", str(asked.get("sampler", ""))),
        ("halving", f"rungs at epochs {', '.join(map(str, halving['rungs']))}" if halving else "none"),
        ("configurations", states(summary.results)),
        ("trainings", str(sum(len(r.trials) for r in summary.results))),
        ("epochs", str(summary.search.config.train.epochs)),
        ("training took", duration(summary.seconds)),
    ]


def notices(summary: Summary) -> list[str]:
    """What a reader must know before believing the figures."""
    done, found = finished(summary.results), []
    data = summary.search.config.data
    if not summary.search.state.get("over"):
        found.append("The search is not over: the same command goes on with it.")
    if len(done) > 1 and summary.measure is LOSS:
        found.append(
            "No configuration finds people yet, or all find the same: AP cannot rank them. They are ranked "
            "by the loss of λ = 0 over the last epoch, which the plots show instead."
        )
    if done and not any(len(r.trials) > 1 for r in summary.results):
        found.append(
            "One seed each: the spread between runs is not known, and may be larger than the differences. "
            "--seeds 3 tells."
        )
    if data.tune in data.evaluate:
        found.append(f"{data.tune} is also a split of the final tables: nothing there is held out.")
    return found


def tiles(summary: Summary) -> list[Tile]:
    best, baseline, front = summary.best, summary.baseline, summary.front
    if best is None:
        return []
    point, ap = best.point, best.score.ap
    below = (
        f"γ = {best.discount:g}, NMS {best.oks_nms:g}, r = {point.reduction}, "
        f"learning rate {point.learning_rate:g}"
    )
    found = [Tile("best configuration", point.words, below, "")]
    if summary.measure is LOSS:
        found.append(Tile(f"its {LOSS.title}", LOSS.text(best), f"{summary.metric}: {percent(ap)}", ""))
    else:
        below = f"loss of λ = 0: {LOSS.text(best)}"
        found.append(Tile(f"its {summary.metric}", percent(ap), below, plus_minus(best)))
    if baseline and baseline is not best:
        below = f"baseline {percent(baseline.score.ap)}; {best.cost / baseline.cost:.2f} × its multiply-adds"
        found.append(Tile("over the baseline", gain(ap - baseline.score.ap), below))
    unit, unit_name = cost_unit(summary.results)
    costs = [f"{r.cost / unit:.3g} · {unit_name}" for r in (front[0], front[-1])]
    below = (f"from {costs[0]} to {costs[1]}" if len(front) > 1 else costs[0]) + " multiply-adds"
    return [*found, Tile("on the Pareto front", str(len(front)), below, "")]


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
    scores = {name: validations(run) for name, run in trials.items()}
    lost = {name: losses(run) for name, run in trials.items()}
    plots = [
        curves_plot("Validation occlusion AP", scores, "percent"),
        curves_plot("Training loss of λ = 0", lost, "log"),
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
    """γ by NMS threshold, if more than one pair was tried: mean AP over the whole trainings with N > 1.

    Returns:
        ``thresholds``, and ``rows``: γ -> for each threshold ``mean``, how many configurations have
        ``chosen`` it, and the ``share`` of the full colour, 0 to 1.
    """
    done = [r for r in finished(results) if r.point.instances > 1]
    found: dict[tuple[float, float], list[float]] = {}
    for run in (run for r in done for _, run in r.alive):
        for choice in run.state[TRIAL].get("choices", []):
            pair = choice["discount"], choice["oks_nms"]
            found.setdefault(pair, []).append(choice["occlusion_AP"])
    if len(found) < 2:
        return None
    means = {pair: sum(values) / len(values) for pair, values in found.items()}
    chosen = Counter((r.discount, r.oks_nms) for r in done)
    most, least = max(means.values()), min(means.values())

    def cell(pair: tuple[float, float]) -> dict[str, float]:
        mean = means.get(pair, 0.0)
        share = max(1 - (most - mean) / max(most - least, LEAST_SPREAD), 0.0)
        return {"mean": mean, "chosen": chosen[pair], "share": share}

    discounts, thresholds = (sorted(set(values)) for values in zip(*found, strict=True))
    return {"thresholds": thresholds, "rows": {d: [cell((d, t)) for t in thresholds] for d in discounts}}


def held_out_lines(summary: Summary) -> dict[tuple[str, str], dict[str, float]]:
    """(split, box source) -> AP of "best" and "baseline"."""
    by_line: dict[tuple[str, str], dict[str, float]] = {}
    for row in held_out(summary):
        by_line.setdefault((row["split"], row["boxes"]), {})[row["role"]] = row["AP"]
    return by_line
